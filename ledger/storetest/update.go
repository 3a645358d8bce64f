package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
)

// contenders is how many goroutines fight for one document.
const contenders = 50

// testGuards tries every combination of guard fields on a document with and
// one without a rotation; account.Guard.Holds says what must come out.
func testGuards(t *testing.T, s ledger.Store) {
	with := Full(mustKey("openai", "with"), 5)
	without := Full(mustKey("openai", "without"), 5)
	without.Rotation = nil
	for _, doc := range []account.Account{with, without} {
		must(t, s.Create(t.Context(), doc))
		for _, g := range guards(with) {
			before, err := s.Get(t.Context(), doc.Key)
			must(t, err)
			change := account.Change{Fields: account.FieldLabel, To: account.Account{Label: show(g)}, At: now()}
			after, err := s.Update(t.Context(), doc.Key, g, change)
			want := before
			if g.Holds(&before) {
				must(t, err)
				change.Apply(&want)
				same(t, after, want)
			} else {
				wantErr(t, "Update of "+doc.Key.String()+" with guard "+show(g), err, ledger.ErrConflict)
			}
			stored, err := s.Get(t.Context(), doc.Key)
			must(t, err)
			same(t, stored, want)
			if t.Failed() {
				t.Fatalf("guard %s on %s", show(g), doc.Key)
			}
		}
	}
}

func guards(a account.Account) (out []account.Guard) {
	for _, version := range []account.Version{0, a.Version, a.Version + 1} {
		for _, rev := range []account.Rev{0, a.Rev, a.Rev - 1} {
			for _, rotation := range []*string{nil, account.NoRotation(), new(a.Rotation.ID), new("other")} {
				for _, heartbeat := range []*int64{nil, new(a.Rotation.Heartbeat), new(a.Rotation.Heartbeat + 1), new(int64(0))} {
					out = append(out, account.Guard{Version: version, Rev: rev, Rotation: rotation, Heartbeat: heartbeat})
				}
				for _, credentials := range [][]byte{a.Credentials, []byte("others"), {}} {
					out = append(out, account.Guard{Version: version, Rev: rev, Rotation: rotation, Credentials: credentials})
				}
			}
		}
	}
	return out
}

func show(g account.Guard) string {
	rotation, heartbeat := "any", "any"
	if g.Rotation != nil {
		rotation = fmt.Sprintf("%q", *g.Rotation)
	}
	if g.Heartbeat != nil {
		heartbeat = fmt.Sprint(*g.Heartbeat)
	}
	return fmt.Sprintf("{version %d, rev %d, rotation %s, heartbeat %s, credentials %q}", g.Version, g.Rev, rotation, heartbeat, g.Credentials)
}

// testFields sets each group of fields alone, and all together: to other
// values and to zero ones. account.Change.Apply says what must come out.
func testFields(t *testing.T, s ledger.Store) {
	all := account.Fields(1)
	for account.FieldDeleted > all {
		all |= all << 1
	}
	cases := map[string]account.Change{
		"nothing":          {},
		"rev alone":        {BumpRev: true},
		"everything":       {Fields: all, BumpRev: true},
		"commit of tokens": {Fields: account.FieldVersion | account.FieldCredentials | account.FieldFingerprints | account.FieldRotation | account.FieldAnnounce, BumpRev: true},
	}
	for f := account.FieldVersion; f <= account.FieldDeleted; f <<= 1 {
		cases[fmt.Sprintf("group %b", f)] = account.Change{Fields: f}
	}
	n := 0
	for name, change := range cases {
		for _, zero := range []bool{false, true} {
			n++
			key := mustKey("openai", fmt.Sprint("a", n))
			t.Run(fmt.Sprintf("%s zero=%v", name, zero), func(t *testing.T) {
				old := Full(key, 3)
				old.SchemaVersion = 0
				must(t, s.Create(t.Context(), old))
				change.To, change.At = Full(mustKey("other", "key"), 8), now().Add(time.Millisecond)
				if zero {
					change.To = account.Account{Version: 1, Status: account.Active}
				}
				want := old.Clone()
				change.Apply(&want)
				got, err := s.Update(t.Context(), key, account.Guard{}, change)
				must(t, err)
				same(t, got, want)
				got, err = s.Get(t.Context(), key)
				must(t, err)
				same(t, got, want)
			})
		}
	}
}

