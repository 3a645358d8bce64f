package backoff_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/backoff"
	"pgregory.net/rapid"
)

func TestCeiling(t *testing.T) {
	p := backoff.Policy{Base: time.Second, Cap: 10 * time.Second}
	for failures, want := range map[int]time.Duration{
		math.MinInt: time.Second, -1: time.Second, 0: time.Second, 1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second,
		4: 8 * time.Second, 5: 10 * time.Second, 6: 10 * time.Second, 62: 10 * time.Second, 63: 10 * time.Second,
		64: 10 * time.Second, 65: 10 * time.Second, 1000: 10 * time.Second, math.MaxInt: 10 * time.Second,
	} {
		if got := p.Ceiling(failures); got != want {
			t.Errorf("Ceiling(%d) = %v, want %v", failures, got, want)
		}
	}
}

func TestDelay(t *testing.T) {
	for name, tc := range map[string]struct {
		policy   backoff.Policy
		failures int
		r        float64
		want     time.Duration
	}{
		"first, lowest draw":       {backoff.Policy{Base: time.Second}, 1, 0, 0},
		"first, middle":            {backoff.Policy{Base: time.Second}, 1, 0.5, 500 * time.Millisecond},
		"third, middle":            {backoff.Policy{Base: time.Second}, 3, 0.5, 2 * time.Second},
		"capped":                   {backoff.Policy{Base: time.Second, Cap: 4 * time.Second}, 50, 0.5, 2 * time.Second},
		"floor, lowest draw":       {backoff.Policy{Base: 4 * time.Second, Floor: time.Second}, 1, 0, time.Second},
		"floor, middle":            {backoff.Policy{Base: 4 * time.Second, Floor: 2 * time.Second}, 1, 0.5, 3 * time.Second},
		"defaults":                 {backoff.Policy{}, 1, 0.5, 500 * time.Millisecond},
		"default cap":              {backoff.Policy{}, 100, 0.5, 150 * time.Second},
		"base above default cap":   {backoff.Policy{Base: time.Hour}, 9, 0.5, 30 * time.Minute},
		"draw out of range, above": {backoff.Policy{Base: time.Second}, 1, 7, time.Second},
		"draw out of range, below": {backoff.Policy{Base: time.Second}, 1, -7, 0},
		"draw is NaN":              {backoff.Policy{Base: time.Second}, 1, math.NaN(), 0},
		"draw is infinite":         {backoff.Policy{Base: time.Second}, 1, math.Inf(1), time.Second},
		"longest there is":         {backoff.Policy{Base: 1, Cap: math.MaxInt64}, math.MaxInt, 1, math.MaxInt64},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.policy.Delay(tc.failures, tc.r); got != tc.want {
				t.Errorf("Delay(%d, %v) = %v, want %v", tc.failures, tc.r, got, tc.want)
			}
		})
	}
}

func TestDelayProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.Int64Range(1, math.MaxInt64).Draw(t, "base")
		p := backoff.Policy{
			Base:  time.Duration(base),
			Cap:   time.Duration(rapid.Int64Range(base, math.MaxInt64).Draw(t, "cap")),
			Floor: time.Duration(rapid.Int64Range(0, base).Draw(t, "floor")),
		}
		if err := p.Validate(); err != nil {
			t.Fatal(err)
		}
		failures := rapid.Int().Draw(t, "failures")
		r := rapid.Float64().Draw(t, "r")
		d := p.Delay(failures, r)
		if d < p.Floor || d > p.Ceiling(failures) || p.Ceiling(failures) > p.Cap {
			t.Fatalf("Delay = %v, out of [%v, %v]", d, p.Floor, p.Ceiling(failures))
		}
		if d != p.Delay(failures, r) {
			t.Fatal("the same arguments gave another delay")
		}
		if failures < math.MaxInt && p.Ceiling(failures) > p.Ceiling(failures+1) {
			t.Fatal("the ceiling falls")
		}
	})
}

// TestFullJitter: the whole interval is drawn from, evenly.
func TestFullJitter(t *testing.T) {
	p := backoff.Policy{Base: time.Second, Cap: time.Minute}
	for i := range 100 {
		r := float64(i) / 100
		want := time.Duration(r * float64(8*time.Second))
		if got := p.Delay(4, r); (got - want).Abs() > time.Microsecond {
			t.Errorf("Delay(4, %v) = %v, want %v", r, got, want)
		}
	}
}

func TestValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		policy backoff.Policy
		want   []string // "" for fine
	}{
		"zero":            {backoff.Policy{}, nil},
		"usual":           {backoff.Policy{Base: time.Second, Cap: time.Minute, Floor: time.Second}, nil},
		"negative":        {backoff.Policy{Base: -1}, []string{"negative"}},
		"cap below base":  {backoff.Policy{Base: 2, Cap: 1}, []string{"Cap 1ns is below Base 2ns"}},
		"both":            {backoff.Policy{Base: 2, Cap: 1, Floor: 3}, []string{"Cap", "Floor 3ns is above Base 2ns"}},
		"floor, defaults": {backoff.Policy{Floor: time.Minute}, []string{"Floor 1m0s is above Base 1s"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.policy.Validate()
			if (err == nil) != (tc.want == nil) {
				t.Fatalf("Validate = %v, want %q", err, tc.want)
			}
			for _, part := range tc.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("Validate = %v, want %q in it", err, part)
				}
			}
		})
	}
}

func ExamplePolicy_Delay() {
	p := backoff.Policy{Base: time.Second, Cap: 10 * time.Second}
	for failures := 1; failures <= 5; failures++ {
		fmt.Println(p.Delay(failures, 0.5)) // rand.Float64() in earnest
	}
	// Output:
	// 500ms
	// 1s
	// 2s
	// 4s
	// 5s
}
