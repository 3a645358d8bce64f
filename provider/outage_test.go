package provider_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/memory"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/rotation"
)

// A record that stays in the spool makes a flight look again; it must not then
// take over a rotation that another worker has just begun.
func TestP1ALeftoverRecordTakesOverNoLivingRotation(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	spool := &memory.Journal{}
	a := f.worker(func(c *provider.Config) { c.Spool = spool })
	b := f.worker()
	_, refresh := f.login(a, "x", 2*time.Hour)
	// a settled record that could not be deleted, or any other that waits
	if err := spool.Put(t.Context(), rotation.Record{Key: key("x"), RotationID: "old", FromVersion: 1, Answer: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	f.journal.Fault.Set(nil)
	go func() { defer close(ran); _ = a.Run(ctx) }()
	eventually(t, "a has looked", func() bool { s := a.Stats(); return s.JournalWaiting == 1 && s.Flights == 0 })
	cancel()
	<-ran
	eventually(t, "a is idle", func() bool { return a.Stats().Flights == 0 })
	f.clock.advance(3 * time.Hour) // the token ends
	// The lease backend is down, as is allowed.
	f.locker.Fault.Set(func(context.Context, string, account.Key) (bool, error) { return false, errors.New("down") })
	gate := make(chan struct{})
	f.endpoint.Inject(oauthtest.HoldAfter(gate)) // b's exchange is answered late
	var once sync.Once
	bDone := make(chan struct{})
	f.journal.Fault.Set(func(ctx context.Context, op string, k account.Key) (bool, error) {
		if op == "Records" && k == key("x") {
			once.Do(func() {
				go func() {
					defer close(bDone)
					_, _ = b.Token(context.WithoutCancel(t.Context()), key("x"), events.TokenRequest{})
				}()
				eventually(t, "b has sent", func() bool { return f.endpoint.Sent(refresh) == 1 })
			})
		}
		return true, nil
	})
	reply, err := a.Token(t.Context(), key("x"), events.TokenRequest{Timeout: 3 * time.Second})
	close(gate)
	<-bDone
	t.Logf("a: version %d, %v; sent %d times, reused %d, revoked %v", reply.Version, err, f.endpoint.Sent(refresh), f.endpoint.Reused(), f.endpoint.Revoked("x"))
	if n := f.endpoint.Sent(refresh); n != 1 {
		t.Errorf("the refresh token was sent %d times", n)
	}
}

// An account that can't be opened says nothing against the store.
func TestAnUnreadableAccountTakesTheStoreFromNobody(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "good", time.Hour)
	f.login(p, "bad", time.Hour)
	q := f.worker()
	f.cache.Fault.Set(func(context.Context, string, account.Key) (bool, error) { return false, ledger.ErrNotFound })
	bad := f.doc("bad")
	bad.Credentials = []byte("sealed with a key that was lost")
	m := f.store.Snapshot()
	m[key("bad")] = bad
	f.store.Restore(m)
	for range 3 {
		f.refused(q, "bad", events.TokenRequest{}, events.CodeUnavailable)
	}
	if _, err := q.Token(t.Context(), key("good"), events.TokenRequest{}); err != nil {
		t.Errorf("a healthy account with a healthy store: %v", err)
	}
}

// After a cut, what was left alone during it is asked before anything is served.
func TestP4ResyncAsksWhatWasLeftAlone(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p, q := f.worker(), f.worker()
	f.login(p, "x", time.Hour)
	for _, id := range []string{"c1", "c2", "c3", "c4"} {
		f.login(p, id, time.Hour)
	}
	if r := f.token(q, "x", events.TokenRequest{}); r.Version != 1 {
		t.Fatal(r.Version)
	}
	// q alone is cut off from cache and store.
	real := f.bus
	f.bus = &memory.Bus{} // r misses all bumps
	r := f.worker(func(c *provider.Config) {
		c.Store, c.Cache, c.Publisher = cutStore{f.store, &cut}, cutCache{f.cache, &cut}, real
	})
	f.bus = real
	if v := f.token(r, "x", events.TokenRequest{}).Version; v != 1 {
		t.Fatal(v)
	}
	cut.set(true)
	for _, id := range []string{"c1", "c2", "c3", "c4"} {
		_, _ = r.Token(t.Context(), key(id), events.TokenRequest{})
	}
	// missed by r: the bump. Written below the bus, as it was cut.
	f.login(p, "x", time.Hour)
	eventually(t, "it is told", func() bool { return !f.doc("x").AnnouncePending })
	cut.set(false)
	r.Resync() // connected again; everything is fine from here on
	if v := f.token(r, "x", events.TokenRequest{}).Version; v != 2 {
		t.Errorf("after the cut, with store and cache in order, version %d is served; want 2", v)
	}
}

type flag struct {
	mu sync.Mutex
	on bool
}

func (f *flag) set(b bool) { f.mu.Lock(); f.on = b; f.mu.Unlock() }
func (f *flag) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.on {
		return errors.New("cut off")
	}
	return nil
}

