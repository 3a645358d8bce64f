//go:build unix

package degraded_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/rig"
)

// How long things take. The machine may be busy: only a request that hangs
// takes as long as these.
const (
	outage   = 3 * l1MaxAge            // at least
	atOnce   = 300 * time.Millisecond  // for nearly all answers with a token in hand
	soon     = 1500 * time.Millisecond // for the slowest of them
	stall    = 4 * time.Second         // for that where the machine stalls: a dependency that hangs takes longer
	answered = 15 * time.Second        // for any answer: the worker's own patience is 10 s
	healed   = time.Minute
)

// failure is a way to be out of order.
type failure string

const (
	refused   failure = "refused"
	blackHole failure = "black hole"
	slow      failure = "slow"
	flapping  failure = "flapping"
)

var failures = []failure{refused, blackHole, slow, flapping}

// dead reports whether nothing at all gets through.
func (f failure) dead() bool { return f == refused || f == blackHole }

// breaks makes a link fail.
func (f failure) breaks(t *testing.T, l *rig.Link) {
	t.Helper()
	switch f {
	case refused:
		l.Refuse(t)
	case blackHole:
		l.BlackHole(t)
	case slow:
		l.Slow(t, 2*time.Second)
	case flapping:
		l.Flap(t, 700*time.Millisecond, 400*time.Millisecond)
	}
}

// row runs a row of the table: play plays one failure.
func row(t *testing.T, play func(t *testing.T, f failure)) {
	for _, f := range failures {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			play(t, f)
		})
	}
}

// scene is one failure of one dependency and what is wanted meanwhile.
type scene struct {
	begin, end func()
	// unready are the dependencies of which /readyz must name one while the
	// failure lasts; none: it isn't asked.
	unready []string
	hot     []account.Key // with tokens in hand, asked for all the time
	rested  []account.Key // with tokens in hand, not asked for until it fails
	asks    asker         // for the hot ones; nil: over the wire, once, and the answer must come at once
	refresh cell
	fresh   cell // accounts that no cache knows
}

// cell is what a column holds against the fleet while the failure lasts, and
// once it is over.
type cell struct{ during, after func() error }

