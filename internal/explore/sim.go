package explore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/seal"

	"github.com/tokenbus/tokenbus/internal/memory"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
)

// Durations of the simulated fleet: short, in the proportions of real ones.
const (
	leaseTTL  = 3 * time.Second
	patience  = 2 * time.Second // with one exchange
	tokenTTL  = 10 * time.Minute
	maxFaults = 4             // in one schedule
	epoch     = 1_800_000_000 // the simulated wall clock's start, Unix seconds
)

// verdict is what the scheduler decides about one operation.
type verdict int

const (
	doIt       verdict = iota // done and reported
	failBefore                // not done, reported as failed
	failAfter                 // done, reported as failed
	late                      // done, and reported later
	gone                      // its worker is dead: nothing is done
	cancelled                 // its context has ended: nothing is done
)

// point is an operation that waits for the scheduler.
type point struct {
	w      *worker
	op     string
	n      int // the worker's how-manieth
	faults []verdict
	decide chan verdict
	left   chan struct{} // closed when nobody waits for the decision any more
}

// timer is a point that waits for the clock.
type timer struct {
	w  *worker
	at time.Duration
	n  int
	ch chan time.Time
}

// sim is one world: shared backends, an endpoint, workers, and the scheduler.
type sim struct {
	ctx      context.Context
	scenario *scenario
	deviate  map[int]int // step to choice
	random   func(choices int) int

	mu      sync.Mutex // guards what follows
	now     time.Duration
	points  []*point
	timers  []*timer
	free    bool // healed: operations no longer wait, nothing fails
	workers []*worker

	tracing         bool
	options, faulty []choice // room for choices

	step  int
	width []int // the number of choices at each step
	taken []string
	logMu sync.Mutex // guards log
	log   []string
	spent int // faults so far
	last  *worker

	leaseOf   *worker       // the last to take the lease
	leaseEnds time.Duration // when it runs out, since nobody renews it; 0: it is renewed

	backups  []*backup // of the store; one may be restored, once
	restored bool

	store    memory.Store
	cache    memory.Cache
	locker   memory.Locker
	journal  memory.Journal
	bus      memory.Bus
	endpoint *oauthtest.Server
	client   *oauth.Client
	sealer   *seal.Sealer

	check    check
	requests []*request
}

// worker is one process: a provider, and what dies with it or survives it.
type worker struct {
	s      *sim
	name   string
	skew   time.Duration // of its wall clock
	p      *provider.Provider
	spool  *memory.Journal // survives on its disk
	dead   bool
	frozen bool
	stops  bool // it was told to stop and not to wait
	ops    int
	timers int
	idle   time.Duration // that passed while it was frozen, or while the world did not answer it
}

// backup is what the store had at some time.
type backup struct {
	of   string
	docs map[account.Key]account.Account
}

var errSim = errors.New("connection reset by the scheduler")

// at is called by every port: it waits for the scheduler's decision.
func (w *worker) at(ctx context.Context, op string, faults ...verdict) verdict {
	s := w.s
	s.mu.Lock()
	if w.dead {
		s.mu.Unlock()
		return gone
	}
	if ctx.Err() != nil {
		s.mu.Unlock()
		return cancelled
	}
	if s.free {
		s.mu.Unlock()
		return doIt
	}
	w.ops++
	p := &point{w, op, w.ops, faults, make(chan verdict), make(chan struct{})}
	s.points = append(s.points, p)
	s.mu.Unlock()
	select {
	case v := <-p.decide:
		return v
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		s.points = slices.DeleteFunc(s.points, func(q *point) bool { return q == p })
		close(p.left)
		return cancelled
	}
}

// is tells the point what was decided.
func (p *point) is(v verdict) {
	select {
	case p.decide <- v:
	case <-p.left:
	}
}

// choice is one thing that may happen next.
type choice struct {
	kind kind
	p    *point
	v    verdict
	t    *timer
	w    *worker
	r    *request
	b    *backup
}

type kind int

const (
	proceeds kind = iota // p is decided with v
	passes               // the clock comes to t
	crashes
	freezes
	wakes
	stops    // without waiting for what runs
	restores // a backup of the store
	expires  // the lease
	givesUp
)

