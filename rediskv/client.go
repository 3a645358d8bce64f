package rediskv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/tokenbus/tokenbus/account"
)

// Defaults of [Config].
const (
	DefaultPrefix   = "tokenbus"
	DefaultLeaseTTL = 30 * time.Second
	DefaultTimeout  = time.Second
)

// ErrCredentials: the server refuses our credentials, or our user may not do
// what it must. Trying again won't help.
var ErrCredentials = errors.New("the server refuses the credentials")

// Config configures a [Client].
type Config struct {
	// URL is redis://[user:password@]host[:port][/db][?options], or rediss://…
	// for TLS, which trusts the system's certificates and those that
	// SSL_CERT_FILE names. Options are those of go-redis, but max_retries.
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

// Client is a connection pool to one Redis server. It is safe for concurrent
// use.
type Client struct {
	redis    *redis.Client
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
	opts, err := parseURL(cfg.URL)
	if err != nil {
		problems = append(problems, fmt.Errorf("URL: %w", err))
	}
	c := &Client{prefix: cfg.Prefix, leaseTTL: cfg.LeaseTTL, timeout: cfg.Timeout}
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
	if opts.TLSConfig != nil && opts.TLSConfig.InsecureSkipVerify && cfg.Logger != nil {
		cfg.Logger.Warn("the certificate of Redis is not verified (skip_verify)")
	}
	// The driver prints to the standard error, past every logger, what its
	// calls return anyway; this holds for the whole process.
	logging.Disable()
	c.redis = redis.NewClient(c.configure(opts))
	return c, nil
}

func (c *Client) configure(opts *redis.Options) *redis.Options {
	opts.ContextTimeoutEnabled = true
	opts.MaxRetries = -1   // none: see the package comment
	opts.DialerRetries = 1 // none
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout = c.timeout, c.timeout, c.timeout
	opts.PipelinePoolSize = -1 // nothing is pipelined
	opts.DisableIdentity = true
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	if opts.ClientName == "" {
		opts.ClientName = "tokenbus"
	}
	return opts
}

// Ping asks the server whether it is there and takes our credentials: if not,
// the error is or isn't [ErrCredentials].
func (c *Client) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := c.redis.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("ping Redis: %w", explain(ctx, err))
	}
	return nil
}

// Close closes all connections.
func (c *Client) Close() error {
	if err := c.redis.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		return fmt.Errorf("close Redis: %w", err)
	}
	return nil
}

// key returns the name of a key of the account.
func (c *Client) key(kind, account string) string {
	return c.prefix + ":" + kind + ":{" + account + "}"
}

// run runs a script that answers with a number, on one key.
func (c *Client) run(ctx context.Context, script *redis.Script, key string, args ...any) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n, err := script.Run(ctx, c.redis, []string{key}, args...).Int64()
	return n, explain(ctx, err)
}

// explain marks errors that are about our credentials, and those of a context
// that has ended.
func explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case redis.IsAuthError(err), redis.IsPermissionError(err):
		return fmt.Errorf("%w: %w", ErrCredentials, err)
	case ctx.Err() != nil && !errors.Is(err, ctx.Err()):
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	default:
		return err
	}
}

// parseURL checks the URL. Its errors show neither user nor password.
func parseURL(raw string) (*redis.Options, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok || scheme != "redis" && scheme != "rediss" {
		return nil, errors.New("want redis://host:port or rediss://host:port")
	}
	user := ""
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		user, rest = rest[:i], rest[i+1:]
	}
	// What the parsers say may quote the URL, so they first get one without
	// secrets.
	opts, err := redis.ParseURL(scheme + "://" + rest)
	switch {
	case err == nil:
	case user == "" && strings.Contains(rest, ":"): // it may be user:password
		return nil, errors.New("its host, port or an option is malformed: want redis://user:password@host:port/db")
	default:
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, err
	}
	switch {
	case rest == "" || strings.ContainsAny(rest[:1], "/?:"):
		return nil, errors.New("it names no host")
	case opts.MaxRetries != 0:
		return nil, errors.New("option max_retries: calls are never repeated")
	}
	if user != "" {
		if opts, err = redis.ParseURL(raw); err != nil {
			return nil, errors.New("user and password must be percent-encoded")
		}
	}
	return opts, nil
}

func accountError(verb string, key account.Key, err error) error {
	return fmt.Errorf("%s %s: %w", verb, key, err)
}
