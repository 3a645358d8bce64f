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
				if errors.Is(err, backoff.ErrSkipped) {
					break
				}
			}
			if calls != 3 || !b.Open() {
				t.Fatalf("%d calls were made, open %v; want 3 and then none", calls, b.Open())
			}
			var skipped *backoff.SkippedError
			if err := b.Do(t.Context(), func(context.Context) error { calls++; return nil }, nil); !errors.As(err, &skipped) || skipped.After <= 0 || skipped.Busy {
				t.Fatalf("got %v, want it skipped for a while", err)
			}
			h.advance(5 * time.Second)
			if err := b.Do(t.Context(), func(context.Context) error { calls++; return nil }, nil); err != nil || calls != 4 || b.Open() {
				t.Fatalf("the probe: error %v, %d calls, open %v; want it made, and the budget closed again", err, calls, b.Open())
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
	if b.Open() {
		t.Error("it is left alone though nothing was wrong with it")
	}
}

func TestBudgetCountsNoCallThatItsCallerGaveUp(t *testing.T) {
	b, _ := budget(t, backoff.BudgetConfig{})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 {
		_ = b.Do(gone, func(ctx context.Context) error { return ctx.Err() }, nil)
	}
	if b.Open() {
		t.Error("callers that gave up closed the way to it")
	}
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
