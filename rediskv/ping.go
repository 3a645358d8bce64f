package rediskv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// The oldest Redis that will do: the first with users and with HELLO, by which
// a user of few rights learns the version.
const minMajor, minVersion = 6, "6.0"

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
// it is there and takes our credentials, is of the right kind and version,
// and takes writes. In a Cluster every primary must be there. [Final] tells an
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
	if err := c.checkServer(ctx); err != nil {
		return err
	}
	_, err := c.run(ctx, probeScript, c.key("probe", "probe"), probeTTL)
	return err
}

// checkServer asks the server what it is. Some don't tell, which is no error.
func (c *Client) checkServer(ctx context.Context) error {
	hello, err := c.redis.Do(ctx, "hello").Result()
	if err != nil && !isAnswer(err) {
		return c.explain(ctx, err)
	}
	about := pairs(hello)
	version := about["version"]
	if version == "" { // Redis 5 has no HELLO, or somebody forbids it
		info, err := c.redis.Info(ctx, "server").Result()
		if err != nil && !isAnswer(err) {
			return c.explain(ctx, err)
		}
		version = infoField(info, "redis_version")
	}
	return c.checkHello(version, about["mode"])
}

// checkHello judges what a server says of itself; "": it doesn't tell.
func (c *Client) checkHello(version, mode string) error {
	switch major, err := strconv.Atoi(version[:max(strings.Index(version, "."), 0)]); {
	case err == nil && major < minMajor:
		return unusable("it is Redis %s, and %s or later is needed: upgrade it, or name another in the --cache-url", version, minVersion)
	case mode == "sentinel":
		return unusable("it is a Sentinel: add master_name= to the --cache-url")
	case mode == "cluster" && c.target.cluster == nil:
		return unusable(nodeOfCluster)
	}
	return nil
}

func unusable(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrUnusable}, args...)...)
}

// pairs returns the texts in a map, or in the list that stands for one in
// RESP2.
func pairs(reply any) map[string]string {
	texts := make(map[string]string)
	add := func(key, value any) {
		k, isText := key.(string)
		if v, ok := value.(string); ok && isText {
			texts[k] = v
		}
	}
	switch reply := reply.(type) {
	case map[any]any:
		for k, v := range reply {
			add(k, v)
		}
	case []any:
		for i := 0; i+1 < len(reply); i += 2 {
			add(reply[i], reply[i+1])
		}
	}
	return texts
}

// infoField returns a field of the answer to INFO.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
