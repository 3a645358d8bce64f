package provider_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/rotation"
)

// hang makes every operation of a port wait until its caller gives up.
func hang(ctx context.Context, _ string, _ account.Key) (bool, error) {
	<-ctx.Done()
	return false, ctx.Err()
}

// A hot account is checked before it must be, so that nobody waits for a store
// and a cache that hang.
func TestP7HotAccountsDoNotWaitForWhatHangs(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	f.timing.L1MaxAge = 6 * time.Second
	p := f.worker()
	f.login(p, "x", 2*time.Hour)
	f.token(p, "x", events.TokenRequest{})
	f.store.Fault.Set(hang)
	f.cache.Fault.Set(hang)
	defer f.store.Fault.Set(nil)
	defer f.cache.Fault.Set(nil)
	f.clock.advance(4100 * time.Millisecond) // a check is wanted, and must be made within two seconds
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); <-tick.C {
		if _, ok := p.Cached(key("x"), events.TokenRequest{}); !ok {
			t.Fatal("a request with a living token in hand has to wait")
		}
	}
	// It is checked again as soon as that is possible: a version that was
	// announced to nobody is found.
	f.store.Fault.Set(nil)
	f.cache.Fault.Set(nil)
	f.bus.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) { return op != "Bump", nil })
	f.login(f.worker(), "x", 2*time.Hour)
	eventually(t, "the new version is served", func() bool {
		f.clock.advance(10 * time.Millisecond)
		return f.token(p, "x", events.TokenRequest{}).Version == 2
	})
}

// After a few calls that hang, look-ups pass a store and a cache by.
func TestP7WhatHangsIsLeftAlone(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	const n = 12
	for i := range n {
		id := fmt.Sprint("x", i)
		f.login(p, id, 2*time.Hour)
		f.token(p, id, events.TokenRequest{})
		eventually(t, "the login is announced", func() bool { return !f.doc(id).AnnouncePending })
	}
	var calls atomic.Int64
	count := func(ctx context.Context, op string, k account.Key) (bool, error) {
		if op == "Get" || op == "Put" {
			calls.Add(1)
		}
		return hang(ctx, op, k)
	}
	f.store.Fault.Set(count)
	f.cache.Fault.Set(count)
	defer f.store.Fault.Set(nil)
	defer f.cache.Fault.Set(nil)
	f.clock.advance(f.timing.L1MaxAge) // nothing may be served without a check
	f.clock.freeze()                   // nor is anything probed again
	for i := range n {
		f.token(p, fmt.Sprint("x", i), events.TokenRequest{}) // one after the other
	}
	hung := calls.Load() // three of the cache, three of the store, and what was under way beside
	if hung > 8 {
		t.Errorf("%d calls hung for %d requests", hung, n)
	}
	for range 4 { // a stranger is told at once, too, when that is known
		f.refused(p, "stranger", events.TokenRequest{Timeout: time.Minute}, events.CodeUnavailable)
	}
	if got := calls.Load(); got != hung+3 {
		t.Errorf("a stranger made %d calls hang, want three", got-hung)
	}
}

// Any number of requests for one account that does not exist costs at most one
// read of the store in a second, also if they say that they have seen it.
func TestStormForOneUnknownAccount(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	var reads atomic.Int64
	f.store.Fault.Set(func(ctx context.Context, op string, _ account.Key) (bool, error) {
		reads.Add(1)
		return ctx.Err() == nil, ctx.Err()
	})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range 200 {
				_, _ = p.Token(t.Context(), key("nobody"), events.TokenRequest{MinVersion: account.Version(i % 2)})
			}
		})
	}
	wg.Wait()
	if got := reads.Load(); got > 4 { // one, one for who has heard of a version, and a second may have passed
		t.Errorf("3200 requests cost %d reads of the store", got)
	}
	// A second later it is looked for again, and found.
	f.login(f.worker(), "nobody", time.Hour)
	f.clock.advance(time.Second)
	f.token(p, "nobody", events.TokenRequest{})
}

