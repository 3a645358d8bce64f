package rotation

import (
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// Policy is what is known of a platform's token endpoint. The fields are those
// of the provider file.
type Policy struct {
	Timeout              time.Duration // patience with one exchange
	ReuseGrace           time.Duration // a spent refresh token is taken again for this long
	MinRefreshAge        time.Duration
	RefreshAtLeastEvery  time.Duration
	ServeWhileRefreshing bool
	MaxConcurrent        int
	ExtraFields          []string // the extra fields that replies may carry
}

// Outcome is the class of an exchange's end, and all that decides what it does
// to the account.
type Outcome string

// The outcomes of an exchange.
const (
	Granted       Outcome = "granted"       // new credentials, perhaps incomplete
	Rejected      Outcome = "rejected"      // this grant is dead
	Misconfigured Outcome = "misconfigured" // our request or client is wrong; no account is to blame
	Throttled     Outcome = "throttled"     // too many requests; the grant lives
	Transient     Outcome = "transient"     // the endpoint failed and says so; the grant lives
	Unknown       Outcome = "unknown"       // sent, and nobody can say what became of it

	// No answer brings these: nothing left this machine.
	NotSent Outcome = "not_sent" // no way to the endpoint
	Fenced  Outcome = "fenced"   // this worker was too slow to be sure of its record; nobody's failure
)

// Verdict is an answer, judged.
type Verdict struct {
	Outcome Outcome
	// Code is the OAuth error code where there is one ("invalid_grant"), else
	// a word for the case ("http_503", "html", "no_access_token"). Message is
	// one line for people. Neither quotes a secret or the body.
	Code    string
	Message string
	// RetryAfter is what the endpoint asks for; 0 where it doesn't.
	RetryAfter time.Duration
	// Reused: the endpoint says that the refresh token was used before.
	Reused bool
	// Credentials are what the answer brought: absent fields are zero and
	// merge as such. Also set with outcome Unknown where something parsed:
	// a new refresh token without an access token is the only one that works
	// now.
	Credentials account.Credentials
	// Lifetime is the answer's expires_in, 0 where it has none.
	Lifetime time.Duration
	// EarliestRefreshAt is the answer's own "not before", zero where none.
	EarliestRefreshAt time.Time
}

// Brought reports whether the answer has a token to save.
func (v Verdict) Brought() bool {
	return !v.Credentials.AccessToken.IsZero() || !v.Credentials.RefreshToken.IsZero()
}

// Record is an answer of the token endpoint that waits to be committed.
type Record struct {
	Key         account.Key     `json:"key"`
	RotationID  string          `json:"rotation_id"`
	FromVersion account.Version `json:"from_version"`
	// Announced is the highest rev that peers had been told of when the rotation
	// began, as far as anybody knew: a store that has gone back in time must
	// not count it again.
	Announced account.Rev `json:"announced,omitempty"`
	Worker    string      `json:"worker"`
	Host      string      `json:"host"`
	// At is when the request was about to leave: a token's lifetime counts from
	// here.
	At time.Time `json:"at"`
	// From are the fingerprints of the tokens that the rotation started from.
	From account.Fingerprints `json:"from"`
	// Reason is why the rotation was begun.
	Reason   events.Reason `json:"reason"`
	Operator bool          `json:"operator,omitempty"` // who asked for it
	// Answer is the endpoint's answer, sealed. It is opaque to every journal.
	Answer []byte `json:"answer"`
}
