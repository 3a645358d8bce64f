package provider_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
)

func TestLookupGoesFromL1ToSharedToStore(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	a, b := f.worker(), f.worker()
	access, _ := f.login(a, "x", time.Hour)
	eventually(t, "the login is announced", func() bool { return !f.doc("x").AnnouncePending })

	reply := f.token(b, "x", events.TokenRequest{})
	if reply.Source != events.SourceShared || reply.AccessToken.Reveal() != access || reply.Version != 1 {
		t.Errorf("first look-up: source %s, version %d", reply.Source, reply.Version)
	}
	if reply.Extra.Text("project_id") != "p1" || reply.Extra["internal"] != nil || reply.TokenType != "Bearer" {
		t.Errorf("extra %v, token type %q", reply.Extra, reply.TokenType)
	}
	if reply := f.token(b, "x", events.TokenRequest{}); reply.Source != events.SourceL1 {
		t.Errorf("second look-up: source %s", reply.Source)
	}
	body, ok := b.Cached(key("x"), events.TokenRequest{})
	if !ok {
		t.Fatal("not on the fast path")
	}
	fast, err := events.DecodeTokenReply(key("x"), body)
	if err != nil || fast.AccessToken.Reveal() != access || fast.Source != events.SourceL1 {
		t.Errorf("fast path: %v %v", fast, err)
	}
	f.cache.Fault.Set(down)
	if reply := f.token(f.worker(), "x", events.TokenRequest{}); reply.Source != events.SourceStore {
		t.Errorf("without a cache: source %s", reply.Source)
	}
	if n := f.endpoint.Exchanges(); n != 0 {
		t.Errorf("%d exchanges for a living token", n)
	}
}

// down is a dependency that refuses everything.
func down(context.Context, string, account.Key) (bool, error) {
	return false, errors.New("connection refused")
}

func TestLookupErrors(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Hour)
	f.put(p, "norefresh", map[string]any{"access_token": "at", "expires_at": f.clock.Now().Add(-time.Minute).Unix()})
	f.put(p, "setup", map[string]any{"access_token": "at"})
	f.login(p, "off", time.Hour)
	if _, err := p.Disable(t.Context(), events.KeyRequest{Platform: "demo", ID: "off"}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, id string
		req      events.TokenRequest
		code     events.Code
	}{
		{"unknown account", "nobody", events.TokenRequest{}, events.CodeNotFound},
		{"disabled", "off", events.TokenRequest{}, events.CodeDisabled},
		{"a min_version that nobody has seen", "x", events.TokenRequest{MinVersion: 2}, events.CodeUnavailable},
		{"a rejected_version that nobody has seen", "x", events.TokenRequest{RejectedVersion: 7}, events.CodeUnavailable},
		{"no refresh token and an ended token", "norefresh", events.TokenRequest{}, events.CodeReauthRequired},
		{"no refresh token and a refused token", "setup", events.TokenRequest{RejectedVersion: 1}, events.CodeReauthRequired},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := f.refused(p, tt.id, tt.req, tt.code)
			if (e.RetryAfter > 0) != (tt.code == events.CodeUnavailable || tt.code == events.CodeCoolingDown) {
				t.Errorf("retry_after %s with %s", e.RetryAfter, e.Code)
			}
		})
	}
	if reply := f.token(p, "setup", events.TokenRequest{}); !reply.ExpiresAt.IsZero() {
		t.Errorf("a token without end has expires_at %s", reply.ExpiresAt)
	}
	if n := f.endpoint.Stats().Requests; n != 0 {
		t.Errorf("%d requests to the endpoint", n)
	}
}

func TestKnownVersionIsNotSentAgain(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Hour)
	reply := f.token(p, "x", events.TokenRequest{KnownVersion: 1})
	if !reply.NotModified {
		t.Error("the token is sent again")
	}
	body, ok := p.Cached(key("x"), events.TokenRequest{KnownVersion: 1})
	if !ok {
		t.Fatal("not on the fast path")
	}
	if r, err := events.DecodeTokenReply(key("x"), body); err != nil || !r.NotModified || !r.AccessToken.IsZero() {
		t.Errorf("fast path: %+v %v", r, err)
	}
}

