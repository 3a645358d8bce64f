package rotation_test

import (
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/rotation"
)

// TestLoginsAreSpread: logins that came together with the same end are not due
// together, though nothing tells how long their tokens lived.
func TestLoginsAreSpread(t *testing.T) {
	timing := rotation.DefaultTiming()
	for _, tc := range []struct {
		left, ahead, spread time.Duration
	}{
		{24 * time.Hour, 30 * time.Minute, 27 * time.Minute / 4},
		{time.Hour, 20 * time.Minute, 17 * time.Minute / 4},
		{12 * time.Minute, 4 * time.Minute, time.Minute / 4},
		{5 * time.Minute, 3 * time.Minute, 0}, // never under the refresh skew
		{-time.Hour, 3 * time.Minute, 0},
	} {
		a := healthy()
		a.IssuedAt, a.Lifetime, a.ExpiresAt = time.Time{}, 0, noon.Add(tc.left)
		due := func(rnd float64) time.Duration {
			return a.ExpiresAt.Sub(timing.RefreshAt(a, rotation.Policy{}, noon, rnd))
		}
		if first, middle := due(0), due(0.5); first != tc.ahead || middle != tc.ahead-tc.spread/2 {
			t.Errorf("%v left: due from %v before the end, the middle %v; want %v, spread over %v", tc.left, first, middle, tc.ahead, tc.spread)
		}
	}
	timing.RefreshAhead = 10 * time.Minute // what was asked for
	a := healthy()
	a.IssuedAt, a.Lifetime, a.ExpiresAt = time.Time{}, 0, noon.Add(12*time.Minute)
	if at := timing.RefreshAt(a, rotation.Policy{}, noon, 0); !at.Equal(noon.Add(2 * time.Minute)) {
		t.Errorf("due at %v with a refresh-ahead of its own, want ten minutes before the end", at)
	}
}
