package provider

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// Sentinel errors of the ports. Adapters wrap them; callers use errors.Is.
var (
	// ErrNotFound: there is no such document, entry or record.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the guard of a compare-and-set did not hold, or what should
	// be created exists. Nothing was written, for certain.
	ErrConflict = errors.New("conflict")
	// ErrHeld: another owner holds the lease.
	ErrHeld = errors.New("lease is held by another")
	// ErrMisconfigured: an exchange was not sent because the definition of its
	// platform lacks something, such as a client secret. It counts as the
	// outcome [Misconfigured]; no account is to blame.
	ErrMisconfigured = errors.New("misconfigured")
)

// Store keeps the account documents. It is the only truth: everything else is
// a copy or a hint.
//
// Consistency: Get sees every write that was acknowledged before it began
// (majority read), and every write is durable when it is acknowledged
// (majority, journaled). Each call is one operation on one document.
//
// Errors: ErrNotFound and ErrConflict are certain: nothing was written. After
// any other error of a write the outcome is unknown, and the caller reads
// back. A Store makes no second attempt at a write whose outcome is unknown,
// other than what its driver proves to be idempotent, and gives up by the
// context's deadline or its own, whichever is sooner.
//
// A Store is safe for concurrent use.
type Store interface {
	// Get returns the document, tombstones included, or ErrNotFound.
	Get(ctx context.Context, key account.Key) (account.Account, error)
	// Create inserts the document, or returns ErrConflict if one exists
	// (a tombstone exists).
	Create(ctx context.Context, a account.Account) error
	// Update applies the change if the guard holds, atomically, and returns
	// the document as it is afterwards; ErrConflict if the guard does not
	// hold, ErrNotFound if there is no document.
	Update(ctx context.Context, key account.Key, guard account.Guard, change account.Change) (account.Account, error)
	// Due returns keys of active accounts whose refresh_at is set and not
	// after now, the longest overdue first, at most limit, also those with a
	// rotation. It may lag behind writes by seconds and costs the same however
	// many accounts are not due.
	Due(ctx context.Context, now time.Time, limit int) ([]account.Key, error)
	// Pending returns keys of accounts whose announcement is pending, at most
	// limit. It may lag behind writes by seconds.
	Pending(ctx context.Context, limit int) ([]account.Key, error)
	// List returns documents in the order of their keys, tombstones left out.
	// It may lag behind writes by seconds.
	List(ctx context.Context, q ListQuery) ([]account.Account, error)
}

// ListQuery selects accounts for [Store.List].
type ListQuery struct {
	Platform string         // "": any
	Status   account.Status // "": any
	After    string         // keys (as text) after this one; "": from the start
	Limit    int            // at least 1
}

// Entry is what the shared cache holds of an account: a copy of its newest
// announced state. Value is sealed.
type Entry struct {
	Rev     account.Rev
	Version account.Version
	Value   []byte
	// Until is when the entry ends, by the clock of whoever wrote it. Readers
	// decide; the cache may drop the entry any time after it.
	Until time.Time
}

// Cache is the cache that all workers share. Entries are ordered by Rev and
// never replaced by one of a lower or the same Rev: check and write are one
// atomic step, also against writes that arrive late. The order is remembered
// for at least an hour past Until unless the backend evicts. Losing entries
// harms nothing but speed.
//
// A Cache is safe for concurrent use.
type Cache interface {
	// Get returns the newest entry, also one past its Until, or ErrNotFound.
	// The answer may come from a replica that lags.
	Get(ctx context.Context, key account.Key) (Entry, error)
	// Put stores the entry if it is newer than what is there, and reports
	// whether it did. (false, nil) means that an entry of the same or a higher
	// Rev is there.
	Put(ctx context.Context, key account.Key, e Entry) (bool, error)
}

// Locker hands out leases. A lease keeps the herd away and nothing more:
// correctness rests on the rotation record in the store.
type Locker interface {
	// Acquire takes the lease on the account, or returns ErrHeld. Any other
	// error means that the backend is out of reach.
	Acquire(ctx context.Context, key account.Key) (Lease, error)
}

// Lease is an exclusive right that ends by itself. It is renewed in the
// background from Acquire until Release.
type Lease interface {
	// Trusted reports whether the lease still certainly excludes others.
	Trusted() bool
	// Release gives the lease up if it is still ours and waits for the
	// renewal to have stopped.
	Release(ctx context.Context)
}

// Record is an answer of the token endpoint that waits to be committed.
type Record struct {
	Key         account.Key     `json:"key"`
	RotationID  string          `json:"rotation_id"`
	FromVersion account.Version `json:"from_version"`
	Worker      string          `json:"worker"`
	Host        string          `json:"host"`
	At          time.Time       `json:"at"`
	// From are the fingerprints of the tokens that the rotation started from.
	From account.Fingerprints `json:"from"`
	// Reason is why the rotation was begun.
	Reason   events.Reason `json:"reason"`
	Operator bool          `json:"operator,omitempty"` // who asked for it
	// Answer is the sealed [RawAnswer]. It is opaque to every journal.
	Answer []byte `json:"answer"`
}

// Journal keeps records until their answers are committed. Two are in use:
// the spool on the local disk and the bucket that all workers share.
//
// A Journal is safe for concurrent use.
type Journal interface {
	// Put makes the record durable before it returns nil. Putting a record
	// with the same key and rotation id again replaces it.
	Put(ctx context.Context, r Record) error
	// Records returns what waits for the account, or for all accounts if key
	// is zero, in no order. A record that can't be read makes it return the
	// readable ones and an error that is or wraps a [*TornError] for each
	// other; it is never dropped.
	Records(ctx context.Context, key account.Key) ([]Record, error)
	// Delete removes a record; it is no error if it is gone.
	Delete(ctx context.Context, key account.Key, rotationID string) error
}