// Must never happen: a token that is due in a moment makes everybody wait.
func TestP6LivingTokenIsServedWhileRefreshRuns(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	access, _ := f.login(p, "x", 2*time.Minute) // inside the refresh skew
	gate := make(chan struct{})
	f.endpoint.Inject(oauthtest.Hold(gate))
	for range 3 {
		if reply := f.token(p, "x", events.TokenRequest{}); reply.AccessToken.Reveal() != access {
			t.Error("not the living token")
		}
	}
	eventually(t, "the exchange is under way", func() bool { return f.endpoint.Stats().Requests == 1 })
	close(gate)
	eventually(t, "the new token is served", func() bool { return f.token(p, "x", events.TokenRequest{}).Version == 2 })
	if n := f.endpoint.Exchanges(); n != 1 {
		t.Errorf("%d exchanges", n)
	}
}

func TestP5NeverAnExpiredToken(t *testing.T) {
	f := newFleet(t, oauthtest.Config{TTL: time.Hour})
	p := f.worker()
	f.login(p, "x", 20*time.Second) // below min_ttl
	reply := f.token(p, "x", events.TokenRequest{})
	if reply.Version != 2 || reply.Source != events.SourceRefresh || !f.endpoint.Valid(reply.AccessToken.Reveal()) {
		t.Errorf("version %d from %s", reply.Version, reply.Source)
	}
	f.clock.advance(time.Hour - 10*time.Second)
	f.endpoint.Inject(oauthtest.Refuse(503, "", "Retry-After", "5"))
	f.refused(p, "x", events.TokenRequest{}, events.CodeCoolingDown)
}

func TestMinTTLForcesWithinBounds(t *testing.T) {
	f := newFleet(t, oauthtest.Config{TTL: 10 * time.Minute})
	p := f.worker()
	f.login(p, "x", 10*time.Minute)
	// The lifetime is unknown before the first exchange.
	f.refused(p, "x", events.TokenRequest{MinTTL: 11 * time.Minute}, events.CodeBadRequest)
	f.refused(p, "x", events.TokenRequest{MinTTL: 11 * time.Minute}, events.CodeBadRequest)
	// Version 2 came a moment ago: no asker can force it out in a loop.
	f.clock.advance(2 * time.Second)
	f.refused(p, "x", events.TokenRequest{MinTTL: 10 * time.Minute}, events.CodeCoolingDown)
	f.clock.advance(30 * time.Second)
	if reply := f.token(p, "x", events.TokenRequest{MinTTL: 9*time.Minute + 50*time.Second}); reply.Version != 3 {
		t.Errorf("version %d", reply.Version)
	}
	if n := f.endpoint.Exchanges(); n != 2 {
		t.Errorf("%d exchanges", n)
	}
}

func TestP1OneExchangeForAThousandOverThreeWorkers(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	workers := []*provider.Provider{f.worker(), f.worker(), f.worker()}
	_, refresh := f.login(workers[0], "x", -time.Second)
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			reply, err := workers[i%3].Token(t.Context(), key("x"), events.TokenRequest{})
			if err != nil || reply.Version != 2 {
				t.Errorf("version %d, error %v", reply.Version, err)
			}
		})
	}
	wg.Wait()
	if n := f.endpoint.Sent(refresh); n != 1 {
		t.Errorf("the refresh token was sent %d times", n)
	}
}

