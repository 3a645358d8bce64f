//go:build unix

package degraded_test

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// A worker, with exchanges in its hands: another one answers, and goes on by
// the rule. Refused: it is killed. Black hole: it is stopped. Slow: it is
// stopped most of the time. Flapping: it is killed and started again and
// again.
func TestP7DegradedWorker(t *testing.T) {
	row(t, func(t *testing.T, f failure) {
		fl := newFleet(t, config{workers: 3, patience: time.Minute})
		hot, cold := fl.inHand(strict), fl.puts(6, strict, "cold", living)
		lenientOne := fl.put(heldLenient, "lenient", 0)
		victim := fl.forced(lenientOne)
		strictOne := fl.forcedBy(victim)
		var trouble *trouble
		fl.play(scene{
			begin: func() { trouble = victim.suffers(t, f); fl.release() }, end: func() { trouble.ends(t) },
			hot: hot, asks: func(key account.Key) error { return fl.persist(key, 1) },
			refresh: cell{
				during: func() error {
					fl.spend(strictOne, forcing) // somebody wants it, and must not have it sent again
					err := fl.persist(lenientOne, 2)
					fl.spend(strictOne, forcing)
					return errors.Join(err, fl.committed(lenientOne, 2))
				},
				after: func() error {
					err := fl.committed(lenientOne, 2)
					if f == blackHole || f == slow { // its answer was late, and is not lost
						err = errors.Join(err, fl.committed(strictOne, 2))
					}
					if n := fl.endpoints[heldLenient].Reused(); n != 0 {
						err = errors.Join(err, fmt.Errorf("%d refresh tokens came after the grace", n))
					}
					return errors.Join(err, fl.persist(lenientOne, 2), fl.persist(strictOne, 1), fl.sentOnce(strictOne))
				},
			},
			fresh: cell{
				during: func() error {
					return inTurn(cold, func(key account.Key) error { return fl.persist(key, 1) })
				},
				after: func() error { return each(cold, func(key account.Key) error { return fl.persist(key, 1) }) },
			},
		})
	})
}

// forcing wants a token that lives longer than the one that lives.
var forcing = events.TokenRequest{MinTTL: 2 * living}

// forced makes somebody exchange the refresh token of an account whose access
// token lives, and returns who: the endpoint holds the answer.
func (fl *fleet) forced(key account.Key) *worker {
	fl.t.Helper()
	fl.spend(key, forcing)
	var by *worker
	err := await(fl.t.Context(), healed, func() error {
		a, err := fl.documents.Get(fl.t.Context(), key)
		if err != nil || a.Rotation == nil || fl.sent(key) == 0 {
			return errors.Join(err, fmt.Errorf("no exchange for %s", key))
		}
		for _, w := range fl.workers {
			if a.Rotation.Worker == w.id() {
				by = w
			}
		}
		return nil
	})
	if err != nil || by == nil {
		fl.t.Fatalf("who exchanges the refresh token of %s: %v", key, err)
	}
	return by
}

// forcedBy does the same with one account after the other until it is this
// worker's.
func (fl *fleet) forcedBy(w *worker) account.Key {
	fl.t.Helper()
	for i := range 100 {
		if key := fl.put(heldStrict, fmt.Sprintf("strict%d", i+1), living); fl.forced(key) == w {
			return key
		}
	}
	fl.t.Fatalf("%s gets no request", w.name)
	return account.Key{}
}

// persist asks until somebody answers: a request that a dying worker has taken
// gets no answer.
func (fl *fleet) persist(key account.Key, version account.Version) error {
	return await(fl.t.Context(), answered, func() error {
		reply, err := fl.ask(fl.gateway, key, events.TokenRequest{}, soon/3)
		if err == nil && reply.Version < version {
			return fmt.Errorf("%s is at version %d", key, reply.Version)
		}
		return err
	})
}

// trouble is what a worker goes through.
type trouble struct {
	w    *worker
	f    failure
	over chan struct{} // closed to end it
	wg   sync.WaitGroup
}

// suffers begins it.
func (w *worker) suffers(t *testing.T, f failure) *trouble {
	t.Helper()
	tr := &trouble{w: w, f: f, over: make(chan struct{})}
	switch f {
	case refused:
		w.process().Kill()
	case blackHole:
		tr.signal(t, syscall.SIGSTOP)
	case slow:
		tr.wg.Go(func() {
			for tr.lasts(300 * time.Millisecond) {
				tr.signal(t, syscall.SIGSTOP)
				tr.lasts(600 * time.Millisecond)
				tr.signal(t, syscall.SIGCONT)
			}
		})
	case flapping:
		w.process().Kill()
		tr.wg.Go(func() {
			for tr.lasts(300 * time.Millisecond) {
				w.start(t)
				w.process().Await(t, "worker answers requests")
				tr.lasts(300 * time.Millisecond)
				w.process().Kill()
			}
		})
	}
	return tr
}

// ends ends it: the worker runs.
func (tr *trouble) ends(t *testing.T) {
	t.Helper()
	close(tr.over)
	tr.wg.Wait()
	switch tr.f {
	case blackHole:
		tr.signal(t, syscall.SIGCONT)
	case refused, flapping:
		tr.w.start(t)
		tr.w.process().Await(t, "worker answers requests")
	}
}

// lasts waits, and reports whether it goes on.
func (tr *trouble) lasts(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-tr.over:
		return false
	}
}

func (tr *trouble) signal(t *testing.T, s syscall.Signal) {
	if err := tr.w.process().Signal(s); err != nil {
		t.Error(err)
	}
}
