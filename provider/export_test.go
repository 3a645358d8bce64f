package provider

import (
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// What tests of the rules of time need to see.

func RefreshSkew(t Timing, lifetime time.Duration) time.Duration { return t.refreshSkew(lifetime) }
func CacheSkew(t Timing, lifetime time.Duration) time.Duration   { return t.cacheSkew(lifetime) }
func MinTTL(t Timing, lifetime time.Duration) time.Duration      { return t.minTTL(lifetime) }

func RefreshAt(t Timing, a *account.Account, p Policy, rnd float64) time.Time {
	return t.refreshAt(a, p, rnd)
}

func ForcedHoldUntil(issued time.Time, streak int) time.Time { return forcedHoldUntil(issued, streak) }