var cut flag

type cutStore struct {
	*memory.Store
	c *flag
}

func (s cutStore) Get(ctx context.Context, k account.Key) (account.Account, error) {
	if err := s.c.err(); err != nil {
		return account.Account{}, err
	}
	return s.Store.Get(ctx, k)
}

type cutCache struct {
	*memory.Cache
	c *flag
}

func (s cutCache) Get(ctx context.Context, k account.Key) (ledger.Entry, error) {
	if err := s.c.err(); err != nil {
		return ledger.Entry{}, err
	}
	return s.Cache.Get(ctx, k)
}

// A store that answers, in 600 ms.
func TestASlowStoreServes(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	ids := []string{"a", "b", "c", "d", "e", "g", "h", "i"}
	for _, id := range ids {
		f.login(p, id, -time.Minute)
	}
	q := f.worker()
	f.store.Fault.Set(func(context.Context, string, account.Key) (bool, error) {
		<-time.After(600 * time.Millisecond)
		return true, nil
	})
	failed := 0
	for _, id := range ids {
		if _, err := q.Token(t.Context(), key(id), events.TokenRequest{}); err != nil {
			failed++
			t.Logf("%s: %v", id, err)
		}
	}
	if failed > 0 {
		t.Errorf("%d of %d requests failed although the store answers each call in 600 ms", failed, len(ids))
	}
}

// Accounts that are due and too young must not stand before all others.
func TestTooYoungAccountsStandBeforeNobody(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	f.timing.RefreshAhead = 0
	p := f.worker()
	for i := range 130 {
		id := fmt.Sprintf("young%03d", i)
		f.login(p, id, -time.Minute)
		f.token(p, id, events.TokenRequest{}) // an exchange: issued now
	}
	f.login(p, "late", 24*time.Hour)     // a login
	f.def.MinRefreshAge = 72 * time.Hour // the file was changed and read again
	q := f.worker()
	f.clock.advance(24*time.Hour - time.Minute) // late is due, after the others
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = q.Run(ctx) }()
	defer func() { cancel(); <-done }()
	eventually(t, "an account that is due is refreshed, though many that are too young stand before it", func() bool { return f.doc("late").Version == 2 })
}

// After a reload accounts that met an open circuit are not held off any more.
func TestReloadLiftsHolds(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "a", -time.Minute)
	f.login(p, "b", -time.Minute)
	f.endpoint.Inject(oauthtest.Refuse(404, "<html>", "Content-Type", "text/html", "Retry-After", "3600"))
	f.refused(p, "a", events.TokenRequest{}, events.CodeUnavailable)
	f.refused(p, "b", events.TokenRequest{}, events.CodeUnavailable) // meets the open circuit
	p.EndpointsChanged()                                             // the operator has corrected the file
	if _, err := p.Token(t.Context(), key("b"), events.TokenRequest{}); err != nil {
		t.Errorf("after the reload, with an endpoint in order: %v, retry after %v", err, err.(*events.Error).RetryAfter)
	}
}

type gateStore struct {
	*memory.Store
	gate *atomic.Pointer[chan struct{}]
	in   chan struct{}
}

func (s gateStore) Get(ctx context.Context, k account.Key) (account.Account, error) {
	if g := s.gate.Load(); g != nil {
		s.in <- struct{}{}
		<-*g
		return account.Account{}, errors.New("connection reset")
	}
	return s.Store.Get(ctx, k)
}

type gateCache struct {
	*memory.Cache
	gate *atomic.Pointer[chan struct{}]
}

func (s gateCache) Get(ctx context.Context, k account.Key) (ledger.Entry, error) {
	if s.gate.Load() != nil {
		return ledger.Entry{}, errors.New("down")
	}
	return s.Cache.Get(ctx, k)
}