// testSetRev sets the rev to one above that of the guard, as a login into a
// restored store does.
func testSetRev(t *testing.T, s ledger.Store) {
	key := mustKey("openai", "a")
	want := Full(key, 3)
	must(t, s.Create(t.Context(), want))
	change := account.Change{Fields: account.FieldRev | account.FieldLabel, To: account.Account{Rev: want.Rev + 10, Label: "l"}, At: now()}
	_, err := s.Update(t.Context(), key, account.Guard{Rev: want.Rev - 1}, change)
	wantErr(t, "Update with another rev", err, ledger.ErrConflict)
	got, err := s.Update(t.Context(), key, account.Guard{Rev: want.Rev}, change)
	must(t, err)
	change.Apply(&want)
	same(t, got, want)
	got, err = s.Get(t.Context(), key)
	must(t, err)
	same(t, got, want)
}

func testOneCreateWins(t *testing.T, s ledger.Store) {
	key := mustKey("openai", "a")
	won := contend(t, func(ctx context.Context, i int) error {
		a := Minimal(key)
		a.Label = fmt.Sprint(i)
		return s.Create(ctx, a)
	})
	got, err := s.Get(t.Context(), key)
	must(t, err)
	if got.Label != fmt.Sprint(won) {
		t.Errorf("contender %d won, the document is that of %s", won, got.Label)
	}
}

func testOneRotationWins(t *testing.T, s ledger.Store) {
	key := mustKey("openai", "a")
	must(t, s.Create(t.Context(), Minimal(key)))
	won := contend(t, func(ctx context.Context, i int) error {
		to := account.Account{Rotation: &account.Rotation{ID: fmt.Sprint(i), State: account.RotationBegun, StartedAt: now()}}
		got, err := s.Update(ctx, key, account.Guard{Version: 1, Rotation: account.NoRotation()},
			account.Change{Fields: account.FieldRotation, To: to, At: now()})
		if err == nil && (got.Rotation == nil || got.Rotation.ID != to.Rotation.ID) {
			t.Errorf("contender %d won and got the rotation %v", i, got.Rotation)
		}
		return err
	})
	got, err := s.Get(t.Context(), key)
	must(t, err)
	if got.Rotation == nil || got.Rotation.ID != fmt.Sprint(won) {
		t.Errorf("contender %d won, the document has %v", won, got.Rotation)
	}
}

// contend runs the call in many goroutines at once. It fails the test unless
// exactly one succeeds and the others get ErrConflict, and returns the winner.
func contend(t *testing.T, call func(ctx context.Context, i int) error) (winner int) {
	t.Helper()
	var wg sync.WaitGroup
	var wins, won atomic.Int64
	start := make(chan struct{})
	for i := range contenders {
		wg.Go(func() {
			<-start
			switch err := call(t.Context(), i); {
			case err == nil:
				wins.Add(1)
				won.Store(int64(i))
			case !errors.Is(err, ledger.ErrConflict):
				t.Errorf("contender %d: got %v, want %q", i, err, ledger.ErrConflict)
			}
		})
	}
	close(start)
	wg.Wait()
	if wins.Load() != 1 {
		t.Fatalf("%d of %d contenders won, want exactly one", wins.Load(), contenders)
	}
	return int(won.Load())
}

// testNoUpdateLost lets many writers change different things of one document
// under a guard that always holds: every change must be there at the end.
func testNoUpdateLost(t *testing.T, s ledger.Store) {
	key := mustKey("openai", "a")
	must(t, s.Create(t.Context(), Minimal(key)))
	changes := []account.Change{
		{Fields: account.FieldLabel, To: account.Account{Label: "l"}, BumpRev: true},
		{Fields: account.FieldForced, To: account.Account{ForcedStreak: 5}, BumpRev: true},
		{Fields: account.FieldLastRotation, To: account.Account{LastRotationID: "r"}, BumpRev: true},
		{Fields: account.FieldFailure, To: account.Account{Failures: 4}, BumpRev: true},
	}
	const writers = 20
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			c := changes[i%len(changes)]
			c.At = now()
			if _, err := s.Update(t.Context(), key, account.Guard{}, c); err != nil {
				t.Errorf("writer %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	got, err := s.Get(t.Context(), key)
	must(t, err)
	want := Minimal(key)
	want.Rev += writers
	want.Label, want.ForcedStreak, want.LastRotationID, want.Failures = "l", 5, "r", 4
	want.CreatedAt, want.UpdatedAt = got.CreatedAt, got.UpdatedAt
	same(t, got, want)
}
