package refresh

import (
	"context"
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/rotation"
)

// Want is what a refresh is for.
type Want struct {
	Over     account.Version // something newer than this version
	Reason   events.Reason
	Operator bool // an operator asks: no hold on refreshes applies
	Force    bool // and ends a wait in doubt
	Join     bool // only wait for a rotation that runs; begin none
	Beside   bool // nobody waits: not begun while very many run

	due   bool  // over the version that is there, if its refresh is due
	place *gate // where the flight has a place from the start; nil: nowhere
}

// Flight is the one refresh of an account in this process.
type Flight struct {
	done chan struct{} // closed when err is final
	err  error
}

// Wait waits for the flight's end, as long as ctx allows; the flight goes on.
// nil means that the store has something newer, or that it is worth to look
// again.
func (f *Flight) Wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func ended(err error) *Flight {
	f := &Flight{done: make(chan struct{}), err: err}
	close(f.done)
	return f
}

// state is what this process remembers of an account's refreshes.
type state struct {
	flight *Flight       // that runs; nil: none
	news   chan struct{} // wakes it; capacity 1
	sight  rotation.Sighting
	looked time.Duration // when the account was last looked at; on the Elapsed clock
	// heldSince is when others were first seen to have its lease; 0: they don't.
	heldSince time.Duration
	hold      hold
}

// hold is a refresh that is not to be tried before until, given what was known
// at rev. Something newer lifts it.
type hold struct {
	until time.Time
	rev   account.Rev
	err   *events.Error
}

// flights are the accounts of which something is remembered.
type flights struct {
	mu     sync.Mutex // guards what follows
	m      map[account.Key]*state
	n      int // flights that run
	closed bool
	wg     sync.WaitGroup
}

// with runs f on the account's state, under the lock. f must not block.
func (fs *flights) with(key account.Key, f func(s *state)) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	s := fs.m[key]
	if s == nil {
		s = &state{news: make(chan struct{}, 1)}
		fs.m[key] = s
	}
	f(s)
}

// start runs f as the account's flight, or joins the one that runs (then
// joined is true). After close it returns nil.
func (fs *flights) start(key account.Key, f func(news <-chan struct{}) error) (fl *Flight, joined bool) {
	fs.with(key, func(s *state) {
		if s.flight != nil {
			fl, joined = s.flight, true
			return
		}
		if fs.closed {
			return
		}
		fl = &Flight{done: make(chan struct{})}
		s.flight = fl
		fs.n++
		fs.wg.Go(func() {
			fl.err = f(s.news)
			fs.mu.Lock()
			s.flight = nil
			fs.n--
			fs.mu.Unlock()
			close(fl.done)
		})
	})
	return fl, joined
}

// beside runs f beside the flights; after close it is not run.
func (fs *flights) beside(f func()) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return false
	}
	fs.wg.Go(f)
	return true
}

func (fs *flights) running() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.n
}

// close lets no further flight start.
func (fs *flights) close() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.closed = true
}

// forgetAfter is how long a rotation of others that nobody looks at any more
// is remembered.
const forgetAfter = time.Hour

// prune forgets what is of no use any more.
func (fs *flights) prune(now time.Time, elapsed time.Duration) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for key, s := range fs.m {
		idle := s.sight == rotation.Sighting{} && s.heldSince == 0 || elapsed-s.looked > forgetAfter
		if s.flight == nil && idle && !s.hold.until.After(now) {
			delete(fs.m, key)
		}
	}
}

// maxBeside is how many flights may run for one more to begin that nobody
// waits for.
const maxBeside = 1024

// Refresh starts or joins the account's refresh. One that failed a moment ago
// and whose hold still runs is not started again. joined says that it ran
// already, and may want less than w.
func (r *Refresher) Refresh(key account.Key, w Want) (fl *Flight, joined bool) {
	if !w.Operator {
		if err := r.heldOff(key); err != nil {
			return ended(err), false
		}
	}
	if w.Beside && r.flights.running() >= maxBeside {
		return ended(events.Unavailable(events.RetrySoon, "%s: this worker has very many refreshes to do", key)), false
	}
	if fl, joined = r.flights.start(key, func(news <-chan struct{}) error { return r.fly(key, w, news) }); fl == nil {
		return ended(errStopping()), false
	}
	return fl, joined
}

// Running returns the account's refresh that runs in this process, or nil.
func (r *Refresher) Running(key account.Key) *Flight {
	r.flights.mu.Lock()
	defer r.flights.mu.Unlock()
	if s := r.flights.m[key]; s != nil {
		return s.flight
	}
	return nil
}

// Wake makes the account's flight look again: there is news of it. With the
// zero key, every flight.
func (r *Refresher) Wake(key account.Key) {
	wake := func(s *state) {
		select {
		case s.news <- struct{}{}:
		default: // it is awake already
		}
	}
	r.flights.mu.Lock()
	defer r.flights.mu.Unlock()
	if s := r.flights.m[key]; s != nil {
		wake(s)
	}
	if key.IsZero() {
		for _, s := range r.flights.m {
			wake(s)
		}
	}
}

// heldOff returns the error of a hold that runs, or nil.
func (r *Refresher) heldOff(key account.Key) error {
	known := r.ledger.Known(key).Rev()
	var err error
	r.flights.mu.Lock()
	defer r.flights.mu.Unlock()
	if s := r.flights.m[key]; s != nil && s.hold.err != nil && s.hold.rev >= known {
		if left := s.hold.until.Sub(r.clock.Now()); left > 0 {
			e := *s.hold.err
			e.RetryAfter = events.Soonest(left)
			err = &e
		}
	}
	return err
}

// holdOff remembers that a refresh of the account, as it is known at rev, is
// not to be tried again for a while, and returns why.
func (r *Refresher) holdOff(key account.Key, rev account.Rev, d time.Duration, err *events.Error) *events.Error {
	until := r.clock.Now().Add(d)
	r.flights.with(key, func(s *state) { s.hold = hold{until, rev, err} })
	return err
}
