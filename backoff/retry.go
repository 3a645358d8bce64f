package backoff

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	cenkalti "github.com/cenkalti/backoff/v4"
)

// Permanent marks an error after which [Retry] must not try again. nil stays
// nil.
func Permanent(err error) error { return cenkalti.Permanent(err) }

// After marks an error with how long its sender asks to be left alone. [Retry]
// waits that long at least, up to [MaxRetryAfter]. nil stays nil.
func After(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &afterError{err, d}
}

type afterError struct {
	error
	after time.Duration
}

func (e *afterError) Unwrap() error { return e.error }

// Retry calls op until it returns nil, an error marked [Permanent], or ctx
// ends; there is no other limit. It is meant for calls to infrastructure that
// change nothing when repeated, and never for an exchange at a token endpoint.
//
// The error is op's last one, as it returned it; if ctx ended, it wraps the
// context's cause as well.
func Retry(ctx context.Context, p Policy, op func(context.Context) error) error {
	return RetryNotify(ctx, p, op, nil)
}

// RetryNotify is [Retry] that tells notify, if not nil, of each failure that
// will be tried again and of the delay before that.
func RetryNotify(ctx context.Context, p Policy, op func(context.Context) error, notify func(err error, next time.Duration)) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s := &schedule{policy: p}
	var last error
	err := cenkalti.RetryNotify(func() error {
		last = op(ctx)
		s.asked = 0
		if e, ok := errors.AsType[*afterError](last); ok {
			s.asked = min(e.after, MaxRetryAfter)
		}
		return last
	}, cenkalti.WithContext(s, ctx), notify)
	if err == nil {
		return nil
	}
	if _, permanent := errors.AsType[*cenkalti.PermanentError](last); permanent || ctx.Err() == nil {
		return last
	}
	if cause := context.Cause(ctx); !errors.Is(last, cause) {
		return fmt.Errorf("%w; last attempt: %w", cause, last)
	}
	return last
}

// schedule is a Policy as cenkalti/backoff wants it. That package's own
// exponential back-off jitters by a half and stops after 15 minutes; this one
// does neither.
type schedule struct {
	policy   Policy
	failures int
	asked    time.Duration
}

func (s *schedule) Reset() { s.failures, s.asked = 0, 0 }

func (s *schedule) NextBackOff() time.Duration {
	s.failures++
	return max(s.policy.Delay(s.failures, rand.Float64()), s.asked)
}
