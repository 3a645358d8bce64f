package backoff

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// State is the state of a [Breaker].
type State string

// The states of a breaker.
const (
	Closed   State = "closed"    // all may pass
	Open     State = "open"      // nobody may pass
	HalfOpen State = "half_open" // one probe is under way
)

// BreakerConfig configures a [Breaker].
type BreakerConfig struct {
	// Failures in a row open the breaker, if they come from Accounts different
	// accounts at least: what one account alone runs into is its own trouble.
	// Defaults 5 and 2.
	Failures int
	Accounts int
	// Open is how long the breaker stays open, by the number of openings
	// without a success between them. Its Floor keeps the jitter from making
	// that nothing. Default: Base 10 s, Cap 5 min, Floor 1 s.
	Open Policy
	// ProbeTimeout is when a probe that nobody reported on is given up and
	// another may pass. It should exceed the patience with one exchange.
	// Default 2 min.
	ProbeTimeout time.Duration
	// Rand gives the jitter, a number in [0, 1). Default rand.Float64.
	Rand func() float64
}

func (c BreakerConfig) withDefaults() BreakerConfig {
	if c.Failures == 0 {
		c.Failures = 5
	}
	if c.Accounts == 0 {
		c.Accounts = 2
	}
	if c.Open == (Policy{}) {
		c.Open = Policy{Base: 10 * time.Second, Cap: 5 * time.Minute, Floor: time.Second}
	}
	if c.ProbeTimeout == 0 {
		c.ProbeTimeout = 2 * time.Minute
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	return c
}

// Breaker is a circuit breaker: it stops everybody for a while when an
// endpoint fails for everybody, and lets one probe find out when that is over.
// All times are given to it, so it needs no clock and no goroutine.
//
// Whoever is let through by [Breaker.Allow] reports back once: Success,
// Failure, Trip, or Cancel if there was nothing to learn. A Breaker is safe
// for concurrent use.
type Breaker struct {
	cfg BreakerConfig

	mu       sync.Mutex // guards all below
	state    State
	until    time.Time       // Open: when it ends. HalfOpen: when the probe is given up
	openings int             // without a success between them
	failures int             // in a row, while closed
	accounts map[string]bool // that the failures came from; never more than cfg.Accounts
}

// NewBreaker returns a closed breaker.
func NewBreaker(cfg BreakerConfig) (*Breaker, error) {
	var errs []error
	if cfg.Failures < 0 || cfg.Accounts < 0 {
		errs = append(errs, fmt.Errorf("breaker: Failures %d and Accounts %d must not be negative", cfg.Failures, cfg.Accounts))
	}
	if cfg.ProbeTimeout < 0 {
		errs = append(errs, fmt.Errorf("breaker: ProbeTimeout %v must not be negative", cfg.ProbeTimeout))
	}
	cfg = cfg.withDefaults()
	if err := cfg.Open.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("breaker: Open: %w", err))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return &Breaker{cfg: cfg, state: Closed, accounts: map[string]bool{}}, nil
}

// Allow reports whether a request may pass now; if not, when to ask again.
// When an opening has run out, the first caller passes as the probe and the
// others wait for its report.
func (b *Breaker) Allow(now time.Time) (ok bool, retryAfter time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if wait := b.openForLocked(now); wait > 0 {
		return false, wait
	}
	if b.state != Closed {
		b.state, b.until = HalfOpen, now.Add(b.cfg.ProbeTimeout)
	}
	return true, 0
}

// OpenFor returns for how long Allow would let nobody pass; 0: somebody may
// pass now. It changes nothing.
func (b *Breaker) OpenFor(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.openForLocked(now)
}

func (b *Breaker) openForLocked(now time.Time) time.Duration {
	if b.state == Closed {
		return 0
	}
	wait := max(b.until.Sub(now), 0)
	if b.state == HalfOpen {
		// The probe may be back long before it is given up.
		wait = min(wait, b.cfg.Open.Ceiling(1))
	}
	return wait
}

// Success reports that the endpoint works. It closes a half-open breaker and
// ends a row of failures. An open breaker stays open: a late success from
// before it opened proves nothing about now.
func (b *Breaker) Success() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == Open {
		return
	}
	b.state, b.openings = Closed, 0
	b.forgetLocked()
}

// Failure reports that the endpoint failed a request for the account. It
// opens a half-open breaker, and a closed one if it completes the row.
func (b *Breaker) Failure(now time.Time, account string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.state {
	case HalfOpen:
		b.openLocked(now, 0)
	case Closed:
		b.failures++
		if len(b.accounts) < b.cfg.Accounts {
			b.accounts[account] = true
		}
		if b.failures >= b.cfg.Failures && len(b.accounts) >= b.cfg.Accounts {
			b.openLocked(now, 0)
		}
	}
}

// Trip opens the breaker at once, for retryAfter if that is positive (at most
// [MaxRetryAfter]), else by the policy. A breaker that is open already stays
// so, for the longer of the two times if retryAfter is given.
func (b *Breaker) Trip(now time.Time, retryAfter time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	retryAfter = min(retryAfter, MaxRetryAfter)
	if b.state != Open {
		b.openLocked(now, retryAfter)
		return
	}
	if until := now.Add(retryAfter); until.After(b.until) {
		b.until = until
	}
}

// Cancel reports that a request that was let through taught nothing: it was
// never sent, or what went wrong was the account's. In a half-open breaker it
// counts as the probe's report, and another may pass at once.
func (b *Breaker) Cancel(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == HalfOpen {
		b.state, b.until = Open, now
	}
}

// Reset closes the breaker.
func (b *Breaker) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state, b.openings = Closed, 0
	b.forgetLocked()
}

// State returns the breaker's state. An opening that has run out is [Open]
// until somebody asks to pass.
func (b *Breaker) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}

func (b *Breaker) openLocked(now time.Time, d time.Duration) {
	b.openings++
	if d <= 0 {
		d = b.cfg.Open.Delay(b.openings, b.cfg.Rand())
	}
	b.state, b.until = Open, now.Add(d)
	b.forgetLocked()
}

func (b *Breaker) forgetLocked() {
	b.failures = 0
	clear(b.accounts)
}
