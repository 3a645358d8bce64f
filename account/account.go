package account

import (
	"slices"
	"time"
)

// Version counts the credentials of an account: it starts at 1 and rises by
// one with every change of the credentials, and by nothing else. It is never
// derived from a clock. 0 means none.
type Version int64

// Rev counts what peers must see of an account, credentials or status.
// Documents, cache entries and bumps carry it and caches order by it.
type Rev int64

// Status is what an account is good for.
type Status string

// The statuses of an account.
const (
	Active         Status = "active"
	Disabled       Status = "disabled"        // an operator's switch
	ReauthRequired Status = "reauth_required" // the grant is dead; a person must log in again
)

// SchemaVersion is the version of the document that this code writes.
const SchemaVersion = 1

// MaxSpent is how many spent refresh tokens an account remembers.
const MaxSpent = 16

// Account is the document of one account. Its credentials are sealed: a store
// that keeps it never sees a secret. Times are UTC with millisecond precision;
// the zero time means absent.
//
// The JSON form is that of the embedded store.
type Account struct {
	Key     Key     `json:"_id"`
	Type    string  `json:"type"` // "oauth"
	Label   string  `json:"label,omitempty"`
	Status  Status  `json:"status"`
	Version Version `json:"version"`
	Rev     Rev     `json:"rev"`

	// AnnouncePending is set by every write that raises Rev and cleared once
	// cache, event and bump have been acknowledged. Reason is the event's.
	AnnouncePending bool   `json:"announce_pending,omitempty"`
	Reason          string `json:"reason,omitempty"`

	Credentials  []byte       `json:"credentials,omitempty"` // sealed
	Fingerprints Fingerprints `json:"fingerprints"`
	IssuedAt     time.Time    `json:"issued_at,omitzero"`
	ExpiresAt    time.Time    `json:"expires_at,omitzero"` // of the access token, as far as known
	// Lifetime is what the endpoint gave the access token last time; 0 where
	// unknown.
	Lifetime time.Duration `json:"lifetime,omitempty"`
	// RefreshAt is when a proactive refresh is due; zero means never.
	RefreshAt time.Time `json:"refresh_at,omitzero"`
	// EarliestRefreshAt is the endpoint's own "not before".
	EarliestRefreshAt time.Time `json:"earliest_refresh_at,omitzero"`

	Rotation       *Rotation `json:"rotation,omitempty"`
	LastRotationID string    `json:"last_rotation_id,omitempty"`
	// ForcedStreak counts forced refreshes in a row.
	ForcedStreak int `json:"forced_streak,omitempty"`

	CooldownUntil time.Time  `json:"cooldown_until,omitzero"`
	Failures      int        `json:"failures,omitempty"`
	LastError     *LastError `json:"last_error,omitempty"`

	// DeletedAt makes the document a tombstone: no credentials, only the
	// counters, so that a later login goes on counting.
	DeletedAt     time.Time `json:"deleted_at,omitzero"`
	CreatedAt     time.Time `json:"created_at"`
	UpdatedAt     time.Time `json:"updated_at"`
	SchemaVersion int       `json:"schema_version"`
}

// Deleted reports whether the document is a tombstone.
func (a *Account) Deleted() bool { return !a.DeletedAt.IsZero() }

// HasRefreshToken reports whether the account can be refreshed at all.
func (a *Account) HasRefreshToken() bool { return a.Fingerprints.Refresh != "" }

// Clone returns a deep copy.
func (a Account) Clone() Account {
	a.Credentials = slices.Clone(a.Credentials)
	a.Fingerprints.Spent = slices.Clone(a.Fingerprints.Spent)
	if a.Rotation != nil {
		r := *a.Rotation
		a.Rotation = &r
	}
	if a.LastError != nil {
		e := *a.LastError
		a.LastError = &e
	}
	return a
}

// Fingerprints are keyed hashes of tokens: they tell equal from different
// without telling the token. "" means that there is no such token.
type Fingerprints struct {
	Access  string   `json:"access,omitempty"`
	Refresh string   `json:"refresh,omitempty"`
	Spent   []string `json:"spent,omitempty"` // refresh tokens that were exchanged, newest first, at most MaxSpent
	Dead    string   `json:"dead,omitempty"`  // the refresh token that the endpoint refused for good
}

// NotToBeSent reports whether the refresh token is known to be dead or spent:
// sending it can only do harm.
func (f Fingerprints) NotToBeSent() bool {
	return f.Refresh != "" && (f.Dead == f.Refresh || slices.Contains(f.Spent, f.Refresh))
}

// WithSpent returns f with one more spent refresh token.
func (f Fingerprints) WithSpent(fingerprint string) Fingerprints {
	if fingerprint == "" || slices.Contains(f.Spent, fingerprint) {
		return f
	}
	f.Spent = append([]string{fingerprint}, f.Spent...)
	if len(f.Spent) > MaxSpent {
		f.Spent = f.Spent[:MaxSpent]
	}
	return f
}

// LastError is what went wrong last, for people.
type LastError struct {
	Code    string    `json:"code"`
	Message string    `json:"message"`
	At      time.Time `json:"at"`
}

// RotationState says how far a rotation is known to have come.
type RotationState string

// The states of a rotation's record. A begun rotation counts as perhaps sent.
const (
	RotationBegun   RotationState = "begun"
	RotationSent    RotationState = "sent"
	RotationInDoubt RotationState = "in_doubt"
)

// Rotation is the record of one attempt to exchange the refresh token of
// FromVersion. It exists only while the attempt runs or is in doubt.
type Rotation struct {
	ID          string        `json:"id"`
	Worker      string        `json:"worker"`
	Host        string        `json:"host"`
	State       RotationState `json:"state"`
	FromVersion Version       `json:"from_version"`
	StartedAt   time.Time     `json:"started_at"`
	// FirstStartedAt is StartedAt of the first attempt in this doubt: when the
	// refresh token may have been spent. Zero means StartedAt.
	FirstStartedAt time.Time `json:"first_started_at,omitzero"`
	// Heartbeat is a counter: observers judge a worker by whether it changes,
	// on their own monotonic clock, and never by its value.
	Heartbeat int64         `json:"heartbeat"`
	LeaseTTL  time.Duration `json:"lease_ttl"`
	Attempts  int           `json:"attempts"` // exchanges begun in this doubt, this one included
	// NoAnswer: the worker itself says that it can no longer be answered, so
	// nobody needs to wait for its heartbeat to stop.
	NoAnswer bool `json:"no_answer,omitempty"`
	// EarlierOpen: an earlier attempt of this doubt was taken over so soon,
	// within a grace period or by force, that its worker may still be answered.
	EarlierOpen bool `json:"earlier_open,omitempty"`
}
