package provider_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/memory"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
)

// backlog puts n accounts of demo into the fleet, of which each is due, and notes
// which of them are written afterwards.
func backlog(t *testing.T, f *fleet, p *provider.Provider, n int) (written func() map[account.Key]bool) {
	t.Helper()
	for i := range n {
		f.login(p, fmt.Sprintf("x%04d", i), time.Minute)
	}
	eventually(t, "all is announced", func() bool {
		keys, err := f.store.Pending(t.Context(), 1)
		return err == nil && len(keys) == 0
	})
	var mu sync.Mutex
	seen := map[account.Key]bool{}
	f.store.Fault.Set(func(_ context.Context, op string, k account.Key) (bool, error) {
		if op == "Update" {
			mu.Lock()
			defer mu.Unlock()
			seen[k] = true
		}
		return true, nil
	})
	return func() map[account.Key]bool {
		mu.Lock()
		defer mu.Unlock()
		out := map[account.Key]bool{}
		for k := range seen {
			out[k] = true
		}
		return out
	}
}

func run(t *testing.T, p *provider.Provider) {
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { defer close(ran); _ = p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ran })
}

// A platform of which very many accounts are due, and whose endpoint is slow,
// stands before no other; its accounts wait where they are, unwritten.
func TestP6ASlowPlatformStandsBeforeNoOther(t *testing.T) {
	const accounts = 600 // more than one look brings
	f := newFleet(t, oauthtest.Config{})
	f.def.MaxConcurrent = 2
	other := f.def
	other.TokenURL += "?other"
	both := func(c *provider.Config) {
		client, err := oauth.New(oauth.Config{Definitions: oauth.Definitions{"demo": f.def, "other": other}, Now: f.clock.Now})
		if err != nil {
			t.Fatal(err)
		}
		c.Endpoint = client
	}
	p := f.worker(both)
	written := backlog(t, f, p, accounts)
	access, refresh := f.endpoint.NewGrant("late")
	body, _ := json.Marshal(map[string]any{"platform": "other", "id": "late", "type": "oauth", "credentials": map[string]any{
		"access_token": access, "refresh_token": refresh, "expires_at": f.clock.Now().Add(2 * time.Minute).Format(time.RFC3339Nano)}})
	req, err := events.DecodeRequest[events.PutRequest](body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Put(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	late, err := account.NewKey("other", "late")
	if err != nil {
		t.Fatal(err)
	}
	open := make(chan struct{})
	f.endpoint.InjectFunc(func(r *http.Request) oauthtest.Fault {
		if r.URL.RawQuery == "other" {
			return oauthtest.Fault{}
		}
		return oauthtest.Hold(open)
	})
	run(t, p)
	eventually(t, "the other platform's account is refreshed", func() bool {
		a, err := f.store.Get(t.Context(), late)
		return err == nil && a.Version == 2
	})
	demo := written()
	delete(demo, late)
	if len(demo) > 2 {
		t.Errorf("%d accounts were written while 2 may be refreshed at once", len(demo))
	}
	close(open)
	eventually(t, "all are exchanged, each once", func() bool { return f.endpoint.Exchanges() == accounts+1 })
	eventually(t, "each got its new version", func() bool {
		for i := range accounts {
			if f.doc(fmt.Sprintf("x%04d", i)).Version != 2 {
				return false
			}
		}
		return true
	})
}

// A disk that turns out to be full ends the look: of very many accounts that are
// due one is tried, and no more.
func TestAFullDiskEndsALook(t *testing.T) {
	const accounts = 600 // more than one look brings
	f := newFleet(t, oauthtest.Config{})
	f.def.MaxConcurrent = 1
	spool := &memory.Journal{}
	p := f.worker(func(c *provider.Config) { c.Spool = spool })
	backlog(t, f, p, accounts)
	var tries, looks atomic.Int64
	f.store.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) {
		if op == "Due" {
			looks.Add(1)
		}
		return true, nil
	})
	spool.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) {
		if op == "Reserve" {
			tries.Add(1)
			return false, errors.New("no space left on device")
		}
		return true, nil
	})
	run(t, p)
	eventually(t, "it has looked a few times", func() bool { return looks.Load() >= 6 && tries.Load() > 0 })
	if tried, looked := tries.Load(), looks.Load(); tried > looked {
		t.Errorf("%d places for an answer were tried for, in %d looks", tried, looked)
	}
	if n := f.endpoint.Exchanges(); n != 0 {
		t.Errorf("%d exchanges", n)
	}
}

