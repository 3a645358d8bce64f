package leasetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/refresh"
)

var errReplyLost = errors.New("reply lost")

// testLockerLostReplies: every second reply to Acquire, Renew and Release gets
// lost after the call was carried out. The lease is kept all the same, trusted
// without a gap, and free after Release.
func testLockerLostReplies(t *testing.T, b lease.Backend) {
	var calls, lost atomic.Int64
	faulty := &Faulty{Backend: b, Hook: func(method string) (bool, error) {
		if method != "Read" && calls.Add(1)%2 == 1 {
			lost.Add(1)
			return true, errReplyLost
		}
		return true, nil
	}}
	key := mustKey(name)
	h := take(t, locker(t, faulty, "flaky"), key)
	tick := time.NewTicker(b.TTL() / 50)
	defer tick.Stop()
	for end := time.Now().Add(b.TTL() * 5 / 2); time.Now().Before(end); <-tick.C {
		if !h.Trusted() {
			t.Fatal("the lease is not trusted, though nothing was lost but replies")
		}
		wantHeld(t, b, name, "other")
	}
	h.Release(t.Context())
	if h.Trusted() {
		t.Error("a released lease is trusted")
	}
	wantRead(t, b, name, "")
	if lost.Load() < 4 {
		t.Errorf("%d replies got lost: the test tried too little", lost.Load())
	}
}

// testLockerOneHolderAtATime: two trusted leases on one account never exist at
// the same time.
func testLockerOneHolderAtATime(t *testing.T, b lease.Backend) {
	const rounds = 30
	key := mustKey(name)
	var wg sync.WaitGroup
	var holders, wins atomic.Int64
	for i := range 5 {
		l := locker(t, b, fmt.Sprint("worker-", i))
		wg.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for ; wins.Load() < rounds; <-tick.C {
				h, err := l.Acquire(t.Context(), key)
				if errors.Is(err, refresh.ErrHeld) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				n := holders.Add(1)
				if h.Trusted() && n != 1 {
					t.Errorf("%d hold a trusted lease", n)
				}
				wins.Add(1)
				holders.Add(-1)
				h.Release(t.Context())
			}
		})
	}
	wg.Wait()
}

func locker(t *testing.T, b lease.Backend, owner string) *lease.Locker {
	t.Helper()
	l, err := lease.New(lease.Config{Backend: b, Owner: owner})
	must(t, err)
	return l
}

// take acquires and makes sure that the renewal ends with the test.
func take(t *testing.T, l *lease.Locker, key account.Key) refresh.Lease {
	t.Helper()
	h, err := l.Acquire(t.Context(), key)
	must(t, err)
	t.Cleanup(func() { h.Release(context.Background()) })
	return h
}

func mustKey(text string) account.Key {
	k, err := account.ParseKey(text)
	if err != nil {
		panic(err)
	}
	return k
}
