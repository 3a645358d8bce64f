package provider_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/memory"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/rotation"
)

// The outcome is in the store and the reply to its write is lost: it is told all
// the same, and who waits hears of it.
func TestALostReplyIsTold(t *testing.T) {
	for status, tt := range map[string]struct {
		fault oauthtest.Fault
		code  events.Code
	}{
		"invalid_grant":          {oauthtest.Refuse(400, `{"error":"invalid_grant"}`), events.CodeReauthRequired},
		events.StatusInDoubt:     {oauthtest.Lose(), events.CodeCoolingDown},
		events.StatusCoolingDown: {oauthtest.Refuse(429, `{}`), events.CodeCoolingDown},
	} {
		t.Run(status, func(t *testing.T) {
			f := newFleet(t, oauthtest.Config{})
			p := f.worker()
			f.login(p, "x", -time.Second)
			f.settled("x")
			f.endpoint.Inject(tt.fault)
			f.store.Fault.Set(failing("Update", 1, 1, true))
			if _, err := p.Token(t.Context(), key("x"), events.TokenRequest{}); !errors.Is(err, &events.Error{Code: tt.code}) {
				t.Errorf("got %v, want %s", err, tt.code)
			}
			if err := p.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if told := f.bus.Statuses(key("x")); len(told) != 1 || told[0].Code != status {
				t.Errorf("told is %v, want %s once", told, status)
			}
		})
	}
}

// A client of the account's own that the endpoint refuses is this account's
// failure, and nobody else's.
func TestOwnClientIsTold(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	access, refresh := f.endpoint.NewGrant("x")
	f.put(p, "x", map[string]any{"access_token": access, "refresh_token": refresh, "expires_at": 1, "client_id": "mine"})
	f.endpoint.Inject(oauthtest.Refuse(401, `{"error":"invalid_client"}`))
	if _, err := p.Token(t.Context(), key("x"), events.TokenRequest{}); !errors.Is(err, &events.Error{Code: events.CodeUnavailable}) {
		t.Errorf("got %v, want unavailable", err)
	}
	eventually(t, "it is told", func() bool { return f.hasStatus("x", events.StatusCoolingDown) })
	if told := f.bus.Statuses(key("x")); !told[0].Until.Equal(f.doc("x").CooldownUntil) || told[0].Until.IsZero() {
		t.Errorf("told is %v, want until %v", told, f.doc("x").CooldownUntil)
	}
}

