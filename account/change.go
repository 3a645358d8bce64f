package account

import (
	"bytes"
	"time"
)

// Fields names groups of document fields that a [Change] sets together.
type Fields uint32

// The groups, with the document fields of each.
const (
	FieldVersion      Fields = 1 << iota // version
	FieldCredentials                     // credentials, type, issued_at, expires_at, lifetime, earliest_refresh_at
	FieldFingerprints                    // fingerprints
	FieldRotation                        // rotation
	FieldLastRotation                    // last_rotation_id
	FieldStatus                          // status
	FieldFailure                         // cooldown_until, failures, last_error
	FieldForced                          // forced_streak
	FieldRefreshAt                       // refresh_at
	FieldLabel                           // label
	FieldAnnounce                        // announce_pending, reason
	FieldDeleted                         // deleted_at
	FieldRev                             // rev, to a value above the guard's; only together with a guard on Rev and without BumpRev
)

// Guard is the condition of a compare-and-set on one document. Its zero value
// holds for every document that exists.
type Guard struct {
	Version  Version // 0: any
	Rev      Rev     // 0: any
	Rotation *string // nil: any; "": no rotation; else the rotation's id
	// Heartbeat is compared only where Rotation names an id; nil: any.
	Heartbeat *int64
	// Credentials are the sealed bytes; nil: any. Programs that write documents
	// without raising version or rev are told by them.
	Credentials []byte
}

// NoRotation is the guard value for "no rotation is recorded".
func NoRotation() *string { return new("") }

// Holds reports whether the guard's condition is true of a.
func (g Guard) Holds(a *Account) bool {
	if g.Version != 0 && a.Version != g.Version || g.Rev != 0 && a.Rev != g.Rev {
		return false
	}
	if g.Credentials != nil && !bytes.Equal(a.Credentials, g.Credentials) {
		return false
	}
	if g.Rotation == nil {
		return true
	}
	if a.Rotation == nil {
		return *g.Rotation == ""
	}
	return a.Rotation.ID == *g.Rotation && (g.Heartbeat == nil || a.Rotation.Heartbeat == *g.Heartbeat)
}

// Change is what a compare-and-set writes: the named groups of fields take
// their values from To, everything else stays. updated_at and schema_version
// are always written, from At and [SchemaVersion].
type Change struct {
	Fields  Fields
	To      Account
	BumpRev bool // rev rises by one, whatever it is
	At      time.Time
}

// Apply makes the change to a.
func (c Change) Apply(a *Account) {
	to := c.To.Clone()
	has := func(f Fields) bool { return c.Fields&f != 0 }
	if has(FieldVersion) {
		a.Version = to.Version
	}
	if has(FieldCredentials) {
		a.Credentials, a.Type = to.Credentials, to.Type
		a.IssuedAt, a.ExpiresAt, a.Lifetime = to.IssuedAt, to.ExpiresAt, to.Lifetime
		a.EarliestRefreshAt = to.EarliestRefreshAt
	}
	if has(FieldFingerprints) {
		a.Fingerprints = to.Fingerprints
	}
	if has(FieldRotation) {
		a.Rotation = to.Rotation
	}
	if has(FieldLastRotation) {
		a.LastRotationID = to.LastRotationID
	}
	if has(FieldStatus) {
		a.Status = to.Status
	}
	if has(FieldFailure) {
		a.CooldownUntil, a.Failures, a.LastError = to.CooldownUntil, to.Failures, to.LastError
	}
	if has(FieldForced) {
		a.ForcedStreak = to.ForcedStreak
	}
	if has(FieldRefreshAt) {
		a.RefreshAt = to.RefreshAt
	}
	if has(FieldLabel) {
		a.Label = to.Label
	}
	if has(FieldAnnounce) {
		a.AnnouncePending, a.Reason = to.AnnouncePending, to.Reason
	}
	if has(FieldDeleted) {
		a.DeletedAt = to.DeletedAt
	}
	if has(FieldRev) {
		a.Rev = to.Rev
	}
	if c.BumpRev {
		a.Rev++
	}
	a.UpdatedAt, a.SchemaVersion = c.At, SchemaVersion
}
