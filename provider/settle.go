package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// settle writes the outcome of an exchange into the store, once. It may be
// called any number of times, by any worker, at any time later: what is
// settled already, or has been overtaken by a newer login, is left alone.
//
// result is what those who wait get. err means that the outcome is not, or not
// certainly, in the store: call again.
func (p *Provider) settle(ctx context.Context, rec Record, v Verdict) (result, err error) {
	brought := !v.Credentials.AccessToken.IsZero() || !v.Credentials.RefreshToken.IsZero()
	a, err := p.read(ctx, rec.Key)
	if errors.Is(err, ErrNotFound) && !brought {
		return noAccount(rec.Key), nil
	}
	if err == nil {
		err = a.unreadable
	}
	if err != nil { // also where there is no such account: a read alone drops no answer
		return nil, err
	}
	if a.LastRotationID == rec.RotationID { // an earlier write of this one, whose outcome was unknown
		p.adopt(&a)
		return nil, nil
	}
	mine := a.Rotation != nil && a.Rotation.ID == rec.RotationID
	switch {
	case brought && p.overtaken(&a.Account, rec, v):
		p.log.Warn("answer dropped: a newer login has won", "account", rec.Key.String(), "version", a.Version, "from_version", rec.FromVersion)
		if mine {
			return nil, p.clear(ctx, &a)
		}
		p.adopt(&a)
		return nil, nil
	case brought:
		return p.commit(ctx, &a, rec, v)
	case !mine, a.Fingerprints.Refresh != rec.From.Refresh:
		// Somebody took over, or a login came: the failure is history.
		p.adopt(&a)
		return nil, nil
	}
	return p.fail(ctx, &a, rec, v)
}

// overtaken reports whether an answer has nothing left to save: the document
// no longer holds the refresh token that was spent for it, or holds it with
// another access token and the answer brought no other refresh token. A
// document older than the rotation overtakes nothing.
func (p *Provider) overtaken(a *account.Account, rec Record, v Verdict) bool {
	if a.Version < rec.FromVersion {
		return false // the store has gone back in time; the answer is newer
	}
	if a.Deleted() || a.Fingerprints.Refresh != rec.From.Refresh {
		return true
	}
	refresh := p.sealer.Fingerprint(v.Credentials.RefreshToken)
	return a.Fingerprints.Access != rec.From.Access && (refresh == "" || refresh == rec.From.Refresh)
}

// clear removes a rotation's record that is of no use any more.
func (p *Provider) clear(ctx context.Context, a *reading) error {
	doc, err := p.write(ctx, a, account.Guard{Rotation: &a.Rotation.ID}, account.Change{Fields: account.FieldRotation, At: p.now()})
	if err != nil {
		return err
	}
	p.adopt(&doc)
	return nil
}

