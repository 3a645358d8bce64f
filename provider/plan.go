package provider

import (
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
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
type Sight struct {
	Known time.Duration // since it first saw this rotation
	Still time.Duration // since it saw the heartbeat change
}

// Rules are what a plan depends on beside the document.
type Rules struct {
	Now    time.Time
	Timing Timing
	Policy Policy
	Force  bool // an operator ends the wait in doubt
	// Exempt: an operator asks; the hold on forced refreshes doesn't apply.
	Exempt bool
}

// Decide plans the refresh of a, wanted over the given version for a reason.
// It is a pure function.
//
// The rule for a rotation whose worker is gone: the refresh token counts as
// perhaps sent, and a second use can revoke the whole grant, living access
// token included. So a second send happens at once only where the endpoint has
// a grace period that still runs; otherwise not before the first can no longer
// be answered, and not while the living token is out of its refresh skew. Then
// availability wins.
func Decide(a *account.Account, over account.Version, reason events.Reason, s Sight, r Rules) Plan {
	if a.Version > over {
		return Plan{Step: StepDone}
	}
	v := viewOf(a, account.Credentials{}, r.Policy)
	refuse := func(e *events.Error) Plan { return Plan{Step: StepRefuse, Err: e} }
	switch {
	case v.gone:
		return refuse(noAccount(a.Key))
	case a.Status == account.Disabled:
		return refuse(&events.Error{Code: events.CodeDisabled, Message: fmt.Sprintf("%s was disabled by an operator", a.Key)})
	}
	rotation := a.Rotation
	if rotation != nil && !rotation.NoAnswer && s.Still < max(rotation.LeaseTTL, r.Timing.LeaseTTL) {
		return Plan{Step: StepWait}
	}
	if rotation != nil { // no doubt and no operator makes a dead grant worth sending
		if err := mayRefresh(v, events.ReasonRequest, r.Now); err != nil && err.Code == events.CodeReauthRequired {
			return refuse(err)
		}
	}
	if rotation != nil && r.Force {
		return Plan{Step: StepTakeOver}
	}
	if until := a.CooldownUntil; until.After(r.Now) {
		text := "a refresh failed and its back-off runs"
		if a.LastError != nil {
			text += ": " + a.LastError.Message
		}
		return refuse(&events.Error{Code: events.CodeCoolingDown, Message: fmt.Sprintf("%s: %s", a.Key, text), RetryAfter: atLeast(until.Sub(r.Now))})
	}
	if rotation == nil {
		if r.Exempt { // no hold of a version that has just come
			v.issued = time.Time{}
		}
		if err := mayRefresh(v, reason, r.Now); err != nil {
			return refuse(err)
		}
		return Plan{Step: StepBegin}
	}
	if at := secondSendAt(a, rotation, s, r); at.After(r.Now) {
		return Plan{Step: StepInDoubt, At: at}
	}
	return Plan{Step: StepTakeOver}
}

// secondSendAt returns when the refresh token of a rotation in doubt may be
// sent again.
func secondSendAt(a *account.Account, rotation *account.Rotation, s Sight, r Rules) time.Time {
	// Within the grace period a second use is answered like the first. The
	// record's own start is another clock's, so our own sight must not exceed
	// the grace either. Where clocks disagree by more than what is left of the
	// grace, a second use may come after it.
	first := rotation.StartedAt
	if !rotation.FirstStartedAt.IsZero() {
		first = rotation.FirstStartedAt
	}
	if r.Policy.ReuseGrace > 0 && s.Known < r.Policy.ReuseGrace && r.Now.Before(first.Add(r.Policy.ReuseGrace)) {
		return r.Now
	}
	at := r.Now
	if !rotation.NoAnswer { // a worker that was only frozen may hold the answer
		silence := max(rotation.LeaseTTL, r.Timing.LeaseTTL) + r.Policy.Timeout
		at = r.Now.Add(max(0, silence-s.Still))
	}
	if end := ends(a.ExpiresAt, a.IssuedAt, a.Lifetime); !end.IsZero() {
		at = later(at, end.Add(-r.Timing.refreshSkew(a.Lifetime)))
	}
	return at
}
