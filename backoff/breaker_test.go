package backoff_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/backoff"
	"pgregory.net/rapid"
)

// newBreaker's openings last 10 s, 20 s, 40 s, 40 s …
func newBreaker(t testing.TB) *backoff.Breaker {
	t.Helper()
	b, err := backoff.NewBreaker(backoff.BreakerConfig{
		Open:         backoff.Policy{Base: 10 * time.Second, Cap: 40 * time.Second},
		ProbeTimeout: time.Minute,
		Rand:         func() float64 { return 1 },
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func at(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }

// wantLook checks what a look says, and that it changes nothing.
func wantLook(t testing.TB, b *backoff.Breaker, now time.Time, seconds int) {
	t.Helper()
	before := b.State()
	if wait := b.OpenFor(now); wait != time.Duration(seconds)*time.Second || b.State() != before {
		t.Fatalf("OpenFor = %v, and the state is %v; want %d s, and %v as before", wait, b.State(), seconds, before)
	}
}

func wantAllow(t testing.TB, b *backoff.Breaker, now time.Time) {
	t.Helper()
	wantLook(t, b, now, 0)
	if ok, wait := b.Allow(now); !ok || wait != 0 {
		t.Fatalf("Allow = %v, %v; want it to pass", ok, wait)
	}
}

func wantStop(t testing.TB, b *backoff.Breaker, now time.Time, seconds int) {
	t.Helper()
	wantLook(t, b, now, seconds)
	if ok, wait := b.Allow(now); ok || wait != time.Duration(seconds)*time.Second {
		t.Fatalf("Allow = %v, %v; want a stop for %d s", ok, wait, seconds)
	}
}

func wantState(t testing.TB, b *backoff.Breaker, want backoff.State) {
	t.Helper()
	if got := b.State(); got != want {
		t.Fatalf("State = %q, want %q", got, want)
	}
}

func TestBreakerOpensAfterARow(t *testing.T) {
	for name, tc := range map[string]struct {
		events string // one letter a failure of that account, . a success
		want   backoff.State
	}{
		"nothing":                       {"", backoff.Closed},
		"four of two":                   {"abab", backoff.Closed},
		"five of two":                   {"aaaab", backoff.Open},
		"many of one":                   {"aaaaaaaaaaaa", backoff.Closed},
		"many of one, then another":     {"aaaaaaaab", backoff.Open},
		"a success in between":          {"aaab.aaab", backoff.Closed},
		"a success forgets accounts":    {"aaab.aaaaa", backoff.Closed},
		"a row after a success":         {"abab.abcab", backoff.Open},
		"five of five":                  {"abcde", backoff.Open},
		"late failures of an open one":  {"aaaabbbbb", backoff.Open},
		"late successes of an open one": {"aaaab...", backoff.Open},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBreaker(t)
			for _, e := range tc.events {
				if e == '.' {
					b.Success()
				} else {
					b.Failure(at(0), string(e))
				}
			}
			wantState(t, b, tc.want)
			if tc.want == backoff.Open {
				wantStop(t, b, at(0), 10)
			} else {
				wantAllow(t, b, at(0))
			}
		})
	}
}

func TestBreakerTrips(t *testing.T) {
	b := newBreaker(t)
	b.Trip(at(0), 0)
	wantState(t, b, backoff.Open)
	wantStop(t, b, at(0), 10)
	wantStop(t, b, at(9), 1)

	b.Trip(at(1), 0) // another exchange that was under way
	wantStop(t, b, at(1), 9)
	b.Trip(at(1), 5*time.Second) // shorter than what runs
	wantStop(t, b, at(1), 9)
	b.Trip(at(1), 100*time.Second)
	wantStop(t, b, at(1), 100)

	b = newBreaker(t)
	b.Trip(at(0), 3*time.Second)
	wantStop(t, b, at(0), 3)
	b = newBreaker(t)
	b.Trip(at(0), 1e6*time.Hour)
	wantStop(t, b, at(0), int(backoff.MaxRetryAfter.Seconds()))
}

func TestBreakerHalfOpen(t *testing.T) {
	b := newBreaker(t)
	b.Trip(at(0), 0)
	wantAllow(t, b, at(10)) // the probe
	wantState(t, b, backoff.HalfOpen)
	wantStop(t, b, at(10), 10) // everybody else
	wantStop(t, b, at(65), 5)

	b.Failure(at(11), "a") // of the probe: one is enough now
	wantState(t, b, backoff.Open)
	wantStop(t, b, at(11), 20)
	wantAllow(t, b, at(31))
	b.Trip(at(32), 0)
	wantStop(t, b, at(32), 40)
	wantAllow(t, b, at(72))
	b.Failure(at(73), "a")
	wantStop(t, b, at(73), 40) // capped

	wantAllow(t, b, at(113))
	b.Success()
	wantState(t, b, backoff.Closed)
	wantAllow(t, b, at(113))
	wantAllow(t, b, at(113))
	b.Trip(at(114), 0)
	wantStop(t, b, at(114), 10) // the success set the policy back
}

func TestBreakerProbeIsLost(t *testing.T) {
	b := newBreaker(t)
	b.Trip(at(0), 0)
	wantAllow(t, b, at(10))
	wantStop(t, b, at(69), 1)
	wantAllow(t, b, at(70)) // nobody reported for a minute
	wantStop(t, b, at(70), 10)
}

func TestBreakerProbeIsCancelled(t *testing.T) {
	b := newBreaker(t)
	b.Cancel(at(0))
	wantState(t, b, backoff.Closed)
	b.Trip(at(0), 0)
	b.Cancel(at(1)) // from before it opened
	wantStop(t, b, at(1), 9)
	wantAllow(t, b, at(10))
	b.Cancel(at(11))
	wantState(t, b, backoff.Open)
	wantAllow(t, b, at(11))
	b.Failure(at(12), "a")
	wantStop(t, b, at(12), 20)
}

func TestBreakerDefaults(t *testing.T) {
	b, err := backoff.NewBreaker(backoff.BreakerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		b.Failure(at(0), "a")
	}
	wantState(t, b, backoff.Closed)
	b.Failure(at(0), "b")
	wantState(t, b, backoff.Open)
	if ok, wait := b.Allow(at(0)); ok || wait < time.Second || wait > 10*time.Second {
		t.Errorf("Allow = %v, %v; want a stop of 1 s to 10 s", ok, wait)
	}
}

func TestNewBreakerReportsAll(t *testing.T) {
	_, err := backoff.NewBreaker(backoff.BreakerConfig{Failures: -1, ProbeTimeout: -1, Open: backoff.Policy{Base: -1}})
	for _, part := range []string{"Failures -1", "ProbeTimeout", "Open: "} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("NewBreaker = %v, want %q in it", err, part)
		}
	}
}