// commit merges what the endpoint brought over the newest document, as the
// next version. The compare-and-set is on the version alone: a late answer is
// still saved if nobody has committed since.
func (p *Provider) commit(ctx context.Context, a *reading, rec Record, v Verdict) (result, err error) {
	policy, _ := p.endpoint.Policy(a.Key.Platform())
	next := p.endpoint.Describe(a.Key.Platform(), a.credentials.Merge(v.Credentials))
	if !next.ExpiresAt.IsZero() && !next.ExpiresAt.After(rec.At) {
		next.ExpiresAt = time.Time{} // dead on arrival: some clock is wrong, and a loop would follow
	}
	b := a.Clone()
	old := b.Fingerprints.Refresh
	if err := p.setCredentials(&b, next); err != nil {
		return nil, err
	}
	b.Version = max(a.Version, rec.FromVersion) + 1
	if b.Fingerprints.Refresh != old {
		b.Fingerprints = b.Fingerprints.WithSpent(old)
	}
	b.Fingerprints.Dead = ""
	b.EarliestRefreshAt = v.EarliestRefreshAt
	if !v.Credentials.AccessToken.IsZero() {
		b.IssuedAt, b.Lifetime = rec.At, lifetime(v, b.ExpiresAt, rec.At)
	}
	b.Rotation, b.LastRotationID = nil, rec.RotationID
	b.Failures, b.CooldownUntil, b.LastError = 0, time.Time{}, nil
	if v.Outcome != Granted {
		p.charge(&b, v)
	}
	b.ForcedStreak = 0
	if rec.Reason == events.ReasonRejected || rec.Reason == events.ReasonForced {
		b.ForcedStreak = a.ForcedStreak
		if !rec.Operator {
			b.ForcedStreak++
		}
	}
	b.RefreshAt = later(p.timing.refreshAt(&b, policy, p.random()), b.CooldownUntil)
	b.AnnouncePending, b.Reason = true, string(rec.Reason)
	guard := account.Guard{Version: a.Version}
	fields := account.FieldVersion | account.FieldCredentials | account.FieldFingerprints | account.FieldRotation |
		account.FieldLastRotation | account.FieldFailure | account.FieldForced | account.FieldRefreshAt | account.FieldAnnounce
	if a.Status == account.ReauthRequired { // never over an operator's switch
		b.Status, guard.Rev, fields = account.Active, a.Rev, fields|account.FieldStatus
	}
	change := account.Change{Fields: fields, To: b, BumpRev: true, At: p.now()}
	if a.Version < rec.FromVersion {
		floor, err := p.floor(ctx, a.Key)
		if err != nil {
			return nil, err
		}
		change.To.Version, change.To.Rev = max(b.Version, floor.Version+1), max(a.Rev, floor.Rev)+1
		change.Fields, change.BumpRev, guard.Rev = fields|account.FieldRev, false, a.Rev
	}
	doc, err := p.write(ctx, a, guard, change)
	if err != nil {
		return nil, err
	}
	crashAt("committed")
	p.log.Info("committed", "account", a.Key.String(), "version", doc.Version, "reason", rec.Reason, "expires_at", doc.ExpiresAt)
	p.adopt(&doc)
	if a.Failures > 0 || a.Status == account.ReauthRequired || a.Rotation != nil && a.Rotation.State == account.RotationInDoubt {
		p.tell(&doc.Account, events.StatusRecovered, "the account is refreshed again", time.Time{})
	}
	return nil, nil
}

// lifetime is how long the endpoint gives an access token.
func lifetime(v Verdict, expires, issued time.Time) time.Duration {
	switch {
	case v.Lifetime > 0:
		return v.Lifetime
	case expires.After(issued):
		return expires.Sub(issued)
	}
	return LifetimeUnknown
}

// charge records a failure and when the next attempt is due.
func (p *Provider) charge(a *account.Account, v Verdict) {
	a.Failures++
	wait := max(p.backoff.Delay(a.Failures, p.random()), v.RetryAfter)
	a.CooldownUntil = millis(p.clock.Now().Add(wait))
	a.LastError = &account.LastError{Code: v.Code, Message: v.Message, At: p.now()}
}

