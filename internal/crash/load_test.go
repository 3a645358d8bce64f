//go:build linux

package crash_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/events"
)

const (
	askers   = 4                    // clients
	askEvery = 5 * time.Millisecond // all of them together, whatever waits
	askWait  = 5 * time.Second
	// clockShift is how far a worker's wall clock is off in a run. Tokens live
	// for seconds there, so more would end their use and prove nothing.
	clockShift = 500 * time.Millisecond
)

// load is the askers of a run and what they got.
type load struct {
	fl *fleet

	mu     sync.Mutex // guards the rest
	tally  *tally     // of the phase that runs
	served map[account.Key]served
	wrong  []string
	woken  time.Time            // when a worker that was stopped went on last; in the future while one is
	denied map[account.Key]bool // told that a person must log in again
}

// served is the newest token that anybody was given.
type served struct {
	version account.Version
	access  string
	ends    time.Time // by the endpoint's account
}

// tally is what came of the look-ups of a phase.
type tally struct {
	took   []time.Duration // of those that brought a token
	easy   []time.Duration // those of them for which a living token existed
	awake  []time.Duration // those of these during which no worker was stopped
	failed map[string]int  // by code
	living map[string]int  // those of them during which a living token existed
}

func newTally() *tally { return &tally{failed: map[string]int{}, living: map[string]int{}} }

// phase begins a new phase and returns its tally, which is to be read when it
// is over.
func (ld *load) phase() *tally {
	ld.mu.Lock()
	defer ld.mu.Unlock()
	ld.tally = newTally()
	return ld.tally
}

// run asks until ctx ends, at a steady rate: requests that wait hold up no
// others. An account that needs a new login is left alone, as gateways do.
func (ld *load) run(ctx context.Context, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 300))
	var clients [askers]asker
	for i := range clients {
		clients[i] = asker{Client: ld.fl.newAsker(), seen: map[account.Key]account.Version{}}
	}
	var all sync.WaitGroup
	defer all.Wait()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		l := ld.fl.accounts[rnd.IntN(len(ld.fl.accounts))]
		a := &clients[rnd.IntN(askers)]
		if !ld.isDenied(l) {
			all.Go(func() { ld.ask(ctx, a, l) })
		}
	}
}

// asker is a client and the versions that it has seen.
type asker struct {
	*client.Client
	mu   sync.Mutex // guards seen
	seen map[account.Key]account.Version
}

func (a *asker) version(key account.Key) account.Version {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[key]
}

func (a *asker) note(key account.Key, v account.Version) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen[key] = max(a.seen[key], v)
}

func (ld *load) isDenied(l *login) bool {
	ld.mu.Lock()
	defer ld.mu.Unlock()
	return ld.denied[l.key]
}

func (ld *load) ask(ctx context.Context, a *asker, l *login) {
	ld.mu.Lock()
	before, tally := ld.served[l.key], ld.tally
	ld.mu.Unlock()
	floor, start := a.version(l.key), time.Now()
	wait, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	token, err := a.Token(wait, l.key)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		ld.failed(l, tally, before, start, err)
	default:
		ld.got(l, tally, before, token, start, time.Since(start))
		if token.Version < floor {
			ld.violation("P3: %s fell from version %d to %d", l.key, floor, token.Version)
		}
		a.note(l.key, token.Version)
	}
}

// got checks a token that was served to somebody who began to ask at start.
func (ld *load) got(l *login, t *tally, before served, token client.Token, start time.Time, took time.Duration) {
	access := token.AccessToken()
	ends, known := ld.fl.front.endOf(access)
	good := l.key.Platform() == third || ld.fl.accepted(l, access)
	ld.mu.Lock()
	t.took = append(t.took, took)
	if before.ends.Sub(start) > minTTL+clockShift {
		t.easy = append(t.easy, took)
		if ld.woken.Before(start) {
			t.awake = append(t.awake, took)
		}
	}
	if token.Version > ld.served[l.key].version {
		ld.served[l.key] = served{token.Version, access, ends}
	}
	ld.mu.Unlock()
	switch {
	case !known:
		ld.violation("%s: version %d has a token that no endpoint has issued", l.key, token.Version)
	// An end that a clock ahead has written may be judged by one that is behind.
	case ends.Sub(start) < minTTL-2*clockShift:
		ld.violation("P5: %s: version %d, %s before its end", l.key, token.Version, ends.Sub(start))
	case !good && time.Now().Before(ends.Add(-time.Second)) && !ld.fl.revoked(l):
		ld.violation("%s: the endpoint refuses the token of version %d, which lives", l.key, token.Version)
	}
}

// failed counts a look-up that brought no token. A living token existed if the
// newest that anybody had been given before would have served when it was asked.
func (ld *load) failed(l *login, t *tally, before served, start time.Time, err error) {
	code := "other"
	if e, ok := errors.AsType[*client.Error](err); ok {
		code = string(e.Code)
	}
	living := before.ends.Sub(start) > minTTL+clockShift && !ld.fl.revoked(l)
	ld.mu.Lock()
	t.failed[code]++
	if living {
		t.living[code]++
	}
	if code == string(events.CodeReauthRequired) {
		ld.denied[l.key] = true
	}
	ld.mu.Unlock()
	switch events.Code(code) {
	case events.CodeUnavailable, events.CodeTimeout, events.CodeCoolingDown:
	case events.CodeReauthRequired:
		if living && time.Until(before.ends) > minTTL+clockShift {
			ld.violation("P9: %s: %v, though version %d lives", l.key, err, before.version)
		}
	default:
		ld.violation("P9: %s: %v", l.key, err)
	}
}

func (ld *load) violation(format string, args ...any) {
	ld.mu.Lock()
	defer ld.mu.Unlock()
	ld.wrong = append(ld.wrong, time.Now().Format(clock)+" "+fmt.Sprintf(format, args...))
}

// stopped notes that a worker is stopped, and takes requests that it can't
// answer; the function that it returns notes the end of that.
func (ld *load) stopped() (ended func()) {
	set := func(at time.Time) {
		ld.mu.Lock()
		defer ld.mu.Unlock()
		ld.woken = at
	}
	set(time.Now().Add(time.Hour))
	return func() { set(time.Now()) }
}

// newest is the newest version of the account that anybody was given.
func (ld *load) newest(l *login) served {
	ld.mu.Lock()
	defer ld.mu.Unlock()
	return ld.served[l.key]
}

func percentile(of []time.Duration, p float64) time.Duration {
	if len(of) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(of))
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)].Round(10 * time.Microsecond)
}
