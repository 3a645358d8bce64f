package lease_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/lease/leasetest"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/refresh"
)

var errDown = errors.New("backend is down")

func TestMemoryBackend(t *testing.T) {
	leasetest.Run(t, func(*testing.T) lease.Backend { return leasetest.NewMemory(time.Second) })
}

func TestConfig(t *testing.T) {
	b := leasetest.NewMemory(time.Second)
	for _, c := range []struct {
		name string
		cfg  lease.Config
		want []string // parts of the error; none: no error
	}{
		{"good", lease.Config{Backend: b, Owner: "w"}, nil},
		{"empty", lease.Config{}, []string{"no backend", "no owner"}},
		{"no TTL", lease.Config{Backend: leasetest.NewMemory(0), Owner: "w"}, []string{"TTL of 0s"}},
		{"margin too large", lease.Config{Backend: b, Owner: "w", Margin: time.Second / 2}, []string{"margin 500ms"}},
		{"negative margin", lease.Config{Backend: b, Margin: -1}, []string{"margin -1ns", "no owner"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := lease.New(c.cfg)
			if (err == nil) != (c.want == nil) {
				t.Fatalf("got error %v, want %v", err, c.want)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q doesn't say %q", err, part)
				}
			}
		})
	}
}

// clock is a clock that a test moves.
type clock struct{ now atomic.Int64 }

func (c *clock) elapsed() time.Duration  { return time.Duration(c.now.Load()) }
func (c *clock) advance(d time.Duration) { c.now.Add(int64(d)) }

// TestTrustCountsFromTheStart: a reply that takes long shortens the trust, and
// without renewals the trust ends a margin before the TTL.
func TestTrustCountsFromTheStart(t *testing.T) {
	const ttl = time.Hour // no renewal in this test
	var c clock
	slow := &leasetest.Faulty{Backend: leasetest.NewMemory(ttl), Hook: func(string) (bool, error) {
		c.advance(10 * time.Minute)
		return true, nil
	}}
	h := acquire(t, lease.Config{Backend: slow, Margin: 5 * time.Minute, Elapsed: c.elapsed})
	for _, step := range []struct {
		advance time.Duration
		trusted bool
	}{{0, true}, {44 * time.Minute, true}, {59 * time.Second, true}, {time.Second, false}, {time.Hour, false}} {
		c.advance(step.advance)
		if got := h.Trusted(); got != step.trusted {
			t.Fatalf("%v after the attempt started: trusted is %v, want %v", c.elapsed(), got, step.trusted)
		}
	}
}

// TestRepeatedAcquireTrustsFromTheFirst: the second attempt may find the lease
// that the first one left, so trust counts from the first.
func TestRepeatedAcquireTrustsFromTheFirst(t *testing.T) {
	const ttl = time.Hour
	var c clock
	var calls atomic.Int64
	b := &leasetest.Faulty{Backend: leasetest.NewMemory(ttl), Hook: func(string) (bool, error) {
		if calls.Add(1) == 1 {
			c.advance(50 * time.Minute)
			return true, errDown
		}
		return true, nil
	}}
	h := acquire(t, lease.Config{Backend: b, Margin: 5 * time.Minute, Elapsed: c.elapsed})
	if !h.Trusted() {
		t.Fatal("the lease is not trusted after 50 minutes of 55")
	}
	c.advance(5 * time.Minute)
	if h.Trusted() {
		t.Fatal("the lease is trusted 55 minutes after the first attempt started")
	}
}

func TestAcquireErrors(t *testing.T) {
	key := mustKey("openai.a")
	b := leasetest.NewMemory(time.Minute)
	if _, err := b.Acquire(t.Context(), key.String(), "other"); err != nil {
		t.Fatal(err)
	}
	l := locker(t, lease.Config{Backend: b})
	if _, err := l.Acquire(t.Context(), key); !errors.Is(err, refresh.ErrHeld) {
		t.Errorf("held: got %v, want %v", err, refresh.ErrHeld)
	}
	var calls atomic.Int64
	down := locker(t, lease.Config{Backend: &leasetest.Faulty{Backend: b, Hook: func(string) (bool, error) {
		calls.Add(1)
		return false, errDown
	}}})
	if _, err := down.Acquire(t.Context(), key); !errors.Is(err, errDown) || errors.Is(err, refresh.ErrHeld) {
		t.Errorf("down: got %v, want %v", err, errDown)
	}
	if calls.Load() != 2 {
		t.Errorf("down: %d attempts, want 2", calls.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Acquire(ctx, mustKey("openai.b")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v, want %v", err, context.Canceled)
	}
}

// TestLeaseOutlivesAcquireContext: a request that gives up doesn't end the
// lease that it took for all.
func TestLeaseOutlivesAcquireContext(t *testing.T) {
	b := leasetest.NewMemory(300 * time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	h, err := locker(t, lease.Config{Backend: b}).Acquire(ctx, mustKey("openai.a"))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	first, err := b.Read(t.Context(), "openai.a")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the lease has been renewed twice", func() bool {
		now, err := b.Read(t.Context(), "openai.a")
		if err != nil {
			t.Fatal(err)
		}
		return now.Revision >= first.Revision+2
	})
	h.Release(ctx) // ended, too
	if _, err := b.Read(t.Context(), "openai.a"); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("after Release with an ended context: got %v, want %v", err, ledger.ErrNotFound)
	}
}

