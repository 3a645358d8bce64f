package refresh

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/rotation"
)

// Sentinel errors of the ports. Adapters wrap them; callers use errors.Is.
var (
	// ErrHeld: another owner holds the lease.
	ErrHeld = errors.New("lease is held by another")
	// ErrMisconfigured: an exchange was not sent because the definition of its
	// platform lacks something, such as a client secret. It counts as the
	// outcome [rotation.Misconfigured]; no account is to blame.
	ErrMisconfigured = errors.New("misconfigured")
)

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

// Journal keeps records until their answers are committed. Two are in use:
// the spool on the local disk and the bucket that all workers share.
//
// A Journal is safe for concurrent use.
type Journal interface {
	// Put makes the record durable before it returns nil. Putting a record
	// with the same key and rotation id again replaces it.
	Put(ctx context.Context, r rotation.Record) error
	// Records returns what waits for the account, or for all accounts if key
	// is zero, in no order. A record that can't be read makes it return the
	// readable ones and an error that is or wraps a [*TornError] for each
	// other; it is never dropped.
	Records(ctx context.Context, key account.Key) ([]rotation.Record, error)
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
	// Reserve makes room for the record of an exchange, before that is made: so
	// its answer is kept whatever becomes of the disk meanwhile.
	Reserve(key account.Key, rotationID string) (Place, error)
	// Check returns nil if a record could be kept now.
	Check() error
}

// Place is the room for one record. It is used by one goroutine.
type Place interface {
	// Stash keeps the record that the place is for through the death of the
	// process, though not of the machine: one write, no fsync. [Journal].Put makes
	// a stashed record durable.
	Stash(r rotation.Record) error
	// Release gives the room back, unless there is a record in it. It must be
	// called, and may be called again.
	Release()
}

// Endpoint talks to the token endpoints (package oauth).
type Endpoint interface {
	// Policy returns what is known of a platform's endpoint; false if no
	// provider of that name is defined.
	Policy(platform string) (rotation.Policy, bool)
	// Send makes one refresh request: one connection, one request, no
	// redirect, no retry. It returns what was read from the socket, untouched.
	// An error that is or wraps a [*SendError] tells whether anything was
	// sent; any other error means that nothing was. An error that wraps
	// [ErrMisconfigured] is the definition's fault: nothing was sent.
	Send(ctx context.Context, req SendRequest) (RawAnswer, error)
	// Judge reads an answer. It is a pure function: the same answer always
	// gives the same verdict, also when replayed from a journal.
	Judge(platform string, raw RawAnswer) rotation.Verdict
	// Describe fills in what the tokens themselves tell: the expiry of a JWT
	// and the claims that callers need, as Extra. It changes no token.
	Describe(platform string, c account.Credentials) account.Credentials
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
