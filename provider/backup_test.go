package provider_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
)

// settled waits until everything that there is to tell of the account is told.
func (f *fleet) settled(id string) {
	f.t.Helper()
	eventually(f.t, id+" is announced", func() bool { return !f.doc(id).AnnouncePending })
}

// running runs the worker until the returned function is called.
func running(t testing.TB, p *provider.Provider) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A store that has lost revs and no version: what is written next is above all
// that peers have seen, and they serve it.
func TestP4StoreBehindInRevAlone(t *testing.T) {
	for name, outcome := range map[string][]oauthtest.Fault{"granted": nil, "rejected": {oauthtest.Refuse(400, `{"error":"invalid_grant"}`)}} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, oauthtest.Config{})
			p := f.worker()
			f.login(p, "x", time.Hour)
			f.settled("x")
			backup := f.store.Snapshot()
			for range 2 {
				if _, err := p.Disable(t.Context(), ref("x")); err != nil {
					t.Fatal(err)
				}
				if _, err := p.Enable(t.Context(), ref("x")); err != nil {
					t.Fatal(err)
				}
			}
			f.settled("x")
			announced := f.doc("x").Rev
			f.token(p, "x", events.TokenRequest{})
			f.store.Restore(backup)
			f.clock.advance(2 * time.Hour)
			if f.endpoint.Inject(outcome...); outcome != nil { // and the bumps alone tell of it
				p = f.worker()
				f.cache.Fault.Set(failing("Get", 0, 1<<40, false))
			}
			r, err := p.Token(t.Context(), key("x"), events.TokenRequest{})
			if outcome == nil && (err != nil || r.Version != 2) {
				t.Errorf("version %d, %v, want 2", r.Version, err)
			} else if outcome != nil && !errors.Is(err, &events.Error{Code: events.CodeReauthRequired}) {
				t.Errorf("got %v, want reauth_required", err)
			}
			f.settled("x")
			if b, err := f.bus.LastBump(t.Context(), key("x")); err != nil || b.Rev <= announced || b.Rev != f.doc("x").Rev {
				t.Errorf("peers heard of rev %d (%v), want one above %d", b.Rev, err, announced)
			}
		})
	}
}

// Who has seen a version that the restored store has not is asked one by one,
// and one that hangs doesn't take the others' time.
func TestP1StoreBehindIsSeenBy(t *testing.T) {
	hangs := func(ctx context.Context, op string, _ account.Key) (bool, error) {
		if op != "LastBump" {
			return true, nil
		}
		<-ctx.Done()
		return false, ctx.Err()
	}
	for name, tt := range map[string]struct{ fresh, cache bool }{
		"the shared cache, while the bump stream hangs": {fresh: true, cache: true},
		"this worker's memory alone":                    {},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, oauthtest.Config{})
			p := f.worker()
			_, refresh := f.login(p, "x", -time.Second)
			f.settled("x")
			backup := f.store.Snapshot()
			f.token(p, "x", events.TokenRequest{})
			f.settled("x")
			f.store.Restore(backup)
			f.bus.Fault.Set(hangs)
			if !tt.cache {
				f.cache.Fault.Set(down)
			}
			if tt.fresh {
				p = f.worker()
			}
			f.clock.advance(2 * time.Hour)
			if r, err := p.Token(t.Context(), key("x"), events.TokenRequest{}); !errors.Is(err, &events.Error{Code: events.CodeUnavailable}) {
				t.Errorf("version %d, %v, want unavailable", r.Version, err)
			}
			if n := f.endpoint.Sent(refresh); n != 1 || f.endpoint.Revoked("x") {
				t.Errorf("the first refresh token was sent %d times", n)
			}
		})
	}
}

// answeredAndLost makes an exchange whose answer waits in the shared journal,
// and puts the store back to before it was begun.
func (f *fleet) answeredAndLost(p *provider.Provider, backup map[account.Key]account.Account) {
	f.t.Helper()
	before := f.endpoint.Exchanges()
	f.store.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) {
		if op == "Update" && f.endpoint.Exchanges() > before {
			return false, errors.New("down")
		}
		return true, nil
	})
	asked, done := context.WithCancel(f.t.Context())
	defer done()
	gone := make(chan struct{})
	go func() { defer close(gone); _, _ = p.Token(asked, key("x"), events.TokenRequest{}) }()
	eventually(f.t, "an answer waits", func() bool {
		records, _ := f.journal.Records(f.t.Context(), key("x"))
		return len(records) == 1
	})
	done()
	<-gone
	now, abort := context.WithCancel(f.t.Context())
	abort()
	_ = p.Close(now)
	f.store.Restore(backup)
	f.store.Fault.Set(nil)
}

