package rediskv

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/refresh"
)

// The value of a lease's key is its owner, whose name is of one hold only. The
// scripts answer 1 if the caller has, or had, the lease. ARGV: owner, time to
// live in ms.
var (
	acquireScript = redis.NewScript(`
local holder = redis.call('GET', KEYS[1])
if holder then
  return holder == ARGV[1] and 1 or 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
`)
	renewScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`)
	releaseScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
`)
)

// Leases keeps leases. It implements lease.Backend.
type Leases struct {
	client *Client
}

var _ lease.Backend = (*Leases)(nil)

// Leases returns the leases on this client.
func (c *Client) Leases() *Leases { return &Leases{c} }

// TTL implements lease.Backend.
func (l *Leases) TTL() time.Duration { return l.client.leaseTTL }

// Acquire implements lease.Backend.
func (l *Leases) Acquire(ctx context.Context, name, owner string) (lease.Token, error) {
	if err := l.run(ctx, acquireScript, name, refresh.ErrHeld, owner, l.TTL().Milliseconds()); err != nil {
		return lease.Token{}, fmt.Errorf("acquire lease on %s: %w", name, err)
	}
	return lease.Token{Owner: owner}, nil
}

// Renew implements lease.Backend.
func (l *Leases) Renew(ctx context.Context, name string, token lease.Token) (lease.Token, error) {
	if err := l.run(ctx, renewScript, name, lease.ErrLost, token.Owner, l.TTL().Milliseconds()); err != nil {
		return lease.Token{}, fmt.Errorf("renew lease on %s: %w", name, err)
	}
	return token, nil
}

// Release implements lease.Backend.
func (l *Leases) Release(ctx context.Context, name string, token lease.Token) error {
	if err := l.run(ctx, releaseScript, name, lease.ErrLost, token.Owner); err != nil {
		return fmt.Errorf("release lease on %s: %w", name, err)
	}
	return nil
}

// run runs a script of a lease; the answer 0 is the error no.
func (l *Leases) run(ctx context.Context, script *redis.Script, name string, no error, args ...any) error {
	n, err := l.client.run(ctx, script, l.client.key("lease", name), args...)
	if err == nil && n == 0 {
		err = no
	}
	return err
}

// Read implements lease.Backend.
func (l *Leases) Read(ctx context.Context, name string) (lease.Token, error) {
	var owner string
	missing := false
	err := l.client.call(ctx, func(ctx context.Context) (err error) {
		owner, err = l.client.redis.Get(ctx, l.client.key("lease", name)).Result()
		if missing = err == redis.Nil; missing { // not errors.Is: a Sentinel's "no such master" wraps it
			return nil
		}
		return err
	})
	if missing {
		err = ledger.ErrNotFound
	}
	if err != nil {
		return lease.Token{}, fmt.Errorf("read lease on %s: %w", name, err)
	}
	return lease.Token{Owner: owner}, nil
}
