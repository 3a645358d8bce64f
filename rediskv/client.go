package rediskv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/tokenbus/tokenbus/account"
)

// Defaults of [Config].
const (
	DefaultPrefix   = "tokenbus"
	DefaultLeaseTTL = 30 * time.Second
	DefaultTimeout  = time.Second
)

// Config configures a [Client].
type Config struct {
	// URL names one server, a Cluster or Sentinels: see the package comment.
	// Required. It may hold a password: it is never shown.
	URL string
	// Prefix is the first part of all keys. Default: [DefaultPrefix].
	Prefix string
	// LeaseTTL is the time to live of leases. Default: [DefaultLeaseTTL]. At
	// least 100ms.
	LeaseTTL time.Duration
	// Timeout bounds each call whose context ends later. Default:
	// [DefaultTimeout]. Callers go on without Redis after it, so it is short.
	Timeout time.Duration
	// Logger hears of a connection that isn't verified. Default: discard.
	Logger *slog.Logger
}

var validPrefix = regexp.MustCompile(`^[A-Za-z0-9_:.-]{1,64}$`)

// Client is a pool of connections to one Redis server, to a Cluster, or to the
// server that Sentinels name. It is safe for concurrent use.
type Client struct {
	redis    redis.UniversalClient
	target   *target
	prefix   string
	leaseTTL time.Duration
	timeout  time.Duration
}

// Open returns a client of the server that the URL names, or an error that
// names every problem of cfg. It waits for nobody: a server that can't be
// reached shows in [Client.Ping] and in every other call.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var problems []error
	target, err := parseURL(cfg.URL)
	if err != nil {
		problems = append(problems, fmt.Errorf("URL: %w", err))
	}
	c := &Client{target: target, prefix: cfg.Prefix, leaseTTL: cfg.LeaseTTL, timeout: cfg.Timeout}
	if c.prefix == "" {
		c.prefix = DefaultPrefix
	} else if !validPrefix.MatchString(c.prefix) {
		problems = append(problems, fmt.Errorf("prefix %q: want 1 to 64 characters of A-Z, a-z, 0-9, _, :, . and -", c.prefix))
	}
	if c.leaseTTL == 0 {
		c.leaseTTL = DefaultLeaseTTL
	} else if c.leaseTTL < 100*time.Millisecond {
		problems = append(problems, fmt.Errorf("lease TTL %v: want at least 100ms", c.leaseTTL))
	}
	if c.timeout == 0 {
		c.timeout = DefaultTimeout
	} else if c.timeout < 0 {
		problems = append(problems, fmt.Errorf("timeout %v is negative", c.timeout))
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("configure Redis: %w", errors.Join(problems...))
	}
	if t := target.tls(); t != nil && t.InsecureSkipVerify && cfg.Logger != nil {
		cfg.Logger.Warn("the certificate of Redis is not verified (skip_verify)")
	}
	// The driver prints to the standard error, past every logger, what its
	// calls return anyway; this holds for the whole process.
	logging.Disable()
	c.redis = target.connect(c.timeout)
	return c, nil
}

// Close closes all connections.
func (c *Client) Close() error {
	if err := c.redis.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		return fmt.Errorf("close Redis: %w", err)
	}
	return nil
}

// key returns the name of a key of the account. What stands in braces decides
// where a Cluster keeps it: all keys of an account are in one place.
func (c *Client) key(kind, account string) string {
	return c.prefix + ":" + kind + ":{" + account + "}"
}

// call carries out a call of the driver within the client's own timeout, and
// explains its error.
func (c *Client) call(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.explain(ctx, do(ctx))
}

// run runs a script that answers with a number, on one key. A server that
// doesn't know it gets it whole.
func (c *Client) run(ctx context.Context, script *redis.Script, key string, args ...any) (n int64, err error) {
	err = c.call(ctx, func(ctx context.Context) (err error) {
		n, err = script.Run(ctx, c.redis, []string{key}, args...).Int64()
		return err
	})
	return n, err
}

func accountError(verb string, key account.Key, err error) error {
	return fmt.Errorf("%s %s: %w", verb, key, err)
}