// TornError reports a journal record that is there and can't be read.
type TornError struct {
	Key   account.Key // zero if even that is unknown
	Where string      // for the operator: a path or a bucket's key
	Err   error
}

func (e *TornError) Error() string { return "journal record " + e.Where + ": " + e.Err.Error() }
func (e *TornError) Unwrap() error { return e.Err }

// Spool is the journal on the local disk, with a first step that is cheap
// enough for every answer.
type Spool interface {
	Journal
	// Stash keeps the record through the death of the process, though not of
	// the machine: one write, no fsync. Put makes a stashed record durable.
	Stash(ctx context.Context, r Record) error
}

// Publisher tells the world. A nil error means that the stream has the
// message for good. An outcome that is unknown is an error; all methods may be
// called again with the same argument and then change nothing.
type Publisher interface {
	Refreshed(ctx context.Context, e events.Refreshed) error
	// Bump broadcasts the bump unless the stream has one of the same or a
	// higher rev for the account: then it does nothing and returns nil.
	Bump(ctx context.Context, e events.Bump) error
	Status(ctx context.Context, e events.Status) error
	// LastBump returns the account's newest bump, or ErrNotFound.
	LastBump(ctx context.Context, key account.Key) (events.Bump, error)
}

// Sealer seals what leaves the process (package seal).
type Sealer interface {
	// Seal encrypts plaintext; only Open with the same associated data reads it.
	Seal(plaintext, associated []byte) ([]byte, error)
	// Open decrypts. An error means that the bytes are damaged, belong
	// elsewhere, or were sealed with a key that the keyset lacks.
	Open(sealed, associated []byte) ([]byte, error)
	// Fingerprint returns a keyed hash of a secret, the same on every worker
	// of the fleet and through every rotation of keys; "" for the empty secret.
	Fingerprint(secret account.Secret) string
}

// Endpoint talks to the token endpoints (package oauth).
type Endpoint interface {
	// Policy returns what is known of a platform's endpoint; false if no
	// provider of that name is defined.
	Policy(platform string) (Policy, bool)
	// Send makes one refresh request: one connection, one request, no
	// redirect, no retry. It returns what was read from the socket, untouched.
	// An error that is or wraps a [*SendError] tells whether anything was
	// sent; any other error means that nothing was. An error that wraps
	// [ErrMisconfigured] is the definition's fault: nothing was sent.
	Send(ctx context.Context, req SendRequest) (RawAnswer, error)
	// Judge reads an answer. It is a pure function: the same answer always
	// gives the same verdict, also when replayed from a journal.
	Judge(platform string, raw RawAnswer) Verdict
	// Describe fills in what the tokens themselves tell: the expiry of a JWT
	// and the claims that callers need, as Extra. It changes no token.
	Describe(platform string, c account.Credentials) account.Credentials
}

// Policy is what the provider needs to know of a platform's endpoint. The
// fields are those of the provider file.
type Policy struct {
	Timeout              time.Duration // patience with one exchange
	ReuseGrace           time.Duration // a spent refresh token is taken again for this long
	MinRefreshAge        time.Duration
	RefreshAtLeastEvery  time.Duration
	ServeWhileRefreshing bool
	MaxConcurrent        int
	ExtraFields          []string // the extra fields that replies may carry
}

// SendRequest is one exchange to make.
type SendRequest struct {
	Platform    string
	Credentials account.Credentials
	// BeforeFirstByte, if not nil, is called once, in the connection's first
	// write of application data: an error stops the request before a byte of
	// it has left.
	BeforeFirstByte func() error
}

// SendError is a request that brought no complete answer.
type SendError struct {
	Sent bool // something may have reached the endpoint
	Err  error
}

func (e *SendError) Error() string { return e.Err.Error() }
func (e *SendError) Unwrap() error { return e.Err }

// RawAnswer is what came back from the endpoint, as read from the socket. It
// holds secrets in the clear: it is sealed before it goes anywhere.
type RawAnswer struct {
	Status    int               `json:"status"`
	Header    map[string]string `json:"header,omitempty"` // Content-Type, Retry-After, Retry-After-Ms, Date, Location: the ones that matter
	Body      []byte            `json:"body,omitempty"`
	Truncated bool              `json:"truncated,omitempty"` // the connection or our limit cut the body
	// SentAt is when the request was about to leave. A token's lifetime counts
	// from here: a process that was frozen reads an answer long after it came.
	SentAt     time.Time `json:"sent_at"`
	ReceivedAt time.Time `json:"received_at"`
}

// Format keeps the body out of every log.
func (r RawAnswer) String() string { return "[raw answer]" }

// Outcome is the class of an answer, and all that decides what it does to the
// account.
type Outcome string

// The outcomes of an exchange.
const (
	Granted       Outcome = "granted"       // new credentials, perhaps incomplete
	Rejected      Outcome = "rejected"      // this grant is dead
	Misconfigured Outcome = "misconfigured" // our request or client is wrong; no account is to blame
	Throttled     Outcome = "throttled"     // too many requests; the grant lives
	Transient     Outcome = "transient"     // the endpoint failed and says so; the grant lives
	Unknown       Outcome = "unknown"       // sent, and nobody can say what became of it
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

// Policies of time that the provider file can't set.
const (
	// LifetimeUnknown is how long an answer without expires_in, whose token
	// doesn't tell its end, counts as living.
	LifetimeUnknown = 30 * time.Minute
)