func TestP4NothingStaleAfterABump(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	a, b := f.worker(), f.worker()
	f.login(a, "x", time.Hour)
	if reply := f.token(b, "x", events.TokenRequest{}); reply.Version != 1 {
		t.Fatalf("version %d", reply.Version)
	}
	if _, err := a.Refresh(t.Context(), events.KeyRequest{Platform: "demo", ID: "x"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the bump is out", func() bool { return !f.doc("x").AnnouncePending })
	if _, ok := b.Cached(key("x"), events.TokenRequest{}); ok {
		t.Error("the old token is still on the peer's fast path")
	}
	if reply := f.token(b, "x", events.TokenRequest{}); reply.Version != 2 {
		t.Errorf("version %d after the bump of version 2", reply.Version)
	}
}

func TestP4FloorStandsUntilTheStoreSpeaks(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Hour)
	f.token(p, "x", events.TokenRequest{})
	// A forged bump, and no store to refute it: nothing may be served.
	f.store.Fault.Set(down)
	p.ObserveBump(events.Bump{Key: key("x"), Version: 9, Rev: 9})
	f.refused(p, "x", events.TokenRequest{}, events.CodeUnavailable)
	f.store.Fault.Set(nil)
	if reply := f.token(p, "x", events.TokenRequest{}); reply.Version != 1 {
		t.Errorf("version %d after the store refuted the bump", reply.Version)
	}
	if reply := f.token(p, "x", events.TokenRequest{}); reply.Source != events.SourceL1 {
		t.Errorf("a refuted bump still keeps L1 from serving: %s", reply.Source)
	}
}

func TestP4ResyncChecksBeforeServing(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	a, b := f.worker(), f.worker()
	f.login(a, "x", time.Hour)
	f.token(b, "x", events.TokenRequest{})
	b.Resync()
	if _, ok := b.Cached(key("x"), events.TokenRequest{}); ok {
		t.Error("served from L1 without a check after a cut")
	}
	if reply := f.token(b, "x", events.TokenRequest{}); reply.Source == events.SourceL1 {
		t.Error("served from L1 without a check after a cut")
	}
}

func TestL1IsCheckedAfterItsMaxAge(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Hour)
	eventually(t, "the login is announced", func() bool { return !f.doc("x").AnnouncePending })
	f.clock.advance(f.timing.L1MaxAge)
	if reply := f.token(p, "x", events.TokenRequest{}); reply.Source != events.SourceShared {
		t.Errorf("source %s", reply.Source)
	}
	if reply := f.token(p, "x", events.TokenRequest{}); reply.Source != events.SourceL1 {
		t.Errorf("source %s after the check", reply.Source)
	}
}

func TestP7TokensInHandAreServedWithoutTheStore(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Hour)
	f.token(p, "x", events.TokenRequest{})
	f.store.Fault.Set(down)
	f.cache.Fault.Set(down)
	f.clock.advance(10 * time.Minute) // L1 is due for a check that can't be made
	if reply := f.token(p, "x", events.TokenRequest{}); reply.Version != 1 {
		t.Errorf("version %d", reply.Version)
	}
	f.refused(p, "other", events.TokenRequest{}, events.CodeUnavailable)
	f.clock.advance(time.Hour)
	f.refused(p, "x", events.TokenRequest{}, events.CodeUnavailable)
	if n := f.endpoint.Stats().Requests; n != 0 {
		t.Errorf("%d requests that could not have been saved", n)
	}
}

func TestTimeoutLeavesTheRefreshRunning(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", -time.Second)
	gate := make(chan struct{})
	f.endpoint.Inject(oauthtest.HoldAfter(gate))
	f.refused(p, "x", events.TokenRequest{Timeout: 50 * time.Millisecond}, events.CodeTimeout)
	close(gate)
	eventually(t, "the new credentials are saved", func() bool { return f.doc("x").Version == 2 })
}

func TestAnUnknownAccountIsLookedUpOnceASecond(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	reads := 0
	f.store.Fault.Set(func(_ context.Context, op string, k account.Key) (bool, error) {
		if op == "Get" && k == key("nobody") {
			reads++
		}
		return true, nil
	})
	for range 100 {
		f.refused(p, "nobody", events.TokenRequest{}, events.CodeNotFound)
	}
	if reads != 1 {
		t.Errorf("%d reads of the store", reads)
	}
	f.login(p, "nobody", time.Hour)
	f.token(p, "nobody", events.TokenRequest{})
}

// What memory answers is encoded once for each version, also for who has it.
func TestCachedAllocatesNothing(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Hour)
	f.token(p, "x", events.TokenRequest{})
	k := key("x")
	for version := account.Version(1); version <= 2; version++ {
		for name, req := range map[string]events.TokenRequest{
			"whole": {}, "not modified": {KnownVersion: version}, "min_ttl": {MinTTL: time.Minute},
		} {
			reply, ok := p.Cached(k, req)
			got, err := events.DecodeTokenReply(k, reply)
			if !ok || err != nil || got.Version != version || got.NotModified != (req.KnownVersion == version) {
				t.Fatalf("%s: %t, %v, %s", name, ok, err, reply)
			}
			if allocs := testing.AllocsPerRun(100, func() { p.Cached(k, req) }); allocs != 0 {
				t.Errorf("%s: %v allocations", name, allocs)
			}
		}
		f.login(p, "x", time.Hour)
		f.token(p, "x", events.TokenRequest{})
	}
}