// Another program writes back a refresh token that the fleet has spent.
func TestSpentTokenFromOutsideIsTold(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	_, refresh := f.login(p, "x", -time.Second)
	f.token(p, "x", events.TokenRequest{})
	f.settled("x")
	c, err := account.DecodeCredentials(fmt.Appendf(nil, `{"access_token":"old","refresh_token":%q,"expires_at":1}`, refresh))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := f.sealer.Seal(c.Encode(), []byte("demo.x|credentials|1"))
	if err != nil {
		t.Fatal(err)
	}
	a := f.doc("x")
	if _, err := f.store.Update(t.Context(), key("x"), account.Guard{Version: a.Version}, account.Change{
		Fields: account.FieldVersion | account.FieldCredentials, At: f.clock.Now(),
		To: account.Account{Version: a.Version + 1, Type: "oauth", Credentials: sealed, ExpiresAt: f.clock.Now().Add(-time.Hour)},
	}); err != nil {
		t.Fatal(err)
	}
	if err := p.ObserveRefreshed(t.Context(), events.Refreshed{Key: key("x"), Version: a.Version + 1, Reason: events.ReasonExternal, By: "login-tool", At: f.clock.Now()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is told", func() bool { return f.hasStatus("x", events.StatusSecondWriter) })
	if last := f.doc("x").LastError; last == nil || last.Code != events.StatusSecondWriter {
		t.Errorf("last error is %v", last)
	}
	if _, err := p.ClearError(t.Context(), ref("x")); err != nil {
		t.Fatal(err)
	}
	if d := f.doc("x"); d.Status != account.ReauthRequired || d.LastError == nil {
		t.Errorf("after an operator's clear_error it is %s, %v; its refresh token is spent still", d.Status, d.LastError)
	}
}

// A settled answer whose record can't be removed is in nobody's way, the next
// attempt of its own account included.
func TestSettledDoubtThatCantBeRemoved(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker(func(c *provider.Config) { c.Spool = f.journal })
	f.login(p, "x", -time.Second)
	f.settled("x")
	f.endpoint.Inject(oauthtest.Refuse(502, `x`))
	f.journal.Fault.Set(failing("Delete", 0, 1<<40, false))
	if _, err := p.Token(t.Context(), key("x"), events.TokenRequest{}); !errors.Is(err, &events.Error{Code: events.CodeCoolingDown}) {
		t.Errorf("got %v, want cooling_down", err)
	}
	f.clock.advance(10 * time.Minute)
	if r := f.token(p, "x", events.TokenRequest{}); r.Version != 2 {
		t.Errorf("version %d, want 2", r.Version)
	}
}

// The due time that goes with a doubt stays; where one was told before, and it is
// due all the same, it is put off as any other, and stands before nobody.
func TestDueTimeOfADoubt(t *testing.T) {
	for state, ahead := range map[account.RotationState]time.Duration{account.RotationBegun: time.Hour, account.RotationInDoubt: 5 * time.Second} {
		t.Run(string(state), func(t *testing.T) {
			f := newFleet(t, oauthtest.Config{})
			p := f.worker()
			f.login(p, "x", 10*time.Hour)
			f.settled("x")
			f.orphan("x", func(r *account.Rotation) { r.NoAnswer, r.State = true, state })
			a := f.doc("x")
			a.RefreshAt = f.clock.Now().Add(-time.Second)
			f.store.Restore(map[account.Key]account.Account{key("x"): a})
			stop := running(t, p)
			eventually(t, "it is due later", func() bool { return f.doc("x").RefreshAt.After(f.clock.Now()) && p.Stats().Flights == 0 })
			stop()
			if d := f.doc("x"); d.Rotation.State != account.RotationInDoubt || d.RefreshAt.Before(f.clock.Now().Add(ahead)) {
				t.Errorf("it is %s, due at %v, want %v from now at least", d.Rotation.State, d.RefreshAt, ahead)
			}
		})
	}
}

// A record that nobody can settle is shared once, and whoever waits for the
// flight that tries goes on by itself.
func TestRecordThatNobodyCanOpen(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	f.login(f.worker(), "x", -time.Second)
	f.settled("x")
	rec := rotation.Record{Key: key("x"), RotationID: "R0", FromVersion: 1, Worker: "old", From: account.Fingerprints{Refresh: "of an older login"}, Answer: []byte("sealed with a key that is gone")}
	shared := rotation.Record{Key: key("gone"), RotationID: "R1", FromVersion: 1, Worker: "old", Answer: rec.Answer}
	spool := &memory.Journal{}
	if err := errors.Join(spool.Put(t.Context(), rec), f.journal.Put(t.Context(), shared)); err != nil {
		t.Fatal(err)
	}
	slow := make(chan struct{})
	var looks, puts atomic.Int64
	f.journal.Fault.Set(func(_ context.Context, op string, k account.Key) (bool, error) {
		switch {
		case op == "Records" && k == key("x") && looks.Add(1) == 1:
			<-slow
		case op == "Put" && k == key("gone"):
			puts.Add(1)
		}
		return true, nil
	})
	p := f.worker(func(c *provider.Config) { c.Spool = spool })
	stop := running(t, p)
	eventually(t, "a replay runs", func() bool { return looks.Load() == 1 })
	read := make(chan struct{}, 1)
	f.store.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) {
		if op == "Get" {
			select {
			case read <- struct{}{}:
			default:
			}
		}
		return true, nil
	})
	asked := make(chan error, 1)
	go func() {
		_, err := p.Token(t.Context(), key("x"), events.TokenRequest{})
		asked <- err
	}()
	<-read // it is about to join
	close(slow)
	if err := <-asked; err != nil {
		t.Errorf("who joined it got %v", err)
	}
	eventually(t, "the shared one is found", func() bool { return p.Stats().JournalWaiting >= 2 && p.Stats().Flights == 0 })
	stop()
	if puts.Load() != 0 {
		t.Errorf("a record of the shared journal was put there again %d times", puts.Load())
	}
}
