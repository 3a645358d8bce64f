package natskv

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/refresh"
)

// Leases keeps leases in one bucket: an entry's value is its owner. They end
// by the bucket's time to live, for that of a single message would be lost at
// the first renewal and a crashed holder keep its lease for ever.
type Leases struct {
	bucket *bucket
}

var _ lease.Backend = (*Leases)(nil)

// NewLeases opens the bucket <Prefix>_LEASES. If it exists with another TTL,
// that one counts, for all workers must share one; outside the range that
// [Config.LeaseTTL] allows it is an error.
func NewLeases(ctx context.Context, c Config) (*Leases, error) {
	s := settings{suffix: "_LEASES", about: "tokenbus: who refreshes which account", keeps: untilAge, ttl: c.LeaseTTL}
	if s.ttl == 0 {
		s.ttl = DefaultLeaseTTL
	}
	b, err := open(ctx, c, s)
	if err != nil {
		return nil, err
	}
	return &Leases{b}, nil
}

// TTL implements [lease.Backend].
func (l *Leases) TTL() time.Duration { return l.bucket.config.MaxAge }

// Acquire implements [lease.Backend].
func (l *Leases) Acquire(ctx context.Context, name, owner string) (lease.Token, error) {
	ctx, cancel := l.bucket.bound(ctx)
	defer cancel()
	token, err := l.acquire(ctx, name, owner)
	if err != nil {
		return lease.Token{}, l.bucket.failed("acquire lease", name, err)
	}
	return token, nil
}

func (l *Leases) acquire(ctx context.Context, name, owner string) (lease.Token, error) {
	after := uint64(0) // most often there is nothing
	for attempt := 0; ; attempt++ {
		seq, err := l.bucket.write(ctx, name, nil, []byte(owner), after, 0)
		if err == nil {
			return lease.Token{Owner: owner, Revision: seq}, nil
		}
		if !errors.Is(err, errRaced) {
			return lease.Token{}, err
		}
		m, err := l.bucket.read(ctx, name)
		if err != nil {
			return lease.Token{}, err
		}
		switch {
		case m.live && string(m.data) == owner:
			return lease.Token{Owner: owner, Revision: m.seq}, nil
		case m.live:
			return lease.Token{}, refresh.ErrHeld
		}
		// The mark of a release, or another's attempt that is on its way.
		if after == m.seq {
			if err := pause(ctx, attempt); err != nil {
				return lease.Token{}, err
			}
		}
		after = m.seq
	}
}

// Renew implements [lease.Backend].
func (l *Leases) Renew(ctx context.Context, name string, token lease.Token) (lease.Token, error) {
	ctx, cancel := l.bucket.bound(ctx)
	defer cancel()
	seq, err := l.replace(ctx, name, nil, []byte(token.Owner), token)
	if err != nil {
		return lease.Token{}, l.bucket.failed("renew lease", name, err)
	}
	return lease.Token{Owner: token.Owner, Revision: seq}, nil
}

// Release implements [lease.Backend]. What it leaves is the mark of a deleted
// key, which ends as leases do.
func (l *Leases) Release(ctx context.Context, name string, token lease.Token) error {
	ctx, cancel := l.bucket.bound(ctx)
	defer cancel()
	_, err := l.replace(ctx, name, nats.Header{headerOperation: {operationDelete}}, nil, token)
	if err != nil {
		return l.bucket.failed("release lease", name, err)
	}
	return nil
}

func (l *Leases) replace(ctx context.Context, name string, header nats.Header, data []byte, token lease.Token) (uint64, error) {
	if token.Revision == 0 {
		return 0, lease.ErrLost // it would create the lease
	}
	seq, err := l.bucket.write(ctx, name, header, data, token.Revision, 0)
	if errors.Is(err, errRaced) {
		return 0, lease.ErrLost
	}
	return seq, err
}

// Read implements [lease.Backend].
func (l *Leases) Read(ctx context.Context, name string) (lease.Token, error) {
	ctx, cancel := l.bucket.bound(ctx)
	defer cancel()
	m, err := l.bucket.read(ctx, name)
	if err == nil && !m.live {
		err = ledger.ErrNotFound
	}
	if err != nil {
		return lease.Token{}, l.bucket.failed("read lease", name, err)
	}
	return lease.Token{Owner: string(m.data), Revision: m.seq}, nil
}