// fail records an exchange that brought nothing. The document still has this
// rotation and the token that it was about.
func (p *Provider) fail(ctx context.Context, a *reading, rec Record, v Verdict) (result, err error) {
	if v.Outcome == Rejected {
		return p.reject(ctx, a, rec, v)
	}
	policy, _ := p.endpoint.Policy(a.Key.Platform())
	b := a.Clone()
	b.Rotation = leftover(a.Rotation, v.Outcome)
	var e *events.Error
	code := events.StatusCoolingDown
	switch v.Outcome {
	case fenced:
		b.RefreshAt = p.now()
	case Misconfigured:
		// The circuit keeps everybody off; the back-off is for an account whose
		// own client or proxy it is, and for one that runs into the same again:
		// it must not close the circuit for all by itself for ever.
		again := a.LastError != nil && a.LastError.Code == v.Code
		p.charge(&b, v)
		e = unavailable(max(b.CooldownUntil.Sub(p.clock.Now()), p.closedFor(a.Key.Platform())), "%s: the provider is misconfigured: %s", a.Key, v.Message)
		if !a.ownClient() && !again {
			b.CooldownUntil, b.Failures = time.Time{}, a.Failures
		}
		b.RefreshAt = millis(p.clock.Now().Add(e.RetryAfter))
	default:
		p.charge(&b, v)
		b.RefreshAt = b.CooldownUntil
		e = &events.Error{Code: events.CodeCoolingDown, RetryAfter: atLeast(b.CooldownUntil.Sub(p.clock.Now())),
			Message: fmt.Sprintf("%s: a refresh failed and its back-off runs: %s", a.Key, v.Message)}
	}
	if b.Rotation != nil {
		code = events.StatusInDoubt
		b.RefreshAt = millis(later(b.RefreshAt, secondSendAt(&b, b.Rotation, Sight{}, Rules{Now: p.clock.Now(), Timing: p.timing, Policy: policy})))
	}
	doc, err := p.write(ctx, a, account.Guard{Rotation: &rec.RotationID}, account.Change{
		Fields: account.FieldRotation | account.FieldFailure | account.FieldRefreshAt, To: b, At: p.now(),
	})
	if err != nil {
		return nil, err
	}
	p.l1.update(a.Key, func(e *l1Entry) { e.busy = time.Time{} })
	switch v.Outcome {
	case fenced:
		return nil, nil // whoever waits looks again
	case Misconfigured:
		return e, nil
	}
	p.holdOff(&doc, doc.CooldownUntil, e)
	p.tell(&doc.Account, code, v.Message, doc.CooldownUntil)
	return e, nil
}

// leftover is what remains of a rotation's record after an attempt that
// brought nothing: the doubt, if there is any.
func leftover(r *account.Rotation, o Outcome) *account.Rotation {
	left := *r
	left.State, left.NoAnswer = account.RotationInDoubt, true
	if o == Unknown {
		return &left
	}
	// This attempt has certainly not spent the token. An earlier one may have.
	left.Attempts--
	if left.Attempts == 0 {
		return nil
	}
	return &left
}

// reject records that the grant is dead. Who is to blame is told from what
// this fleet itself knows: a refresh token that it may have sent before is a
// rotation lost; one that it has sent once and that was used before has a
// second writer.
func (p *Provider) reject(ctx context.Context, a *reading, rec Record, v Verdict) (result, err error) {
	code, text := v.Code, v.Message
	switch {
	case a.Rotation.Attempts > 1:
		code = events.StatusRotationLost
		text = "an earlier answer of the endpoint was lost, and it refuses the refresh token now: " + v.Message
	case v.Reused:
		code = events.StatusSecondWriter
		text = "the refresh token was used by someone else: another program refreshes the same login; give each its own: " + v.Message
	}
	b := a.Clone()
	if a.Status != account.Disabled {
		b.Status = account.ReauthRequired
	}
	b.Rotation, b.LastRotationID = nil, rec.RotationID
	b.Fingerprints.Dead = rec.From.Refresh
	b.Failures, b.CooldownUntil = a.Failures+1, time.Time{}
	b.LastError = &account.LastError{Code: code, Message: text, At: p.now()}
	b.RefreshAt = time.Time{}
	b.AnnouncePending, b.Reason = true, pendingReason(&a.Account)
	doc, err := p.write(ctx, a, account.Guard{Version: a.Version, Rev: a.Rev, Rotation: &rec.RotationID}, account.Change{
		Fields: account.FieldStatus | account.FieldRotation | account.FieldLastRotation | account.FieldFingerprints |
			account.FieldFailure | account.FieldRefreshAt | account.FieldAnnounce,
		To: b, BumpRev: true, At: p.now(),
	})
	if err != nil {
		return nil, err
	}
	p.log.Warn("grant is dead", "account", a.Key.String(), "version", a.Version, "code", code)
	p.adopt(&doc)
	p.tell(&doc.Account, code, text, time.Time{})
	return &events.Error{Code: events.CodeReauthRequired,
		Message: fmt.Sprintf("%s: a person must log in again (%s: %s)", a.Key, code, text)}, nil
}