// play plays the scene and reports each column.
func (fl *fleet) play(s scene) {
	fl.t.Helper()
	l := fl.hold(s.hot, s.asks)
	if err := await(fl.t.Context(), healed, l.warm); err != nil {
		fl.t.Fatal(err)
	}
	if err := fl.rest(s.rested, l.ask); err != nil {
		fl.t.Fatal(err)
	}
	l.measure()
	over := time.After(outage)
	s.begin()
	each(s.rested, func(key account.Key) error { l.one(key); return nil })
	var refresh, fresh, ready error
	together(
		func() { refresh = s.refresh.during() },
		func() { fresh = s.fresh.during() },
		func() { ready = fl.unready(s.unready) },
	)
	<-over
	s.end()
	together(
		func() { refresh = errors.Join(refresh, s.refresh.after()) },
		func() { fresh = errors.Join(fresh, s.fresh.after()) },
		func() { ready = errors.Join(ready, fl.ready()) },
	)
	column := func(name string, err error) {
		fl.t.Run(name, func(t *testing.T) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	column("tokens in hand", l.stop(fl.t))
	column("refresh", refresh)
	column("new account keys", fresh)
	if ready != nil {
		fl.t.Errorf("/readyz: %v", ready)
	}
	if fl.t.Failed() {
		for _, w := range fl.workers {
			fl.t.Logf("%s:\n%s", w.name, w.process().Text())
		}
	}
}

// rest has the accounts asked for until everybody knows them, and then not for
// so long that all must check them before they serve them again.
func (fl *fleet) rest(keys []account.Key, ask asker) error {
	const enough = 12 // for each worker to be among those that answer
	for range enough {
		if err := each(keys, ask); err != nil {
			return err
		}
	}
	select {
	case <-time.After(l1MaxAge):
		return nil
	case <-fl.t.Context().Done():
		return fl.t.Context().Err()
	}
}

func together(fs ...func()) {
	var wg sync.WaitGroup
	for _, f := range fs {
		wg.Go(f)
	}
	wg.Wait()
}

// unready waits until /readyz of each worker has named one of the
// dependencies, and why.
func (fl *fleet) unready(names []string) error {
	if len(names) == 0 {
		return nil
	}
	errs := make([]error, len(fl.workers))
	var wg sync.WaitGroup
	for i, w := range fl.workers {
		wg.Go(func() {
			errs[i] = await(fl.t.Context(), healed, func() error {
				wrong, err := w.ready(fl.t.Context())
				if err != nil {
					return err
				}
				if slices.ContainsFunc(names, func(name string) bool { return wrong[name] != "" }) {
					return nil
				}
				return fmt.Errorf("%s says of %v nothing: %v", w.name, names, wrong)
			})
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// ready waits until /readyz of each worker finds nothing wrong.
func (fl *fleet) ready() error {
	return await(fl.t.Context(), healed, func() error {
		var errs []error
		for _, w := range fl.workers {
			wrong, err := w.ready(fl.t.Context())
			if err == nil && len(wrong) > 0 {
				err = fmt.Errorf("%s still says %v", w.name, slices.Sorted(maps.Values(wrong)))
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// asker asks for a token that is in hand.
type asker func(key account.Key) error

// load keeps asking for tokens in hand, one account after the other, whether
// the last answer has come or not.
//
// Beside them it sends requests that need nothing but a worker's attention. An
// answer that is late while these are late too says nothing of the dependency:
// the machine is busy with something else.
type load struct {
	ask   asker
	probe func(account.Key) error // nil: none
	end   context.CancelFunc
	ended chan struct{}

	mu       sync.Mutex // guards the rest
	answers  map[account.Key]int
	total    int // since measure
	slowest  span
	late     []span // answers that did not come at once
	lagging  []span // probes that took half of that
	problems []error
}

// span is when a request was under way.
type span struct{ from, to time.Time }

func (s span) took() time.Duration { return s.to.Sub(s.from).Round(time.Millisecond) }

// hold starts a load. Without an asker each request is made once, and must be
// answered at once.
func (fl *fleet) hold(keys []account.Key, ask asker) *load {
	l := &load{ask: ask, ended: make(chan struct{}), answers: map[account.Key]int{}}
	if ask == nil {
		l.ask, l.probe = func(key account.Key) error { return fl.get(key, 1) }, fl.probe
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.end = cancel
	go l.run(ctx, keys)
	fl.t.Cleanup(func() { l.end(); <-l.ended })
	return l
}

func (l *load) run(ctx context.Context, keys []account.Key) {
	defer close(l.ended)
	var asks sync.WaitGroup
	defer asks.Wait()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
			asks.Go(func() { l.one(keys[i%len(keys)]) })
			if l.probe != nil && i%5 == 0 {
				asks.Go(func() { l.attend(keys[i%len(keys)]) })
			}
		case <-ctx.Done():
			return
		}
	}
}

func (l *load) one(key account.Key) {
	s := span{from: time.Now()}
	err := l.ask(key)
	s.to = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total++
	if s.took() > l.slowest.took() {
		l.slowest = s
	}
	if s.took() > atOnce {
		l.late = append(l.late, s)
	}
	if err != nil {
		l.problems = append(l.problems, fmt.Errorf("after %s: %w", s.took(), err))
		return
	}
	l.answers[key]++
}

// attend makes a probe.
func (l *load) attend(key account.Key) {
	s := span{from: time.Now()}
	err := l.probe(key)
	s.to = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || s.took() > atOnce/2 {
		l.lagging = append(l.lagging, s)
	}
}

// probe makes a request that is refused by whoever reads it.
func (fl *fleet) probe(key account.Key) error {
	m, err := fl.gateway.Request(fl.subjects.Request(key), []byte("not JSON"), stall)
	if err == nil && m.Header.Get(events.HeaderErrorCode) != "400" {
		err = fmt.Errorf("a bad request is answered by %v", m.Header)
	}
	return err
}

// excused reports whether the machine stalled while the answer was waited for.
func (l *load) excused(s span) bool {
	return s.took() < stall && slices.ContainsFunc(l.lagging, func(p span) bool { return p.from.Before(s.to) && p.to.After(s.from) })
}

// warm returns nil once every worker is sure to have been asked for every
// account.
func (l *load) warm() error {
	const enough = 12
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, n := range l.answers {
		if n < enough {
			return fmt.Errorf("%s was answered %d times: %w", key, n, errors.Join(l.problems...))
		}
	}
	if len(l.answers) == 0 {
		return errors.Join(append(l.problems, errors.New("nothing was answered"))...)
	}
	return nil
}

// measure forgets what was before.
func (l *load) measure() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total, l.slowest, l.late, l.lagging, l.problems = 0, span{}, nil, nil, nil
}

// stop ends the load and returns what was wrong with it.
func (l *load) stop(t *testing.T) error {
	l.end()
	<-l.ended
	t.Logf("%d requests for tokens in hand, the slowest answered after %s, %d not at once; %d probes lagged", l.total, l.slowest.took(), len(l.late), len(l.lagging))
	problems := l.problems
	if more := len(problems) - 5; more > 0 {
		problems = append(problems[:5:5], fmt.Errorf("and %d more", more))
	}
	if l.total < 100 {
		problems = append(problems, fmt.Errorf("only %d requests", l.total))
	}
	if l.probe != nil {
		late := slices.DeleteFunc(l.late, l.excused)
		tooLate := slices.DeleteFunc(slices.Clone(late), func(s span) bool { return s.took() <= soon })
		if len(tooLate) > 0 || len(late) > l.total/100 {
			problems = append(problems, fmt.Errorf("%d answers came late and %d too late, and nothing else did", len(late), len(tooLate)))
		}
	}
	return errors.Join(problems...)
}

// refusal returns the error reply in err that has one of the codes and says
// when to ask again, or err.
func refusal(err error, codes ...events.Code) error {
	e, ok := errors.AsType[*events.Error](err)
	switch {
	case err == nil:
		return fmt.Errorf("answered; want one of %v", codes)
	case !ok || !slices.Contains(codes, e.Code):
		return fmt.Errorf("want one of %v: %w", codes, err)
	case e.RetryAfter <= 0:
		return fmt.Errorf("without retry_after: %w", err)
	}
	return nil
}

// unheard reports whether a request got no answer since NATS is out of reach.
func unheard(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrDisconnected)
}