// Requests for ever other accounts that do not exist read the store a few at a
// time, too many are turned away at once, and none drives a hot account out.
func TestStormForManyUnknownAccounts(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker(func(c *provider.Config) { c.MaxL1 = 64 * 40 })
	f.login(p, "hot", time.Hour)
	f.token(p, "hot", events.TokenRequest{})
	var now, most, done atomic.Int64
	release := make(chan struct{})
	f.store.Fault.Set(func(ctx context.Context, op string, _ account.Key) (bool, error) {
		if op == "Get" {
			n := now.Add(1)
			defer now.Add(-1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			<-release
		}
		return true, nil
	})
	var wg sync.WaitGroup
	var refused atomic.Int64
	for i := range 4000 {
		wg.Go(func() {
			_, err := p.Token(context.Background(), key(fmt.Sprint("n", i)), events.TokenRequest{Timeout: time.Minute})
			if e, ok := err.(*events.Error); ok && e.Code == events.CodeUnavailable && e.RetryAfter > 0 {
				refused.Add(1)
			}
			done.Add(1)
		})
	}
	eventually(t, "all that are too many have been turned away", func() bool { return done.Load() == 4000-64-1024 })
	if _, ok := p.Cached(key("hot"), events.TokenRequest{}); !ok {
		t.Error("a hot account waits for the storm")
	}
	close(release)
	wg.Wait()
	f.store.Fault.Set(nil)
	if most.Load() > 64 || refused.Load() < 4000-64-1024 {
		t.Errorf("%d reads at once, %d requests turned away", most.Load(), refused.Load())
	}
	if _, ok := p.Cached(key("hot"), events.TokenRequest{}); !ok {
		t.Error("the storm drove a hot account out")
	}
}

// A journal that holds more than it is good for ends all exchanges until it is
// shorter: what comes of them could be saved nowhere.
func TestP2AFullJournalEndsExchanges(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	const waiting = 21
	p := f.worker(func(c *provider.Config) { c.MaxJournal = waiting - 1 })
	f.login(p, "x", time.Millisecond)
	for i := range waiting {
		// Of accounts that the store doesn't have: they can be saved nowhere.
		r := rotation.Record{Key: key(fmt.Sprint("n", i)), RotationID: "r", FromVersion: 1}
		if err := f.journal.Put(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { defer close(ran); _ = p.Run(ctx) }()
	defer func() { stop(); <-ran }()
	eventually(t, "the worker has looked into the journal", func() bool { return p.Stats().JournalWaiting == waiting })
	e := f.refused(p, "x", events.TokenRequest{}, events.CodeUnavailable)
	if e.RetryAfter <= 0 || f.endpoint.Exchanges() != 0 {
		t.Fatalf("retry_after %s after %d exchanges", e.RetryAfter, f.endpoint.Exchanges())
	}
	for i := range waiting {
		if err := f.journal.Delete(t.Context(), key(fmt.Sprint("n", i)), "r"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "exchanges go on", func() bool {
		_, err := p.Token(t.Context(), key("x"), events.TokenRequest{})
		return err == nil
	})
}

// After a cut very many accounts have to be checked at once: none is served
// unchecked for that.
func TestP4ResyncOfVeryManyAccounts(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	a, b := f.worker(), f.worker()
	const n = 2000
	for i := range n {
		f.put(a, fmt.Sprint("x", i), map[string]any{"access_token": "old", "expires_at": f.clock.Now().Add(time.Hour).Unix()})
		f.token(b, fmt.Sprint("x", i), events.TokenRequest{})
	}
	// b is cut off, and the cache is down for good.
	f.bus.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) { return op != "Bump", nil })
	f.cache.Fault.Set(func(context.Context, string, account.Key) (bool, error) { return false, errors.New("down") })
	for i := range n {
		f.put(a, fmt.Sprint("x", i), map[string]any{"access_token": "new", "expires_at": f.clock.Now().Add(time.Hour).Unix()})
	}
	f.store.Fault.Set(func(context.Context, string, account.Key) (bool, error) {
		<-time.After(time.Millisecond) // so that they queue
		return true, nil
	})
	b.Resync()
	var all sync.WaitGroup
	var stale atomic.Int64
	for i := range n {
		all.Go(func() {
			if reply, err := b.Token(context.Background(), key(fmt.Sprint("x", i)), events.TokenRequest{}); err != nil || reply.Version != 2 {
				stale.Add(1)
			}
		})
	}
	all.Wait()
	if stale.Load() > 0 {
		t.Errorf("%d of %d accounts are served unchecked", stale.Load(), n)
	}
}

// A look for lost announcements brings some of very many: each is made up for,
// whatever the looks in between bring.
func TestP3AnnouncementsThatAreFarApartAreMadeUpFor(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	f.bus.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) {
		if op == "Bump" {
			return false, errors.New("down")
		}
		return true, nil
	})
	p := f.worker()
	const accounts = 3
	for i := range accounts {
		f.login(p, fmt.Sprint("x", i), time.Hour)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.bus.Fault.Set(nil)
	q := f.worker(func(c *provider.Config) {
		c.Store = &oneByOne{Store: f.store}
		c.Random = func() float64 { return 0 } // looks at their shortest intervals
	})
	run(t, q)
	eventually(t, "all are announced", func() bool {
		for i := range accounts {
			if f.doc(fmt.Sprint("x", i)).AnnouncePending {
				return false
			}
		}
		return true
	})
}

// oneByOne brings one pending announcement in each look, and each time another.
type oneByOne struct {
	ledger.Store
	n int
}

func (s *oneByOne) Pending(ctx context.Context, limit int) ([]account.Key, error) {
	keys, err := s.Store.Pending(ctx, limit)
	if len(keys) == 0 {
		return nil, err
	}
	s.n++
	return keys[s.n%len(keys):][:1], err
}

// A bump counts also where L1 has no place for what it is about: the shared cache
// may have something older.
func TestP4ABumpOutlivesItsPlaceInL1(t *testing.T) {
	for name, known := range map[string]bool{"of an account in hand": true, "of one that nobody has asked for": false} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, oauthtest.Config{})
			p := f.worker(func(c *provider.Config) { c.MaxL1 = 1 })
			q := f.worker()
			f.login(q, "x", time.Hour)
			eventually(t, "the login is announced", func() bool { return !f.doc("x").AnnouncePending })
			if known {
				f.token(p, "x", events.TokenRequest{})
			}
			f.cache.Fault.Set(func(_ context.Context, op string, k account.Key) (bool, error) {
				if op == "Put" && k == key("x") {
					return false, errors.New("down")
				}
				return true, nil
			})
			f.login(q, "x", time.Hour)
			eventually(t, "peers are told of version 2", func() bool {
				b, err := f.bus.LastBump(t.Context(), key("x"))
				return err == nil && b.Version == 2
			})
			for i := range 200 { // each takes another's place
				p.ObserveBump(events.Bump{Key: key(fmt.Sprint("other", i)), Version: 1, Rev: 1})
				f.refused(p, fmt.Sprint("other", i), events.TokenRequest{}, events.CodeNotFound)
			}
			eventually(t, "one account is in L1", func() bool { return p.Stats().L1Entries <= 1 })
			if reply := f.token(p, "x", events.TokenRequest{}); reply.Version != 2 {
				t.Errorf("version %d from %s after the bump of version 2", reply.Version, reply.Source)
			}
		})
	}
}

