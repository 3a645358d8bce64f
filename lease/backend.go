package lease

import (
	"context"
	"errors"
	"time"
)

// ErrLost is what a backend returns for a lease that is no longer the
// caller's: it has ended, or another owner has it.
var ErrLost = errors.New("lease is lost")

// Token is a hold on a lease: what is needed to renew or release it. Which
// field a backend compares is its own choice; callers pass tokens on as they
// got them.
type Token struct {
	// Owner is the value that Acquire was called with. It names one hold, not
	// one worker: no two calls of Acquire that may succeed use the same.
	Owner string
	// Revision counts the writes of the entry, in backends that have such a
	// number; 0 in others.
	Revision uint64
}

// Backend keeps leases: entries that exist until they are released or their
// time to live has passed since the last write, by the backend's own clock.
// Names are account keys.
//
// Acquire, Renew and Release are one atomic compare-and-set each. ErrHeld
// (package refresh), ErrLost and ErrNotFound (package ledger) are certain
// answers. After any other error the outcome is unknown: the call may have
// been carried out, or still be on its way. A backend gives up by the
// context's deadline or its own, whichever is sooner.
//
// A Backend is safe for concurrent use.
type Backend interface {
	// TTL returns how long a lease lives after Acquire and after each Renew.
	// It never changes.
	TTL() time.Duration
	// Acquire takes the lease for owner, or returns refresh.ErrHeld. If
	// owner has it already, it is left as it is and its token returned: so a
	// repeated call does no harm.
	Acquire(ctx context.Context, name, owner string) (Token, error)
	// Renew makes the lease live for another TTL from now on, or returns
	// ErrLost if the token isn't that of the current hold.
	Renew(ctx context.Context, name string, token Token) (Token, error)
	// Release ends the lease, or returns ErrLost if the token isn't that of
	// the current hold; then nothing changes.
	Release(ctx context.Context, name string, token Token) error
	// Read returns the token of the current hold, whoever has it, or
	// ledger.ErrNotFound. It does not read from a replica that may lag.
	Read(ctx context.Context, name string) (Token, error)
}
