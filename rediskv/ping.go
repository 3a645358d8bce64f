package rediskv

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/redis/go-redis/v9"
)

// probeScript uses every command that calls use. It begins with a write that
// needs memory, for after any other the server no longer minds, and leaves
// nothing behind for long, whichever of them is refused.
var probeScript = redis.NewScript(`
redis.call('SET', KEYS[1], '0', 'PX', ARGV[1])
redis.call('GET', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[1])
redis.call('HGET', KEYS[1], 'rev')
redis.call('HMGET', KEYS[1], 'rev')
redis.call('HSET', KEYS[1], 'rev', '0', 'version', '0')
return redis.call('DEL', KEYS[1])
`)

const probeTTL = 1000 // ms

// Ping finds out whether the server can do what the other calls need: whether
// it is there, takes our credentials and writes, and lets our user do all that
// it must. In a Cluster every primary must be there. [Final] tells an
// error that stays from one worth waiting for.
func (c *Client) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	err := c.ping(ctx)
	if err == nil {
		return nil
	}
	switch encrypted := c.target.tls() != nil; {
	case errors.Is(err, io.EOF) && !encrypted:
		err = fmt.Errorf("%w; it closed the connection: if it wants TLS, the --cache-url begins with rediss://", err)
	case errors.Is(err, context.DeadlineExceeded) && encrypted: // Redis waits for the rest of what it takes for a command
		err = fmt.Errorf("%w; no answer in time: if it doesn't speak TLS, the --cache-url begins with redis://", err)
	}
	return fmt.Errorf("ping %s: %w", c.target.name, err)
}

func (c *Client) ping(ctx context.Context) error {
	if cluster, ok := c.redis.(*redis.ClusterClient); ok {
		err := cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return node.Ping(ctx).Err() })
		if err != nil {
			return c.explain(ctx, err)
		}
	}
	_, err := c.run(ctx, probeScript, c.key("probe", "probe"), probeTTL)
	return err
}