// looked returns a worker that has looked into the journals, found an answer, and
// could do nothing about it. meanwhile is called while it looks on.
func (f *fleet) looked(meanwhile func(*provider.Provider)) *provider.Provider {
	f.t.Helper()
	p := f.worker()
	f.store.Fault.Set(down)
	stop := running(f.t, p)
	eventually(f.t, "it has looked", func() bool { return p.Stats().JournalWaiting == 1 && p.Stats().Flights == 0 })
	meanwhile(p)
	stop()
	f.store.Fault.Set(nil)
	f.clock.advance(5 * time.Second) // holds are over
	return p
}

// An answer waits to the very token that is next, and the store has lost the
// record of it: while it can't be saved, nothing is sent.
func TestP1AnswerWaitsWithoutARecord(t *testing.T) {
	for name, fault := range map[string]func(f *fleet){
		"the journal is out of reach": func(f *fleet) { f.journal.Fault.Set(down) },
		"the store refuses it once":   func(f *fleet) { f.store.Fault.Set(failing("Update", 0, 1, false)) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, oauthtest.Config{})
			p := f.worker()
			_, refresh := f.login(p, "x", time.Second)
			f.settled("x")
			backup := f.store.Snapshot()
			f.clock.advance(time.Second)
			f.answeredAndLost(p, backup)

			next := f.looked(func(*provider.Provider) {})
			fault(f)
			if r, err := next.Token(t.Context(), key("x"), events.TokenRequest{}); !errors.Is(err, &events.Error{Code: events.CodeUnavailable}) {
				t.Errorf("version %d, %v, want unavailable", r.Version, err)
			}
			eventually(t, "it is told", func() bool { return f.hasStatus("x", events.StatusJournalBlocked) })
			f.journal.Fault.Set(nil)
			f.clock.advance(time.Minute)
			if r := f.token(next, "x", events.TokenRequest{}); r.Version != 2 || f.endpoint.Sent(refresh) != 1 {
				t.Errorf("version %d, and the refresh token was sent %d times, want the answer that waited", r.Version, f.endpoint.Sent(refresh))
			}
		})
	}
}

// A look that fails forgets nothing of what waited at the one before.
func TestP1ALookThatFailsForgetsNothing(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	_, refresh := f.login(p, "x", time.Second)
	f.settled("x")
	backup := f.store.Snapshot()
	f.clock.advance(time.Second)
	f.answeredAndLost(p, backup)

	next := f.looked(func(p *provider.Provider) {
		f.journal.Fault.Set(down)
		eventually(t, "it has looked in vain", func() bool { return p.Stats().JournalWaiting == 0 })
	})
	if r, err := next.Token(t.Context(), key("x"), events.TokenRequest{}); !errors.Is(err, &events.Error{Code: events.CodeUnavailable}) || f.endpoint.Sent(refresh) != 1 {
		t.Errorf("version %d, %v, sent %d times; want unavailable", r.Version, err, f.endpoint.Sent(refresh))
	}
}

// A restored store has an older refresh token, and the answer that is replayed
// into it brings none: the older one is spent, and nothing says what came after.
func TestP1RestoredRefreshTokenIsNotSent(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	_, first := f.login(p, "x", -time.Second)
	f.settled("x")
	backup := f.store.Snapshot()
	f.token(p, "x", events.TokenRequest{})
	eventually(t, "version 2 is announced", func() bool { return f.doc("x").Version == 2 && !f.doc("x").AnnouncePending })
	f.clock.advance(2 * time.Hour)
	f.endpoint.Inject(oauthtest.KeepRefreshToken())
	f.answeredAndLost(p, backup)

	next := f.worker()
	stop := running(t, next)
	eventually(t, "the answer is saved", func() bool { return f.doc("x").Version >= 3 && !f.doc("x").AnnouncePending })
	stop()
	f.token(next, "x", events.TokenRequest{})
	f.clock.advance(2 * time.Hour)
	if _, err := next.Token(t.Context(), key("x"), events.TokenRequest{}); !errors.Is(err, &events.Error{Code: events.CodeReauthRequired}) {
		t.Errorf("got %v, want reauth_required", err)
	}
	if n := f.endpoint.Sent(first); n != 1 || f.endpoint.Revoked("x") {
		t.Errorf("the first refresh token was sent %d times", n)
	}
}
