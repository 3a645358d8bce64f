package backoff_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/backoff"
)

// hand is a clock that a test turns.
type hand struct{ at atomic.Int64 }

func (h *hand) now() time.Time          { return time.Unix(1_800_000_000, h.at.Load()) }
func (h *hand) advance(d time.Duration) { h.at.Add(int64(d)) }

func budget(t *testing.T, cfg backoff.BudgetConfig) (*backoff.Budget, *hand) {
	t.Helper()
	h := &hand{}
	cfg.Name, cfg.Now, cfg.Rand = "store", h.now, func() float64 { return 0.5 }
	b, err := backoff.NewBudget(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b, h
}

var errRefused = errors.New("refused")

func skipped(err error) bool {
	_, ok := errors.AsType[*backoff.SkippedError](err)
	return ok
}

// works expects that calls are made.
func works(t *testing.T, b *backoff.Budget) {
	t.Helper()
	if err := b.Do(t.Context(), func(context.Context) error { return nil }, nil); err != nil {
		t.Errorf("it is left alone though nothing was wrong with it: %v", err)
	}
}

// What was learned is forgotten on demand, and waits that were too long count.
func TestBudgetLateAndReset(t *testing.T) {
	b, _ := budget(t, backoff.BudgetConfig{})
	for range 3 {
		b.Late()
	}
	if err := b.Do(t.Context(), func(context.Context) error { return nil }, nil); !skipped(err) {
		t.Errorf("after three waits that were too long: %v", err)
	}
	b.Reset()
	works(t, b)
}

// A budget beside another knows what that has learned.
func TestBudgetBesideAnother(t *testing.T) {
	b, _ := budget(t, backoff.BudgetConfig{})
	beside, _ := budget(t, backoff.BudgetConfig{Beside: b})
	for range 3 {
		_ = b.Do(t.Context(), func(context.Context) error { return errRefused }, nil)
	}
	if err := beside.Do(t.Context(), func(context.Context) error { return nil }, nil); !skipped(err) {
		t.Errorf("got %v, want it skipped", err)
	}
}

func TestBudgetLeavesAFailingDependencyAlone(t *testing.T) {
	for name, fail := range map[string]func(h *hand) error{
		"down": func(*hand) error { return errRefused },
		"slow": func(h *hand) error { h.advance(2 * time.Second); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			b, h := budget(t, backoff.BudgetConfig{})
			calls := 0
			for range 10 {
				err := b.Do(t.Context(), func(context.Context) error { calls++; return fail(h) }, nil)
				if skipped(err) {
					break
				}
			}
			if calls != 3 {
				t.Fatalf("%d calls were made; want 3 and then none", calls)
			}
			var left *backoff.SkippedError
			if err := b.Do(t.Context(), func(context.Context) error { calls++; return nil }, nil); !errors.As(err, &left) || left.After <= 0 || left.Busy {
				t.Fatalf("got %v, want it skipped for a while", err)
			}
			h.advance(5 * time.Second)
			for want := 4; want < 6; want++ { // the probe, and one more
				if err := b.Do(t.Context(), func(context.Context) error { calls++; return nil }, nil); err != nil || calls != want {
					t.Fatalf("error %v, %d calls; want the probe made, and then all", err, calls)
				}
			}
		})
	}
}

func TestBudgetCountsNoErrorThatIsFine(t *testing.T) {
	b, _ := budget(t, backoff.BudgetConfig{})
	for range 10 {
		err := b.Do(t.Context(), func(context.Context) error { return errRefused }, func(err error) bool { return errors.Is(err, errRefused) })
		if !errors.Is(err, errRefused) {
			t.Fatalf("got %v, want the call's own error", err)
		}
	}
	works(t, b)
}

func TestBudgetCountsNoCallThatItsCallerGaveUp(t *testing.T) {
	b, _ := budget(t, backoff.BudgetConfig{})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 {
		_ = b.Do(gone, func(ctx context.Context) error { return ctx.Err() }, nil)
	}
	works(t, b)
}

func TestBudgetBoundsWhatWaits(t *testing.T) {
	b, _ := budget(t, backoff.BudgetConfig{AtOnce: 2, Waiting: 3})
	release := make(chan struct{})
	var running, most, busy atomic.Int64
	open := sync.OnceFunc(func() { close(release) })
	look := func() { // 2 run, 3 wait and all others have been turned away
		if running.Load() == 2 && busy.Load() == 45 {
			open()
		}
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			err := b.Do(context.Background(), func(context.Context) error {
				n := running.Add(1)
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
				}
				look()
				<-release
				running.Add(-1)
				return nil
			}, nil)
			var skipped *backoff.SkippedError
			if errors.As(err, &skipped) && skipped.Busy {
				busy.Add(1)
				look()
			}
		})
	}
	wg.Wait()
	if most.Load() != 2 || busy.Load() != 45 {
		t.Errorf("%d ran at once and %d were turned away, want 2 and 45", most.Load(), busy.Load())
	}
}
