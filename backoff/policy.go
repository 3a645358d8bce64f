// Package backoff says when to try again: delays that grow and spread out,
// what a server asks for by Retry-After, a loop for calls to infrastructure,
// and a circuit breaker.
//
// Every delay is a pure function of its arguments, so that it can be
// persisted, tested and explained. Nothing here makes a request.
package backoff

import (
	"errors"
	"fmt"
	"time"
)

// Defaults of a [Policy].
const (
	DefaultBase = time.Second
	DefaultCap  = 5 * time.Minute
)

// Policy is exponential back-off with full jitter: the delay after the n-th
// failure in a row is uniform between Floor and min(Cap, Base·2^(n-1)). Full
// jitter spreads a herd that failed together over the whole interval.
//
// The zero Policy has all defaults.
type Policy struct {
	// Base bounds the delay after the first failure. Default DefaultBase.
	Base time.Duration
	// Cap bounds every delay. Default DefaultCap, or Base if that is larger.
	Cap time.Duration
	// Floor is the least delay, for servers that must not be asked again at
	// once by the luck of the draw. Default 0. It may not exceed Base.
	Floor time.Duration
}

// Validate reports all that is wrong with the policy.
func (p Policy) Validate() error {
	var errs []error
	if p.Base < 0 || p.Cap < 0 || p.Floor < 0 {
		errs = append(errs, errors.New("backoff policy: Base, Cap and Floor must not be negative"))
	}
	q := p.withDefaults()
	if q.Cap < q.Base {
		errs = append(errs, fmt.Errorf("backoff policy: Cap %v is below Base %v", q.Cap, q.Base))
	}
	if q.Floor > q.Base {
		errs = append(errs, fmt.Errorf("backoff policy: Floor %v is above Base %v", q.Floor, q.Base))
	}
	return errors.Join(errs...)
}

func (p Policy) withDefaults() Policy {
	if p.Base == 0 {
		p.Base = DefaultBase
	}
	if p.Cap == 0 {
		p.Cap = max(DefaultCap, p.Base)
	}
	return p
}

// Ceiling returns the upper bound of the delay after the given number of
// failures in a row; less than one counts as one.
func (p Policy) Ceiling(failures int) time.Duration {
	p = p.withDefaults()
	doublings := max(failures, 1) - 1
	// Shifting Cap down instead of Base up can't overflow.
	if doublings >= 63 || p.Base > p.Cap>>doublings {
		return p.Cap
	}
	return p.Base << doublings
}

// Delay returns the delay after the given number of failures in a row; less
// than one counts as one. r is a random number in [0, 1), as [rand.Float64]
// gives it: the same arguments always give the same delay.
//
// [rand.Float64]: https://pkg.go.dev/math/rand/v2#Float64
func (p Policy) Delay(failures int, r float64) time.Duration {
	ceiling := p.Ceiling(failures)
	floor := min(max(p.Floor, 0), ceiling)
	if !(r > 0) { // also NaN
		return floor
	}
	span := float64(ceiling - floor)
	offset := r * span
	if offset >= span { // r out of range, or rounded up to it
		return ceiling
	}
	return min(floor+time.Duration(offset), ceiling)
}
