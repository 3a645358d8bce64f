package ledger

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
	// ErrDamaged: the document or entry is there and can't be read by this
	// program, such as one that a newer program wrote. It says nothing of others.
	ErrDamaged = errors.New("can't be read by this program")
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
	// many accounts are not due. Accounts of the platforms in except are left
	// out.
	Due(ctx context.Context, now time.Time, limit int, except ...string) ([]account.Key, error)
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