// TestBreakerOneProbe: of many that ask at once, one passes.
func TestBreakerOneProbe(t *testing.T) {
	b := newBreaker(t)
	b.Trip(at(0), 0)
	var wg sync.WaitGroup
	passed := make(chan bool, 100)
	for range cap(passed) {
		wg.Go(func() {
			if ok, _ := b.Allow(at(10)); ok {
				passed <- true
			}
		})
	}
	wg.Wait()
	if len(passed) != 1 {
		t.Errorf("%d passed, want 1", len(passed))
	}
}

// TestBreakerProperties: whatever happens, a stop has a positive end that is
// within bounds, and asking at that end passes unless a probe is under way.
func TestBreakerProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, err := backoff.NewBreaker(backoff.BreakerConfig{Rand: func() float64 { return rapid.Float64Range(0, 1).Draw(t, "rand") }})
		if err != nil {
			t.Fatal(err)
		}
		now := now
		t.Repeat(map[string]func(*rapid.T){
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(10*time.Minute)).Draw(t, "wait")))
			},
			"allow": func(t *rapid.T) {
				before := b.State()
				ok, wait := b.Allow(now)
				if ok && before == backoff.Closed != (b.State() == backoff.Closed) {
					t.Fatalf("passed from %q to %q", before, b.State())
				}
				if ok != (wait == 0) || wait < 0 || wait > backoff.MaxRetryAfter {
					t.Fatalf("Allow = %v, %v", ok, wait)
				}
				if !ok && b.State() == backoff.Open {
					now = now.Add(wait)
					if ok, _ := b.Allow(now); !ok {
						t.Fatal("stopped at the end that it named")
					}
				}
			},
			"success": func(*rapid.T) { b.Success() },
			"cancel":  func(*rapid.T) { b.Cancel(now) },
			"failure": func(t *rapid.T) { b.Failure(now, rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "account")) },
			"trip": func(t *rapid.T) {
				b.Trip(now, time.Duration(rapid.Int64().Draw(t, "after")))
				if b.State() != backoff.Open {
					t.Fatal("tripped and not open")
				}
			},
		})
	})
}

func ExampleBreaker() {
	b, err := backoff.NewBreaker(backoff.BreakerConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	now := time.Now()
	b.Trip(now, 30*time.Second) // the endpoint doesn't know our client
	fmt.Println(b.Allow(now))
	fmt.Println(b.Allow(now.Add(30 * time.Second))) // one probe
	b.Success()
	fmt.Println(b.State())
	// Output:
	// false 30s
	// true 0s
	// closed
}

func BenchmarkAllow(b *testing.B) {
	breaker, now := newBreaker(b), time.Now()
	for b.Loop() {
		breaker.Allow(now)
	}
}