// TestLostLease: another has the lease. The trust ends, the renewal too, and
// Release leaves the other's lease alone.
func TestLostLease(t *testing.T) {
	b := leasetest.NewMemory(300 * time.Millisecond)
	var logs syncBuffer
	h := acquire(t, lease.Config{Backend: b, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	mine, err := b.Read(t.Context(), "openai.a")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "another has taken the lease", func() bool {
		if b.Release(t.Context(), "openai.a", mine) != nil {
			mine, _ = b.Read(t.Context(), "openai.a")
			return false
		}
		_, err := b.Acquire(t.Context(), "openai.a", "other")
		return err == nil
	})
	until(t, "the loss is noticed", func() bool { return strings.Contains(logs.String(), "lease lost") })
	if h.Trusted() {
		t.Error("a lost lease is trusted")
	}
	h.Release(t.Context())
	if now, err := b.Read(t.Context(), "openai.a"); err != nil || now.Owner != "other" {
		// The other doesn't renew: it may have ended by now, but not changed.
		if !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("the other's lease: got %+v, %v", now, err)
		}
	}
}

// TestOutage: while the backend is down the trust runs out; when it is back
// and the lease still there, it is trusted again.
func TestOutage(t *testing.T) {
	var c clock
	var down atomic.Bool
	b := &leasetest.Faulty{Backend: leasetest.NewMemory(time.Minute), Hook: func(string) (bool, error) {
		if down.Load() {
			return false, errDown
		}
		return true, nil
	}}
	h := acquire(t, lease.Config{Backend: shortTTL{b, 300 * time.Millisecond}, Elapsed: c.elapsed})
	down.Store(true)
	c.advance(time.Hour)
	if h.Trusted() {
		t.Fatal("trusted without an acknowledged renewal")
	}
	down.Store(false)
	until(t, "the lease is trusted again", h.Trusted)
}

// shortTTL makes the locker renew often what lives long in the backend.
type shortTTL struct {
	lease.Backend
	ttl time.Duration
}

func (s shortTTL) TTL() time.Duration { return s.ttl }

// TestReleaseWhileDown: a release that fails is harmless and bounded, and may
// be called by many at once.
func TestReleaseWhileDown(t *testing.T) {
	var down atomic.Bool
	var releases atomic.Int64
	b := &leasetest.Faulty{Backend: leasetest.NewMemory(time.Minute), Hook: func(method string) (bool, error) {
		if method == "Release" {
			releases.Add(1)
		}
		if down.Load() {
			return false, errDown
		}
		return true, nil
	}}
	h := acquire(t, lease.Config{Backend: b})
	down.Store(true)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() { h.Release(t.Context()) })
	}
	wg.Wait()
	h.Release(t.Context())
	if h.Trusted() || releases.Load() != 1 {
		t.Errorf("after Release: trusted %v, %d releases, want not trusted and one", h.Trusted(), releases.Load())
	}
}

// TestReleaseCutsRenewalShort: a renewal that hangs doesn't hold up Release,
// and what it may have done is found by reading back.
func TestReleaseCutsRenewalShort(t *testing.T) {
	mem := leasetest.NewMemory(3 * time.Second)
	hanging := &hangingRenew{Memory: mem, entered: make(chan struct{})}
	h := acquire(t, lease.Config{Backend: hanging})
	<-hanging.entered
	h.Release(t.Context())
	if _, err := mem.Read(t.Context(), "openai.a"); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("after Release: got %v, want %v", err, ledger.ErrNotFound)
	}
}

// hangingRenew carries a renewal out and never answers.
type hangingRenew struct {
	*leasetest.Memory
	entered chan struct{}
	once    sync.Once
}

func (b *hangingRenew) Renew(ctx context.Context, name string, token lease.Token) (lease.Token, error) {
	_, _ = b.Memory.Renew(ctx, name, token)
	b.once.Do(func() { close(b.entered) })
	<-ctx.Done()
	return lease.Token{}, ctx.Err()
}

func locker(t *testing.T, cfg lease.Config) *lease.Locker {
	t.Helper()
	cfg.Owner = "worker-1"
	l, err := lease.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func acquire(t *testing.T, cfg lease.Config) refresh.Lease {
	t.Helper()
	h, err := locker(t, cfg).Acquire(t.Context(), mustKey("openai.a"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Release(context.Background()) })
	return h
}

// until polls for a condition that another goroutine brings about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func mustKey(text string) account.Key {
	k, err := account.ParseKey(text)
	if err != nil {
		panic(err)
	}
	return k
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
