package ledger

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/rotation"
)

// What is asked for stays in L1, however many others come by once.
func TestL1KeepsWhatIsUsed(t *testing.T) {
	const places, hot = 1000, 100
	c := newL1(places)
	for i := range hot {
		c.offer(hotView(i), time.Now(), Mark{}, true)
	}
	for i := range 20 * places {
		c.get(hotKey(i % hot))
		c.offer(&rotation.View{Key: hotKey(1_000_000 + i), Gone: true}, time.Now(), Mark{}, true)
	}
	c.known.CleanUp()
	if n := c.known.EstimatedSize(); n > places {
		t.Errorf("%d accounts in %d places", n, places)
	}
	missing := 0
	for i := range hot {
		if c.get(hotKey(i)) == nil {
			missing++
		}
	}
	if missing > hot/20 {
		t.Errorf("%d of %d accounts that are asked for all the time are not in L1", missing, hot)
	}
}

// A bump of an account that nobody asked for takes no place in L1.
func TestL1BumpsTakeNoPlace(t *testing.T) {
	c := newL1(10)
	if !c.heard(hotKey(1), 7) || c.heard(hotKey(1), 7) || c.heard(hotKey(1), 6) || !c.heard(hotKey(1), 8) {
		t.Error("a bump is news when its rev is above those before")
	}
	if n := c.known.EstimatedSize(); n != 0 {
		t.Errorf("%d accounts in L1", n)
	}
	if c.rev(hotKey(1)) != 8 || c.mark(hotKey(1)).floor != 8 {
		t.Errorf("the bump is not remembered: rev %d", c.rev(hotKey(1)))
	}
	c.offer(hotView(1), time.Now(), Mark{}, false) // rev 5
	if c.get(hotKey(1)).Servable() {
		t.Error("a view below the bump is served")
	}
	c.offer(hotView(1), time.Now(), Mark{floor: 8}, true)
	if !c.get(hotKey(1)).Servable() || c.floors.of(hotKey(1)) != 0 {
		t.Error("the store has refuted the bump, and it stands")
	}
}

// A reply with another source is what encoding it anew gives, whatever the
// account, the token and the extra fields look like.
func TestBodyFrom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{`"source":"l1"`, `\"source":"`, `source`, `,"source":"x"}`}))
		v := &rotation.View{
			Key: must(account.NewKey("p", rapid.StringMatching(`[a-z]{1,5}(source)?`).Draw(t, "id"))), Version: 7, Rev: 9, Status: account.Active,
			Token: account.NewSecret(rapid.StringN(1, -1, -1).Draw(t, "token") + text.Draw(t, "more")), TokenType: text.Draw(t, "type"),
		}
		raw, err := json.Marshal(map[string]string{"source": text.Draw(t, "extra")})
		if err != nil {
			t.Fatal(err)
		}
		v.Extra = account.Extra{"source": raw, "nested": json.RawMessage(`{"source":"l1"}`)}
		lean, body := encode(v)
		k := &Known{View: lean, body: body}
		for _, source := range []events.Source{events.SourceL1, events.SourceShared, events.SourceStore, events.SourceRefresh} {
			if got, want := k.BodyFrom(source), v.Reply(source).Encode(); !bytes.Equal(got, want) {
				t.Fatalf("got\n%s, want\n%s", got, want)
			}
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Bumps of very many accounts are forgotten, the oldest first.
func TestFloorsAreBounded(t *testing.T) {
	var f floors
	f.init()
	f.raise(hotKey(0), 3)
	for i := range maxFloors / 2 {
		f.raise(hotKey(1+i), 1)
	}
	if f.of(hotKey(0)) != 3 {
		t.Error("forgotten, with half as many after it as are remembered")
	}
	for i := range 3 * maxFloors {
		f.raise(hotKey(1+i), account.Rev(2))
	}
	n := 0
	for i := range f.shards {
		n += len(f.shards[i].last) + len(f.shards[i].before)
	}
	if n > 2*maxFloors || f.of(hotKey(0)) != 0 {
		t.Errorf("%d accounts are remembered, the first with rev %d", n, f.of(hotKey(0)))
	}
}

// The reply that is kept has the token in it, once; also one that JSON spells
// otherwise.
func TestL1ReplyHoldsTheToken(t *testing.T) {
	for _, token := range []string{"plain", "with \"quotes\" & <brackets>"} {
		v := hotView(1)
		v.Token = account.NewSecret(token)
		c := newL1(10)
		held, _ := c.offer(v, time.Now(), Mark{}, true)
		k := c.get(v.Key)
		if held.Token.Reveal() != token || k.View != held || string(k.Body()) != string(v.Reply("l1").Encode()) {
			t.Errorf("%q is kept as %q in %s", token, held.Token.Reveal(), k.Body())
		}
	}
}
