package rotation

import (
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// Ending is what the outcome of an exchange does to the document, decided by
// [Settle]. The zero Ending leaves everything as it is.
type Ending struct {
	// Guard and Change are the compare-and-set that saves it; nil: nothing is
	// to be written.
	Guard  account.Guard
	Change *account.Change
	// Credentials are to be sealed into the change; nil: it has none.
	Credentials *account.Credentials
	// Above: the store has gone back in time, and the write must raise version
	// and rev above all that peers were told.
	Above bool
	// Status is the code of a status event to publish once it is written, with
	// Message and Until; "": none.
	Status  string
	Message string
	Until   time.Time
	// Reply is what those who wait get; nil: they look again. Until Hold no
	// refresh is begun and the reply is the same.
	Reply *events.Error
	Hold  time.Time
	// Note is a line for the log; "": none.
	Note string
}

// Merged are the document's credentials with those of the answer merged over
// them, and their fingerprints.
type Merged struct {
	Credentials account.Credentials
	Access      string // fingerprint of the access token
	Refresh     string // fingerprint of the refresh token
}

// Settle decides what the outcome of the exchange that rec describes does to
// the document as it is now. It may be asked any number of times, by any
// worker, at any time later: what is settled already, or has been overtaken by
// a newer login, is left alone.
func Settle(a *account.Account, rec Record, v Verdict, m Merged, r Rules) Ending {
	mine := a.Rotation != nil && a.Rotation.ID == rec.RotationID
	switch {
	case a.LastRotationID == rec.RotationID:
		return Ending{} // an earlier write of this one, whose outcome was unknown
	case v.Brought() && overtaken(a, rec, m):
		e := Ending{Note: "answer dropped: a newer login has won"}
		if mine {
			e.Guard = account.Guard{Rotation: &rec.RotationID}
			e.Change = &account.Change{Fields: account.FieldRotation}
		}
		return e
	case v.Brought():
		return commit(a, rec, v, m, r)
	case !mine, a.Fingerprints.Refresh != rec.From.Refresh:
		return Ending{} // somebody took over, or a login came: the failure is history
	case v.Outcome == Rejected:
		return reject(a, rec, v, r)
	}
	return fail(a, rec, v, r)
}

// overtaken reports whether an answer has nothing left to save: the document
// no longer holds the refresh token that was spent for it, or holds it with
// another access token and the answer brought no other refresh token. A
// document older than the rotation overtakes nothing.
func overtaken(a *account.Account, rec Record, m Merged) bool {
	if a.Version < rec.FromVersion {
		return false // the store has gone back in time; the answer is newer
	}
	if a.Deleted() || a.Fingerprints.Refresh != rec.From.Refresh {
		return true
	}
	return a.Fingerprints.Access != rec.From.Access && m.Refresh == rec.From.Refresh
}

// commit merges what the endpoint brought over the newest document, as the
// next version.
func commit(a *account.Account, rec Record, v Verdict, m Merged, r Rules) Ending {
	if end := m.Credentials.ExpiresAt; !end.IsZero() && !end.After(rec.At) {
		m.Credentials.ExpiresAt = time.Time{} // dead on arrival: some clock is wrong, and a loop would follow
	}
	b := a.Clone()
	b.Version = max(a.Version, rec.FromVersion) + 1
	b.Fingerprints.Access, b.Fingerprints.Refresh, b.Fingerprints.Dead = m.Access, m.Refresh, ""
	if m.Refresh != a.Fingerprints.Refresh {
		b.Fingerprints = b.Fingerprints.WithSpent(a.Fingerprints.Refresh)
	}
	back := a.Version < rec.FromVersion
	if back { // the document's refresh token was spent in a time that the store has lost
		if m.Refresh != rec.From.Refresh {
			b.Fingerprints = b.Fingerprints.WithSpent(rec.From.Refresh)
		}
		if v.Credentials.RefreshToken.IsZero() && a.Fingerprints.Refresh != rec.From.Refresh {
			b.Fingerprints = b.Fingerprints.WithSpent(a.Fingerprints.Refresh)
		}
	}
	b.EarliestRefreshAt, b.ExpiresAt = v.EarliestRefreshAt, Millis(m.Credentials.ExpiresAt)
	if !v.Credentials.AccessToken.IsZero() {
		b.IssuedAt, b.Lifetime = rec.At, lifetime(v, b.ExpiresAt, rec.At)
	}
	b.Rotation, b.LastRotationID = nil, rec.RotationID
	b.Failures, b.CooldownUntil, b.LastError = 0, time.Time{}, nil
	if v.Outcome != Granted {
		charge(&b, v, r)
	}
	b.ForcedStreak = 0
	if rec.Reason == events.ReasonRejected || rec.Reason == events.ReasonForced {
		b.ForcedStreak = a.ForcedStreak
		if !rec.Operator {
			b.ForcedStreak++
		}
	}
	b.RefreshAt = later(r.Timing.RefreshAt(&b, r.Policy, r.Now, r.Random), b.CooldownUntil)
	b.AnnouncePending, b.Reason = true, string(rec.Reason)
	e := Ending{
		Guard: account.Guard{Version: a.Version, Rev: a.Rev}, Credentials: &m.Credentials, Above: back || a.Rev < rec.Announced, Note: "committed",
		Change: &account.Change{To: b, BumpRev: true, Fields: account.FieldVersion | account.FieldCredentials | account.FieldFingerprints | account.FieldRotation |
			account.FieldLastRotation | account.FieldFailure | account.FieldForced | account.FieldRefreshAt | account.FieldAnnounce},
	}
	if a.Status == account.ReauthRequired { // never over an operator's switch
		e.Change.To.Status = account.Active
		e.Change.Fields |= account.FieldStatus
	}
	if a.Deleted() { // in a store that has gone back; the login that was rotated came after it
		e.Change.To.DeletedAt = time.Time{}
		e.Change.Fields |= account.FieldDeleted
	}
	if a.Failures > 0 || a.Status == account.ReauthRequired || a.Rotation != nil && a.Rotation.State == account.RotationInDoubt {
		e.Status, e.Message = events.StatusRecovered, "the account is refreshed again"
	}
	return e
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
func charge(a *account.Account, v Verdict, r Rules) {
	a.Failures++
	wait := max(r.Backoff.Delay(a.Failures, r.Random), v.RetryAfter)
	a.CooldownUntil = Millis(r.Now.Add(wait))
	a.LastError = &account.LastError{Code: v.Code, Message: v.Message, At: Millis(r.Now)}
}

// fail records an exchange that brought nothing. The document still has this
// rotation and the token that it was about.
func fail(a *account.Account, rec Record, v Verdict, r Rules) Ending {
	b := a.Clone()
	// That it is settled is written also where a doubt is left: asked again, it
	// must not count the attempt a second time.
	b.Rotation, b.LastRotationID = leftover(a.Rotation, v.Outcome), rec.RotationID
	e := Ending{Guard: account.Guard{Rotation: &rec.RotationID}, Status: events.StatusCoolingDown, Message: v.Message}
	switch v.Outcome {
	case Fenced: // whoever waits looks again
		b.RefreshAt = Millis(r.Now)
	case Misconfigured:
		// The circuit keeps everybody off; the back-off is for an account whose
		// own client or proxy it is, and for one that runs into the same again:
		// it must not close the circuit for all by itself for ever.
		again := a.LastError != nil && a.LastError.Code == v.Code
		charge(&b, v, r)
		e.Reply = events.Unavailable(max(b.CooldownUntil.Sub(r.Now), r.Circuit), "%s: the provider is misconfigured: %s", a.Key, v.Message)
		if !r.Own && !again {
			b.CooldownUntil, b.Failures = time.Time{}, a.Failures
		}
		b.RefreshAt, e.Until = Millis(r.Now.Add(e.Reply.RetryAfter)), b.CooldownUntil
	default:
		charge(&b, v, r)
		b.RefreshAt, e.Until, e.Hold = b.CooldownUntil, b.CooldownUntil, b.CooldownUntil
		e.Reply = events.CoolingDown(b.CooldownUntil.Sub(r.Now), "%s: a refresh failed and its back-off runs: %s", a.Key, v.Message)
	}
	if b.Rotation != nil {
		e.Status = events.StatusInDoubt
		b.RefreshAt = Millis(later(b.RefreshAt, secondSendAt(&b, Sight{}, r)))
	}
	if v.Outcome == Fenced || v.Outcome == Misconfigured && !r.Own {
		e.Status = "" // nobody's failure; the log has it
	}
	e.Change = &account.Change{Fields: account.FieldRotation | account.FieldLastRotation | account.FieldFailure | account.FieldRefreshAt, To: b}
	return e
}

// leftover is what remains of a rotation's record after an attempt that
// brought nothing: the doubt, if there is any.
func leftover(r *account.Rotation, o Outcome) *account.Rotation {
	left := *r
	left.State, left.NoAnswer = account.RotationInDoubt, !r.EarlierOpen
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
func reject(a *account.Account, rec Record, v Verdict, r Rules) Ending {
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
	b.Failures, b.CooldownUntil, b.RefreshAt = a.Failures+1, time.Time{}, time.Time{}
	b.LastError = &account.LastError{Code: code, Message: text, At: Millis(r.Now)}
	b.AnnouncePending, b.Reason = true, PendingReason(a)
	return Ending{
		Guard: account.Guard{Version: a.Version, Rev: a.Rev, Rotation: &rec.RotationID},
		Change: &account.Change{To: b, BumpRev: true, Fields: account.FieldStatus | account.FieldRotation | account.FieldLastRotation |
			account.FieldFingerprints | account.FieldFailure | account.FieldRefreshAt | account.FieldAnnounce},
		Above: a.Rev < rec.Announced, Status: code, Message: text, Note: "grant is dead", Reply: events.ReauthRequired(a.Key, code, text),
	}
}

// PendingReason keeps the event of an announcement that is still open, for a
// write that has none of its own.
func PendingReason(a *account.Account) string {
	if a.AnnouncePending {
		return a.Reason
	}
	return ""
}
