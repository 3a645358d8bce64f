package backoff_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbus/tokenbus/backoff"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDown = errors.New("down")

// exact is a policy without luck: Floor, Base and Cap are one second.
var exact = backoff.Policy{Base: time.Second, Cap: time.Second, Floor: time.Second}

func TestRetrySucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, calls := time.Now(), 0
		var told []time.Duration
		err := backoff.RetryNotify(t.Context(), exact, func(context.Context) error {
			if calls++; calls < 4 {
				return errDown
			}
			return nil
		}, func(err error, next time.Duration) {
			if !errors.Is(err, errDown) {
				t.Errorf("notified of %v", err)
			}
			told = append(told, next)
		})
		if err != nil || calls != 4 || time.Since(start) != 3*time.Second || len(told) != 3 {
			t.Errorf("Retry = %v after %d calls and %v, told %v", err, calls, time.Since(start), told)
		}
	})
}

// TestRetryNeverGivesUp: cenkalti/backoff stops after 15 minutes by default.
func TestRetryNeverGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := backoff.Retry(t.Context(), backoff.Policy{}, func(context.Context) error {
			if time.Since(start) < 48*time.Hour {
				return errDown
			}
			return nil
		})
		if err != nil {
			t.Errorf("Retry = %v after %v", err, time.Since(start))
		}
	})
}

func TestRetryGrowsAndStaysInBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := backoff.Policy{Base: time.Second, Cap: 8 * time.Second}
		n := 0
		_ = backoff.RetryNotify(t.Context(), p, func(context.Context) error {
			if n == 40 {
				return backoff.Permanent(errDown)
			}
			return errDown
		}, func(_ error, next time.Duration) {
			n++
			if next < 0 || next > p.Ceiling(n) {
				t.Errorf("delay %d is %v, above %v", n, next, p.Ceiling(n))
			}
		})
		if n != 40 {
			t.Errorf("%d delays, want 40", n)
		}
	})
}

func TestRetryPermanent(t *testing.T) {
	calls := 0
	err := backoff.Retry(t.Context(), exact, func(context.Context) error {
		calls++
		return fmt.Errorf("read thing: %w", backoff.Permanent(errDown))
	})
	if !errors.Is(err, errDown) || err.Error() != "read thing: down" || calls != 1 {
		t.Errorf("Retry = %v after %d calls", err, calls)
	}
	if backoff.Permanent(nil) != nil || backoff.After(nil, time.Second) != nil {
		t.Error("a marked nil is an error")
	}
}

func TestRetryHonoursAfter(t *testing.T) {
	for name, tc := range map[string]struct{ after, want time.Duration }{
		"longer than the policy":  {time.Minute, time.Minute},
		"shorter than the policy": {time.Millisecond, time.Second},
		"negative":                {-time.Hour, time.Second},
		"absurd":                  {1e6 * time.Hour, backoff.MaxRetryAfter},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told []time.Duration
				calls := 0
				err := backoff.RetryNotify(t.Context(), exact, func(context.Context) error {
					switch calls++; calls {
					case 1:
						return fmt.Errorf("ask: %w", backoff.After(errDown, tc.after))
					case 2:
						return errDown // what one failure asked for isn't held against the next
					}
					return nil
				}, func(_ error, next time.Duration) { told = append(told, next) })
				if err != nil || len(told) != 2 || told[0] != tc.want || told[1] != time.Second {
					t.Errorf("Retry = %v, delays %v, want %v and 1s", err, told, tc.want)
				}
			})
		})
	}
}

func TestRetryContext(t *testing.T) {
	why := errors.New("shutting down")
	t.Run("ended before", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		err := backoff.Retry(ctx, exact, func(context.Context) error { t.Error("op was called"); return nil })
		if !errors.Is(err, why) {
			t.Errorf("Retry = %v", err)
		}
	})
	t.Run("ends in a pause", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			ctx, cancel := context.WithTimeoutCause(t.Context(), 1500*time.Millisecond, why)
			defer cancel()
			err := backoff.Retry(ctx, exact, func(context.Context) error { return errDown })
			if !errors.Is(err, why) || !errors.Is(err, errDown) || time.Since(start) != 1500*time.Millisecond {
				t.Errorf("Retry = %v after %v", err, time.Since(start))
			}
		})
	})
	t.Run("ends in op", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		err := backoff.Retry(ctx, exact, func(ctx context.Context) error { cancel(); return ctx.Err() })
		if !errors.Is(err, context.Canceled) || err.Error() != "context canceled" {
			t.Errorf("Retry = %v", err)
		}
	})
	t.Run("permanent goes first", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		err := backoff.Retry(ctx, exact, func(context.Context) error { cancel(); return backoff.Permanent(errDown) })
		if !errors.Is(err, errDown) || errors.Is(err, context.Canceled) {
			t.Errorf("Retry = %v", err)
		}
	})
}

func TestRetryRefusesBadPolicy(t *testing.T) {
	err := backoff.Retry(t.Context(), backoff.Policy{Base: -1}, func(context.Context) error { t.Error("op was called"); return nil })
	if err == nil {
		t.Error("a negative Base is accepted")
	}
}
