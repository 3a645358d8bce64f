package backoff

import (
	"context"
	"fmt"
	"time"
)

// SkippedError says why a [Budget] made no call: the dependency is out of
// order, or too many wait for it already.
type SkippedError struct {
	Name  string        // of the dependency
	Busy  bool          // too many wait; else it is out of order
	After time.Duration // when it is worth to ask again
}

func (e *SkippedError) Error() string {
	if e.Busy {
		return e.Name + ": too many wait for it already"
	}
	return e.Name + " is slow or down and is left alone for a moment"
}

// BudgetConfig configures a [Budget].
type BudgetConfig struct {
	Name string // of the dependency, for errors
	// Timeout bounds each call. Default 500 ms.
	Timeout time.Duration
	// Slow: a call that took longer counts as failed, though its result is
	// used. Default half of Timeout.
	Slow time.Duration
	// AtOnce is how many calls run at once, and Waiting how many more may wait
	// for their turn. Defaults 64 and 1024.
	AtOnce, Waiting int
	// Beside is a budget of the same dependency for other callers: what one
	// learns of it both know. nil: there is none.
	Beside *Budget
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Rand gives the jitter, a number in [0, 1). Default rand.Float64.
	Rand func() float64
}

// Budget bounds what callers spend on a dependency that they can do without,
// or had better fail fast without. A dependency that hangs costs no more than
// one that is down: each call has a timeout, and after three in a row that
// failed or were slow nobody calls for a moment, but one probe. A Budget is
// safe for concurrent use.
type Budget struct {
	cfg     BudgetConfig
	breaker *Breaker
	queue   chan struct{} // one taken by each caller, running or waiting
	slots   chan struct{} // one taken by each that runs
}

// NewBudget returns a Budget.
func NewBudget(cfg BudgetConfig) (*Budget, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 500 * time.Millisecond
	}
	if cfg.Slow == 0 {
		cfg.Slow = cfg.Timeout / 2
	}
	if cfg.AtOnce == 0 {
		cfg.AtOnce = 64
	}
	if cfg.Waiting == 0 {
		cfg.Waiting = 1024
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Timeout < 0 || cfg.Slow < 0 || cfg.AtOnce < 0 || cfg.Waiting < 0 {
		return nil, fmt.Errorf("budget %s: nothing may be negative", cfg.Name)
	}
	b := &Budget{cfg: cfg, queue: make(chan struct{}, cfg.AtOnce+cfg.Waiting), slots: make(chan struct{}, cfg.AtOnce)}
	if cfg.Beside != nil {
		b.breaker = cfg.Beside.breaker
		return b, nil
	}
	var err error
	b.breaker, err = NewBreaker(BreakerConfig{
		Failures: 3, Accounts: 1, Rand: cfg.Rand, ProbeTimeout: cfg.Timeout + time.Second,
		Open: Policy{Base: 500 * time.Millisecond, Cap: 5 * time.Second, Floor: 100 * time.Millisecond},
	})
	return b, err
}

// Do calls f, when it is its turn, and returns its error; or a [*SkippedError]
// if f was not called. fine tells of an error of f that it says nothing
// against the dependency, such as "not found"; nil: none is.
func (b *Budget) Do(ctx context.Context, f func(ctx context.Context) error, fine func(error) bool) error {
	select {
	case b.queue <- struct{}{}:
		defer func() { <-b.queue }()
	default:
		return &SkippedError{Name: b.cfg.Name, Busy: true, After: b.cfg.Timeout}
	}
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if ok, after := b.breaker.Allow(b.cfg.Now()); !ok {
		return &SkippedError{Name: b.cfg.Name, After: after}
	}
	bounded, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	start := b.cfg.Now()
	err := f(bounded)
	b.report(ctx, err == nil || fine != nil && fine(err), start)
	return err
}

// report tells the breaker what a call says of the dependency. One that its
// caller gave up early says nothing.
func (b *Budget) report(caller context.Context, well bool, start time.Time) {
	now := b.cfg.Now()
	took := now.Sub(start)
	switch {
	case well && took <= b.cfg.Slow:
		b.breaker.Success()
	case !well && caller.Err() != nil && took <= b.cfg.Slow:
		b.breaker.Cancel(now)
	default:
		b.breaker.Failure(now, "")
	}
}

// Late reports that somebody has waited for a call for longer than it is worth.
func (b *Budget) Late() { b.breaker.Failure(b.cfg.Now(), "") }

// Reset forgets what was learned of the dependency.
func (b *Budget) Reset() { b.breaker.Reset() }