// A backlog is gone on with as soon as what one look has brought is begun, and
// not when the next look is due.
func TestP6ABacklogWaitsForNoLook(t *testing.T) {
	const accounts = 1100 // three looks
	f := newFleet(t, oauthtest.Config{})
	backlog(t, f, f.worker(), accounts)
	q := f.worker(func(c *provider.Config) {
		c.Random = func() float64 { return 0.5 }
		c.Clock = &firstSecond{clock: f.clock}
	})
	run(t, q)
	eventually(t, "all are refreshed", func() bool { return f.endpoint.Exchanges() == accounts })
}

// firstSecond is a clock on which nobody waits for a second but once: so long is
// the interval of looks where there is no jitter.
type firstSecond struct {
	*clock
	n atomic.Int64
}

func (c *firstSecond) After(d time.Duration) <-chan time.Time {
	if d == time.Second && c.n.Add(1) > 1 {
		return nil
	}
	return c.clock.After(d)
}

// A due refresh that waits for another worker's keeps no place at the endpoint.
func TestP6WhoWaitsForAnotherKeepsNoPlace(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	f.def.MaxConcurrent = 1
	f.locker.Fault.Set(func(context.Context, string, account.Key) (bool, error) { return false, errors.New("down") })
	p, q := f.worker(), f.worker()
	f.login(p, "slow", time.Minute)
	f.login(p, "x", 24*time.Hour)
	eventually(t, "all is announced", func() bool { return !f.doc("slow").AnnouncePending && !f.doc("x").AnnouncePending })
	open := make(chan struct{})
	f.endpoint.Inject(oauthtest.Hold(open))
	go func() {
		_, _ = p.Token(context.WithoutCancel(t.Context()), key("slow"), events.TokenRequest{RejectedVersion: 1})
	}()
	eventually(t, "its exchange is under way", func() bool { return f.endpoint.Stats().Requests == 1 })
	f.clock.advance(time.Until(f.doc("slow").RefreshAt) + time.Second) // due, since nobody has ended it
	run(t, q)
	eventually(t, "another worker waits for it", func() bool { return q.Stats().Flights == 1 })
	if reply := f.token(q, "x", events.TokenRequest{RejectedVersion: 1}); reply.Version != 2 {
		t.Errorf("version %d, want 2", reply.Version)
	}
	close(open)
}

// While a circuit is open due accounts of its platform stay as they are.
func TestP6AnOpenCircuitPutsNothingOff(t *testing.T) {
	const accounts = 60
	f := newFleet(t, oauthtest.Config{})
	f.def.MaxConcurrent = 1
	p := f.worker()
	written := backlog(t, f, p, accounts)
	f.endpoint.InjectFunc(func(*http.Request) oauthtest.Fault { return oauthtest.Refuse(http.StatusServiceUnavailable, "") })
	looks := make(chan struct{}, 1000)
	q := f.worker(func(c *provider.Config) {
		c.Store = lookedAt{f.store, looks}
	})
	run(t, q)
	for range 4 { // looks, of which at least two were with an open circuit
		<-looks
	}
	if n := len(written()); n == 0 || n > 20 {
		t.Errorf("%d of %d accounts were written until the circuit was open, want a few", n, accounts)
	}
	f.endpoint.InjectFunc(nil)
}

// lookedAt tells when it was looked for what is due.
type lookedAt struct {
	ledger.Store
	looks chan struct{}
}

func (s lookedAt) Due(ctx context.Context, now time.Time, limit int, except ...string) ([]account.Key, error) {
	keys, err := s.Store.Due(ctx, now, limit, except...)
	select {
	case s.looks <- struct{}{}:
	default:
	}
	return keys, err
}
