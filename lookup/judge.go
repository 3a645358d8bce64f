package lookup

import (
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/rotation"
)

// judgement is what a view is good for, for one request.
type judgement struct {
	err         *events.Error // the answer is this error
	wait        bool          // a refresh is needed first
	refresh     bool          // serve, and refresh beside
	notModified bool
	reason      events.Reason // of the refresh that is waited for
	unsure      bool          // the view is too old for the request: ask the store
}

// serves reports whether the view's token answers the request.
func (j judgement) serves() bool { return j.err == nil && !j.wait }

// judge decides what to do with a request, given what is known of the account.
// It is a pure function.
func judge(v *rotation.View, req events.TokenRequest, now time.Time, t rotation.Timing) judgement {
	fail := func(code events.Code, after time.Duration, format string, args ...any) judgement {
		return judgement{err: &events.Error{Code: code, Message: fmt.Sprintf(format, args...), RetryAfter: after}}
	}
	asked := max(req.MinVersion, req.RejectedVersion) // somebody has seen it
	switch {
	case v.Gone:
		return judgement{err: events.NotFound(v.Key), unsure: asked > v.Version}
	case asked > v.Version:
		j := fail(events.CodeUnavailable, events.RetrySoon, "%s is at version %d, version %d was asked for", v.Key, v.Version, asked)
		j.unsure = true
		return j
	case v.Status == account.Disabled:
		return fail(events.CodeDisabled, 0, "%s was disabled by an operator", v.Key)
	case v.Lifetime > 0 && req.MinTTL > v.Lifetime:
		return fail(events.CodeBadRequest, 0, "min_ttl: %s is more than the endpoint's lifetime of a token, %s", req.MinTTL, v.Lifetime)
	}
	left, floor := v.Left(now), t.MinTTLOf(v.Lifetime)
	need, reason := floor, events.ReasonRequest
	if req.MinTTL > 0 {
		need = req.MinTTL
		if left >= floor {
			reason = events.ReasonForced // living, but not for long enough for this asker
		}
	}
	if req.RejectedVersion == v.Version {
		if left >= floor {
			reason = events.ReasonRejected
		}
	} else if left >= need && !v.Token.IsZero() {
		return judgement{
			refresh:     left <= t.RefreshSkewOf(v.Lifetime) && v.Refreshable() && !v.Earliest.After(now),
			notModified: req.KnownVersion == v.Version,
		}
	}
	if err := rotation.MayRefresh(v, reason, now); err != nil {
		return judgement{err: err}
	}
	return judgement{wait: true, reason: reason}
}
