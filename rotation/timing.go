package rotation

import (
	"cmp"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// Timing says how long before its end a token is still good for what. All
// fields are durations before the access token's expiry unless said otherwise.
type Timing struct {
	RefreshSkew time.Duration // a request starts a refresh
	CacheSkew   time.Duration // an entry of the shared cache ends
	MinTTL      time.Duration // a reply's token lives at least this much longer
	LeaseTTL    time.Duration // how long a silent worker keeps its lease and its rotation
	L1MaxAge    time.Duration // how long L1 is trusted without a look at the shared version
	// RefreshAhead is when a proactive refresh begins: RefreshAheadAuto, RefreshAheadOff or a duration.
	RefreshAhead time.Duration
}

// Valid reports whether every duration is one that can be kept.
func (t Timing) Valid() bool {
	return t.RefreshSkew > 0 && t.CacheSkew > 0 && t.MinTTL > 0 && t.LeaseTTL > 0 && t.L1MaxAge > 0 && t.RefreshAhead >= RefreshAheadOff
}

// LifetimeUnknown is how long an answer without expires_in, whose token doesn't
// tell its end, counts as living.
const LifetimeUnknown = 30 * time.Minute

// Special values of [Timing.RefreshAhead].
const (
	RefreshAheadAuto time.Duration = 0  // a third of the lifetime, at most 30 min, never under the refresh skew
	RefreshAheadOff  time.Duration = -1 // only requests refresh
)

// DefaultTiming returns the documented defaults.
func DefaultTiming() Timing {
	return Timing{
		RefreshSkew: 3 * time.Minute, CacheSkew: 5 * time.Minute, MinTTL: 30 * time.Second,
		LeaseTTL: 30 * time.Second, L1MaxAge: 30 * time.Second,
	}
}

// share returns want, but at most the given part of a lifetime that is known:
// without it a token of 40 s would be refreshed in a loop.
func share(want, lifetime time.Duration, part int) time.Duration {
	if lifetime > 0 {
		return min(want, lifetime/time.Duration(part))
	}
	return want
}

// RefreshSkewOf is how long before its end a token of that lifetime starts a
// refresh.
func (t Timing) RefreshSkewOf(lifetime time.Duration) time.Duration {
	return share(t.RefreshSkew, lifetime, 3)
}

// CacheSkewOf is how long before the token's end its shared-cache entry ends.
func (t Timing) CacheSkewOf(lifetime time.Duration) time.Duration {
	return share(t.CacheSkew, lifetime, 3)
}

// MinTTLOf is how much longer a reply's token lives at least.
func (t Timing) MinTTLOf(lifetime time.Duration) time.Duration { return share(t.MinTTL, lifetime, 4) }

// maxAhead caps the automatic refresh-ahead.
const maxAhead = 30 * time.Minute

// refreshAhead returns how long before the token's end a refresh is due. What is
// left of a token stands for a lifetime that nothing tells, as of a login.
func (t Timing) refreshAhead(lifetime, left time.Duration) time.Duration {
	ahead := share(t.RefreshAhead, lifetime, 2)
	if t.RefreshAhead == RefreshAheadAuto {
		ahead = min(cmp.Or(lifetime, left)/3, maxAhead)
	}
	return max(ahead, t.RefreshSkewOf(lifetime))
}

// RefreshAt returns when a proactive refresh of the credentials in a is due;
// zero means never. rnd in [0,1) spreads accounts that came together.
func (t Timing) RefreshAt(a *account.Account, p Policy, now time.Time, rnd float64) time.Time {
	end := ends(a.ExpiresAt, a.IssuedAt, a.Lifetime)
	switch {
	case a.Deleted(), a.Fingerprints.NotToBeSent():
		return time.Time{}
	case !a.HasRefreshToken():
		return Millis(end) // not to be refreshed, but to be looked at: it is the account's end
	}
	var at time.Time
	if t.RefreshAhead != RefreshAheadOff && !end.IsZero() {
		ahead := t.refreshAhead(a.Lifetime, end.Sub(now))
		spread := time.Duration(rnd * float64(ahead-t.RefreshSkewOf(a.Lifetime)) / 4)
		at = end.Add(-ahead + spread)
	}
	if p.RefreshAtLeastEvery > 0 {
		from := a.IssuedAt
		if from.IsZero() {
			from = a.CreatedAt
		}
		if idle := from.Add(p.RefreshAtLeastEvery); at.IsZero() || idle.Before(at) {
			at = idle
		}
	}
	if at.IsZero() {
		return at
	}
	return Millis(later(at, tooEarlyUntil(a, p)))
}

// ends returns when the access token stops being served; zero where nothing
// tells. Without an expiry an exchanged token counts for its nominal lifetime
// from when it came.
func ends(expires, issued time.Time, lifetime time.Duration) time.Time {
	switch {
	case !expires.IsZero():
		return expires
	case !issued.IsZero() && lifetime > 0:
		return issued.Add(lifetime)
	}
	return time.Time{}
}

// tooEarlyUntil returns until when the endpoint refuses to refresh.
func tooEarlyUntil(a *account.Account, p Policy) time.Time {
	at := a.EarliestRefreshAt
	if p.MinRefreshAge > 0 && !a.IssuedAt.IsZero() {
		at = later(at, a.IssuedAt.Add(p.MinRefreshAge))
	}
	return at
}

// Bounds on how often a version may be forced out.
const (
	forcedHold    = 10 * time.Second
	maxForcedHold = 10 * time.Minute
)

// ForcedHoldUntil returns until when a version that an exchange brought at
// issued may not be forced out: an API that answers 401 to everything must not
// rotate a grant to death. streak counts the forced refreshes in a row.
func ForcedHoldUntil(issued time.Time, streak int) time.Time {
	if issued.IsZero() {
		return time.Time{}
	}
	hold := maxForcedHold
	if streak < 6 {
		hold = min(forcedHold<<max(streak, 0), maxForcedHold)
	}
	return issued.Add(hold)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Millis rounds to what every store keeps.
func Millis(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }
