package rotation

import (
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/events"
)

// Step is what to do next about an account whose refresh is wanted.
type Step string

// The steps.
const (
	StepDone     Step = "done"      // the store has something newer already
	StepRefuse   Step = "refuse"    // no refresh now; Plan says why
	StepBegin    Step = "begin"     // no rotation is recorded: begin one
	StepTakeOver Step = "take_over" // one is recorded, its worker is gone, and the rule lets us send again
	StepWait     Step = "wait"      // one is recorded and may still end by itself
	StepInDoubt  Step = "in_doubt"  // its worker is gone, but a second send must wait until At
)

// Plan is the decision about one document.
type Plan struct {
	Step Step
	Err  *events.Error // of StepRefuse
	At   time.Time     // of StepInDoubt: when a second send is allowed; wall clock
}

// Sight is what this worker has itself seen of a rotation's record, both
// measured on its own monotonic clock; clocks of workers are never compared.
// A [Sighting] keeps it.
type Sight struct {
	Known time.Duration // since it first saw this rotation
	Still time.Duration // since it saw the heartbeat change
}

// Rules are what a decision depends on beside the document.
type Rules struct {
	Now    time.Time
	Timing Timing
	Policy Policy
	Random float64 // in [0,1): jitter
	// Of a plan:
	Force bool // an operator ends the wait in doubt
	// Exempt: an operator asks; the hold on forced refreshes doesn't apply.
	Exempt bool
	// Of an outcome:
	Backoff backoff.Policy // spaces the attempts on one account
	// Own: the account brings its own client or proxy, so that a
	// misconfiguration is its own trouble; else the circuit of its platform
	// stays open for Circuit.
	Own     bool
	Circuit time.Duration
}

// maxCooldown is longer than any back-off: the 24 hours of the longest
// Retry-After, and an hour by which clocks may differ. What is further away
// comes from a clock that was wrong.
const maxCooldown = 25 * time.Hour

// Decide plans the refresh of a, wanted over the given version for a reason.
//
// The rule for a rotation whose worker is gone: the refresh token counts as
// perhaps sent, and a second use can revoke the whole grant, living access
// token included. So a second send happens at once only where the endpoint has
// a grace period that still runs; otherwise not before the first can no longer
// be answered, and not while the living token is out of its refresh skew. Then
// availability wins.
func Decide(a *account.Account, over account.Version, reason events.Reason, s Sight, r Rules) Plan {
	refuse := func(e *events.Error) Plan { return Plan{Step: StepRefuse, Err: e} }
	switch {
	case a.Version > over:
		return Plan{Step: StepDone}
	case a.Deleted():
		return refuse(events.NotFound(a.Key))
	case a.Status == account.Disabled:
		return refuse(&events.Error{Code: events.CodeDisabled, Message: fmt.Sprintf("%s was disabled by an operator", a.Key)})
	}
	v := ViewOf(a, account.Credentials{}, r.Policy)
	running := a.Rotation
	if running != nil {
		if !running.NoAnswer && s.Still < r.silence(running) {
			return Plan{Step: StepWait}
		}
		// No doubt and no operator makes a dead grant worth sending.
		if err := MayRefresh(v, events.ReasonRequest, r.Now); err != nil && err.Code == events.CodeReauthRequired {
			return refuse(err)
		}
		if r.Force {
			return Plan{Step: StepTakeOver}
		}
	}
	if until := a.CooldownUntil; until.After(r.Now) && until.Sub(r.Now) <= maxCooldown {
		text := "a refresh failed and its back-off runs"
		if a.LastError != nil {
			text += ": " + a.LastError.Message
		}
		return refuse(events.CoolingDown(until.Sub(r.Now), "%s: %s", a.Key, text))
	}
	if running != nil {
		if at := secondSendAt(a, s, r); at.After(r.Now) {
			return Plan{Step: StepInDoubt, At: at}
		}
		return Plan{Step: StepTakeOver}
	}
	if r.Exempt { // no hold of a version that has just come
		v.Issued = time.Time{}
	}
	if err := MayRefresh(v, reason, r.Now); err != nil {
		return refuse(err)
	}
	return Plan{Step: StepBegin}
}

// silence is how long a heartbeat must not have changed for its worker to be
// gone.
func (r Rules) silence(running *account.Rotation) time.Duration {
	return max(running.LeaseTTL, r.Timing.LeaseTTL)
}

// secondSendAt returns when the refresh token of the rotation in doubt may be
// sent again.
func secondSendAt(a *account.Account, s Sight, r Rules) time.Time {
	// Within the grace period a second use is answered like the first. The
	// record's own start is another clock's, so our own sight must not exceed
	// the grace either. Where clocks disagree by more than what is left of the
	// grace, a second use may come after it.
	first := a.Rotation.StartedAt
	if !a.Rotation.FirstStartedAt.IsZero() {
		first = a.Rotation.FirstStartedAt
	}
	if r.Policy.ReuseGrace > 0 && s.Known < r.Policy.ReuseGrace && r.Now.Before(first.Add(r.Policy.ReuseGrace)) {
		return r.Now
	}
	at := r.Now
	if !a.Rotation.NoAnswer { // a worker that was only frozen may hold the answer
		at = at.Add(max(0, r.silence(a.Rotation)+r.Policy.Timeout-s.Still))
	}
	if end := ends(a.ExpiresAt, a.IssuedAt, a.Lifetime); !end.IsZero() {
		at = later(at, end.Add(-r.Timing.RefreshSkewOf(a.Lifetime)))
	}
	return at
}