// A check that began before the cut was over says nothing of the time after it.
func TestP4NoReprieveAcrossResync(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Hour)
	real := f.bus
	f.bus = &memory.Bus{} // r misses all bumps
	var gate atomic.Pointer[chan struct{}]
	in := make(chan struct{}, 9)
	r := f.worker(func(c *provider.Config) {
		c.Store, c.Cache, c.Publisher = gateStore{f.store, &gate, in}, gateCache{f.cache, &gate}, real
	})
	f.bus = real
	f.token(r, "x", events.TokenRequest{})
	f.clock.advance(25 * time.Second)
	g := make(chan struct{})
	gate.Store(&g) // cut off
	if _, ok := r.Cached(key("x"), events.TokenRequest{}); !ok {
		t.Fatal("not cached")
	}
	<-in // the check beside hangs
	f.login(p, "x", time.Hour)
	eventually(t, "it is told", func() bool { return !f.doc("x").AnnouncePending })
	gate.Store(nil)
	r.Resync() // connected again, all is well
	if _, ok := r.Cached(key("x"), events.TokenRequest{}); ok {
		t.Error("served unchecked right after Resync")
	}
	close(g) // the old check fails now
	for range 200 {
		if body, ok := r.Cached(key("x"), events.TokenRequest{}); ok {
			var got events.TokenReply
			got, _ = r.Token(t.Context(), key("x"), events.TokenRequest{})
			t.Logf("%d bytes", len(body))
			if got.Version != 2 {
				t.Fatalf("version %d is served unchecked after Resync", got.Version)
			}
		}
		<-time.After(time.Millisecond)
	}
}

func TestQuickerWorkerIsNoRestoredBackup(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	a, b := f.worker(), f.worker()
	f.login(a, "x", -time.Minute)
	f.locker.Fault.Set(func(context.Context, string, account.Key) (bool, error) { return false, errors.New("down") })
	var once atomic.Bool
	f.bus.Fault.Set(func(_ context.Context, op string, k account.Key) (bool, error) {
		if op == "LastBump" && once.CompareAndSwap(false, true) {
			f.token(b, "x", events.TokenRequest{})
			eventually(t, "it is told", func() bool { return !f.doc("x").AnnouncePending })
		}
		return true, nil
	})
	if r, err := a.Token(t.Context(), key("x"), events.TokenRequest{}); err != nil {
		t.Errorf("version %d, %v; status event: %v", r.Version, err, f.hasStatus("x", events.StatusStoreBehind))
	}
}

// An answer that the spool could not keep is not asked for.
func TestP2NothingIsSentThatTheSpoolCantKeep(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	spool := &memory.Journal{}
	p := f.worker(func(c *provider.Config) { c.Spool = spool })
	f.login(p, "x", time.Millisecond)
	spool.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) {
		return false, errors.New("no space left on device")
	})
	if e := f.refused(p, "x", events.TokenRequest{}, events.CodeUnavailable); e.RetryAfter <= 0 || f.endpoint.Exchanges() != 0 {
		t.Fatalf("%v, after %d exchanges", e, f.endpoint.Exchanges())
	}
	if f.doc("x").Rotation != nil {
		t.Error("a rotation is recorded that nobody makes")
	}
	spool.Fault.Set(nil)
	eventually(t, "it goes on when there is room", func() bool {
		_, err := p.Token(t.Context(), key("x"), events.TokenRequest{})
		return err == nil
	})
}

// The place of an answer is given up with the exchange, whatever came of that.
func TestPlacesInTheSpoolAreGivenUp(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	spool := &memory.Journal{}
	p := f.worker(func(c *provider.Config) { c.Spool = spool })
	for id, fault := range map[string]oauthtest.Fault{
		"answered": {}, "refused": oauthtest.Refuse(503, ""), "cut-off": oauthtest.HangUp(),
	} {
		f.login(p, id, time.Millisecond)
		f.endpoint.Inject(fault)
		sent := f.endpoint.Stats().Requests
		_, _ = p.Token(t.Context(), key(id), events.TokenRequest{})
		if f.endpoint.Stats().Requests != sent+1 {
			t.Fatalf("%s: no exchange was made", id)
		}
		eventually(t, "the place of "+id+" is given up", func() bool { return spool.Places() == 0 })
	}
}

// What is due is left to others by a worker whose spool can't keep an answer: it
// neither begins it nor puts it off.
func TestADueRefreshIsLeftToWorkersThatCanKeepTheAnswer(t *testing.T) {
	for _, fails := range []string{"Check", "Reserve"} { // it is full, or full by the time that it matters
		t.Run(fails, func(t *testing.T) { dueIsLeftToOthers(t, fails) })
	}
}

func dueIsLeftToOthers(t *testing.T, fails string) {
	f := newFleet(t, oauthtest.Config{})
	spool := &memory.Journal{}
	bad := f.worker(func(c *provider.Config) { c.Spool = spool })
	f.login(bad, "x", time.Minute) // due at once
	eventually(t, "it is announced", func() bool { return !f.doc("x").AnnouncePending })
	var refused atomic.Int64
	spool.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) {
		if op == fails || op == "Reserve" {
			refused.Add(1)
			return false, errors.New("no space left on device")
		}
		return true, nil
	})
	var looks, updates atomic.Int64
	f.store.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) {
		switch op {
		case "Pending":
			looks.Add(1)
		case "Update":
			updates.Add(1)
		}
		return true, nil
	})
	run := func(p *provider.Provider) (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan struct{})
		go func() { defer close(ran); _ = p.Run(ctx) }()
		return func() { cancel(); <-ran }
	}
	defer run(bad)()
	eventually(t, "it has looked for what is due as well", func() bool { return looks.Load() >= 4 && refused.Load() > 0 })
	if n := updates.Load(); n > 0 || f.endpoint.Exchanges() > 0 {
		t.Fatalf("%d updates and %d exchanges by a worker that can keep no answer", n, f.endpoint.Exchanges())
	}
	defer run(f.worker())()
	eventually(t, "another refreshes it", func() bool { return f.doc("x").Version == 2 })
}

// A stop names what this process leaves in its spool, and not what lies there
// since an earlier day and can't be saved.
func TestP2AStopNamesWhatItLeaves(t *testing.T) {
	for name, c := range map[string]struct {
		worker string
		fails  bool
	}{"of this process": {"me", true}, "of an earlier day": {"somebody", false}} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, oauthtest.Config{})
			spool := &memory.Journal{}
			p := f.worker(func(cfg *provider.Config) { cfg.Spool, cfg.WorkerID = spool, "me" })
			if err := spool.Put(t.Context(), rotation.Record{Key: key("x"), RotationID: "r", FromVersion: 1, Worker: c.worker}); err != nil {
				t.Fatal(err)
			}
			if err := p.Close(t.Context()); (err != nil) != c.fails {
				t.Errorf("a stop with an answer %s in the spool: %v", name, err)
			}
		})
	}
}

// A lease that is met again long after is another one, and keeps off as any.
func TestALeaseThatIsMetAgainIsAnother(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Millisecond)
	eventually(t, "nothing of it runs", func() bool { return !f.doc("x").AnnouncePending && p.Stats().Flights == 0 })
	if _, err := f.locker.Acquire(t.Context(), key("x")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		f.refused(p, "x", events.TokenRequest{Timeout: 300 * time.Millisecond}, events.CodeTimeout)
		f.clock.advance(time.Hour) // and with it ends the flight's patience
		eventually(t, "the flight has ended", func() bool { return p.Stats().Flights == 0 })
	}
	if n := f.endpoint.Exchanges(); n != 0 {
		t.Errorf("%d exchanges beside a worker that has the lease", n)
	}
}

// A lease that its owner left behind, in a backend that keeps it for longer
// than a worker may be silent, holds nobody up for longer than that.
func TestALeaseLeftBehindHoldsNobodyUp(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Millisecond)
	eventually(t, "nothing of it runs", func() bool { return !f.doc("x").AnnouncePending && p.Stats().Flights == 0 })
	if _, err := f.locker.Acquire(t.Context(), key("x")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := p.Token(context.WithoutCancel(t.Context()), key("x"), events.TokenRequest{Timeout: time.Minute})
		done <- err
	}()
	eventually(t, "it waits", func() bool { return p.Stats().Flights == 1 })
	for waiting := true; waiting; {
		select {
		case err := <-done:
			waiting = false
			if err != nil {
				t.Errorf("the lease holds everybody up: %v", err)
			}
		case <-time.After(100 * time.Millisecond):
			f.clock.advance(500 * time.Millisecond)
		}
	}
	if n := f.endpoint.Exchanges(); n != 1 {
		t.Errorf("%d exchanges", n)
	}
}