func (c choice) String() string {
	switch c.kind {
	case proceeds:
		return c.p.w.name + " " + c.p.op + map[verdict]string{failBefore: " fails", failAfter: " is done and reported as failed", late: " is done and not reported yet", answers503: ": 503",
			answersInvalidClient: ": invalid_client", answerIsCut: ": cut"}[c.v]
	case passes:
		return "time passes"
	case crashes:
		return c.w.name + " crashes"
	case freezes:
		return c.w.name + " freezes"
	case wakes:
		return c.w.name + " wakes up"
	case stops:
		return c.w.name + " is stopped"
	case restores:
		return "the store goes back to " + c.b.of
	case expires:
		return "the lease expires"
	}
	return c.r.name + " gives up"
}

func (c choice) fault() bool {
	return c.kind == proceeds && c.v != doIt || c.kind >= crashes && c.kind != wakes
}

func (s *sim) do(c choice) {
	switch c.kind {
	case proceeds:
		s.release(c.p, c.v)
	case passes:
		s.fire(c.t)
	case crashes:
		s.crash(c.w)
	case freezes:
		s.freeze(c.w, true)
	case wakes:
		s.freeze(c.w, false)
	case stops:
		s.stopNow(c.w)
	case restores:
		s.restore(c.b)
	case expires:
		s.locker.Expire(theKey)
	case givesUp:
		c.r.cancelled = true
		c.r.cancel()
	}
}

// run lets things happen until the workload is done and nothing waits, or the
// world hangs.
func (s *sim) run() {
	for range 400 {
		synctest.Wait()
		choices := s.choices()
		if len(choices) == 0 {
			return
		}
		pick := 0
		if c, ok := s.deviate[s.step]; ok {
			pick = c
		} else if s.random != nil {
			pick = s.random(len(choices))
		}
		if pick >= len(choices) {
			pick = 0
		}
		s.width = append(s.width, len(choices))
		if s.tracing {
			s.logf("%s", choices[pick])
		}
		if pick > 0 {
			s.taken = append(s.taken, fmt.Sprintf("%d:%d", s.step, pick))
		}
		if choices[pick].fault() {
			s.spent++
		}
		s.step++
		s.do(choices[pick])
	}
	s.logf("…")
}

func (s *sim) elapsed() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *sim) logf(format string, args ...any) {
	if !s.tracing {
		return
	}
	now := s.elapsed()
	s.logMu.Lock()
	defer s.logMu.Unlock()
	s.log = append(s.log, fmt.Sprintf("%3d %8s  ", s.step, now)+fmt.Sprintf(format, args...))
}

// choices lists what may happen next, the plain course of things first. It
// depends on nothing but the decisions so far.
func (s *sim) choices() []choice {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.points, func(a, b *point) int {
		return cmp.Or(boolCompare(a.w != s.last, b.w != s.last), cmp.Compare(a.w.name, b.w.name), cmp.Compare(a.op, b.op), cmp.Compare(a.n, b.n))
	})
	normal, faulty := s.options[:0], s.faulty[:0]
	for _, p := range s.points {
		if p.w.frozen {
			continue
		}
		normal = append(normal, choice{kind: proceeds, p: p})
		for _, v := range p.faults {
			faulty = append(faulty, choice{kind: proceeds, p: p, v: v})
		}
	}
	busy := slices.ContainsFunc(s.requests, func(r *request) bool { return !r.done })
	if t := s.nextTimer(); t != nil && (len(normal) > 0 || busy) {
		normal = append(normal, choice{kind: passes, t: t})
	}
	if len(normal) == 0 {
		for _, w := range s.workers { // nothing else moves: the frozen wake up
			if w.frozen {
				return []choice{{kind: wakes, w: w}}
			}
		}
		return nil
	}
	if busy && s.spent < maxFaults {
		faulty = s.disasters(faulty)
	}
	s.options, s.faulty = normal, faulty
	if s.spent < maxFaults {
		s.options = append(normal, faulty...)
	}
	return s.options
}

