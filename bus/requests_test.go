package bus

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// A body that comes again says the same, whatever came in between; what is
// remembered stays within its bounds, and no error is.
func TestSeenBodies(t *testing.T) {
	s := seen{}
	for round := range 2 {
		for i := range maxSeen + 100 {
			body := fmt.Appendf(nil, `{"known_version":%d}`, i)
			want, err := events.DecodeTokenRequest(body)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.decode(body); err != nil || got != want {
				t.Fatalf("round %d: %s: %+v, %v; want %+v", round, body, got, err, want)
			}
			if len(s) > maxSeen {
				t.Fatalf("%d bodies are remembered", len(s))
			}
		}
	}
	n := len(s)
	for _, body := range []string{`{"known_version":-1}`, `{`, fmt.Sprintf(`{"min_version":1,%*s"known_version":2}`, maxSeenBody, "")} {
		want, wantErr := events.DecodeTokenRequest([]byte(body))
		for range 2 {
			got, err := s.decode([]byte(body))
			if got != want || fmt.Sprint(err) != fmt.Sprint(wantErr) {
				t.Errorf("%s: %+v, %v; want %+v, %v", body, got, err, want, wantErr)
			}
		}
	}
	if len(s) != n {
		t.Error("an error or a long body is remembered")
	}
}

type inMemory struct {
	Tokens
	reply []byte
}

func (m inMemory) Cached(account.Key, events.TokenRequest) ([]byte, bool) { return m.reply, true }

// A look-up that memory answers allocates nothing on its way, with a body or
// without.
func TestCachedLookupAllocatesNothing(t *testing.T) {
	subjects, err := events.NewSubjects("tokenbus")
	if err != nil {
		t.Fatal(err)
	}
	key, err := account.NewKey("openai", "alice")
	if err != nil {
		t.Fatal(err)
	}
	e := tokenEndpoint(subjects, inMemory{reply: []byte("x")})
	for _, body := range []string{"", `{"known_version":7,"min_ttl":"30s"}`} {
		m := &nats.Msg{Subject: subjects.Request(key), Data: []byte(body)}
		allocs := testing.AllocsPerRun(1000, func() {
			if answer, work, err := e.prepare(m); string(answer) != "x" || work != nil || err != nil {
				t.Fatalf("answer %q, %v", answer, err)
			}
		})
		if allocs != 0 {
			t.Errorf("body %q: %v allocations", body, allocs)
		}
	}
}