// Very many who ask for one account at once read the shared cache once.
func TestTheSharedCacheIsReadOnceForAll(t *testing.T) {
	const askers = 50
	f := newFleet(t, oauthtest.Config{})
	f.login(f.worker(), "x", time.Hour)
	eventually(t, "the login is announced", func() bool { return !f.doc("x").AnnouncePending })
	p := f.worker()
	var reads atomic.Int64
	open := make(chan struct{})
	f.cache.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) {
		if op == "Get" {
			reads.Add(1)
			<-open
		}
		return true, nil
	})
	var asked, served sync.WaitGroup
	for range askers {
		asked.Add(1)
		served.Go(func() {
			asked.Done()
			reply, err := p.Token(t.Context(), key("x"), events.TokenRequest{})
			if err != nil || reply.Source != events.SourceShared && reply.Source != events.SourceL1 {
				t.Errorf("from %s, %v", reply.Source, err)
			}
		})
	}
	asked.Wait()
	eventually(t, "one reads", func() bool { return reads.Load() > 0 })
	for range 1000 { // the others have their turn to read too, if they do
		runtime.Gosched()
	}
	close(open)
	served.Wait()
	if n := reads.Load(); n > 2 { // one may come between the read and L1
		t.Errorf("%d reads for %d askers", n, askers)
	}
}