// disasters adds what may befall workers, leases and askers.
func (s *sim) disasters(to []choice) []choice {
	for _, w := range s.workers {
		if w.dead {
			continue
		}
		to = append(to, choice{kind: crashes, w: w})
		if !w.frozen {
			to = append(to, choice{kind: freezes, w: w})
		}
		if !w.stops {
			to = append(to, choice{kind: stops, w: w})
		}
	}
	if !s.restored {
		for _, b := range s.backups {
			to = append(to, choice{kind: restores, b: b})
		}
	}
	to = append(to, choice{kind: expires})
	for _, r := range s.requests {
		if !r.done && !r.cancelled {
			to = append(to, choice{kind: givesUp, r: r})
		}
	}
	return to
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (s *sim) release(p *point, v verdict) {
	s.mu.Lock()
	s.points = slices.DeleteFunc(s.points, func(q *point) bool { return q == p })
	s.last = p.w
	s.mu.Unlock()
	p.is(v)
}

// nextTimer returns the timer that is due next; the caller holds mu.
func (s *sim) nextTimer() *timer {
	var next *timer
	for _, t := range s.timers {
		if t.w.dead || t.w.frozen {
			continue
		}
		if next == nil || cmp.Or(cmp.Compare(t.at, next.at), cmp.Compare(t.w.name, next.w.name), cmp.Compare(t.n, next.n)) < 0 {
			next = t
		}
	}
	return next
}

func (s *sim) fire(t *timer) {
	s.mu.Lock()
	for _, w := range s.workers {
		if w.frozen || slices.ContainsFunc(s.points, func(p *point) bool { return p.w == w }) {
			w.idle += max(0, t.at-s.now)
		}
	}
	s.now = max(s.now, t.at)
	s.timers = slices.DeleteFunc(s.timers, func(u *timer) bool { return u == t })
	now := s.now
	s.mu.Unlock()
	t.ch <- time.Unix(epoch, 0).Add(now)
}

// crash kills a worker: what it waits for is never done, and whatever its
// goroutines still try changes nothing.
func (s *sim) crash(w *worker) {
	mine := s.bury(w)
	s.check.crashed(w, slices.ContainsFunc(mine, func(p *point) bool { return p.op == "spool stash" }))
	for _, p := range mine {
		p.is(gone)
	}
	s.abandon(w)
}

// bury marks w as dead and returns what it was waiting for.
func (s *sim) bury(w *worker) (mine []*point) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.dead, w.frozen = true, false
	s.points = slices.DeleteFunc(s.points, func(p *point) bool {
		if p.w == w {
			mine = append(mine, p)
		}
		return p.w == w
	})
	return mine
}

// stopNow stops a worker that has no patience with what runs. What it still
// does to save an outcome is up to the scheduler; when that is over the process
// ends.
func (s *sim) stopNow(w *worker) {
	w.stops = true
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	go func() {
		err := w.p.Close(ctx)
		s.mu.Lock()
		over := w.dead || s.free
		s.mu.Unlock()
		if over { // it crashed meanwhile, or the world was healed
			return
		}
		mine := s.bury(w)
		s.check.stopped(w, err)
		for _, p := range mine {
			p.is(gone)
		}
		s.abandon(w)
	}()
}

// restore puts the store back to what it was.
func (s *sim) restore(b *backup) {
	s.mu.Lock()
	s.restored = true
	s.mu.Unlock()
	s.store.Restore(b.docs)
	s.check.restored()
}

func (s *sim) freeze(w *worker, frozen bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.frozen = frozen
	if frozen {
		s.abandonLocked(w)
	}
}

// settle runs the healed world for a while: nothing waits, nothing fails, time
// passes from timer to timer.
func (s *sim) settle(d time.Duration) {
	s.mu.Lock()
	s.free = true
	until := s.now + d
	waiting := s.points
	s.points = nil
	for _, w := range s.workers {
		w.frozen = false
	}
	s.mu.Unlock()
	for _, p := range waiting {
		p.is(doIt)
	}
	for {
		synctest.Wait()
		s.mu.Lock()
		t := s.nextTimer()
		if t == nil || t.at > until {
			s.now = max(s.now, until)
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		s.fire(t)
	}
}

// request is one piece of the scenario's workload.
type request struct {
	name      string
	cancel    context.CancelFunc
	cancelled bool
	done      bool
}

// task runs f as part of the workload.
func (s *sim) task(name string, f func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &request{name: name, cancel: cancel}
	s.requests = append(s.requests, r)
	go func() {
		f(ctx)
		s.mu.Lock()
		r.done = true
		s.mu.Unlock()
	}()
	synctest.Wait() // each takes its first step in its turn
}

var theKey = func() account.Key {
	k, err := account.NewKey("demo", "a")
	if err != nil {
		panic(err)
	}
	return k
}()

// trace is the schedule as a story.
func (s *sim) trace() string { return strings.Join(s.log, "\n") }

// line is what replays the schedule.
func (s *sim) line() string { return s.scenario.name + "/" + strings.Join(s.taken, ",") }
