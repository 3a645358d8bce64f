package oauth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/rotation"
)

// Config configures a [Client].
type Config struct {
	// Definitions by platform; nil means those of [Builtin].
	Definitions Definitions
	// Getenv is asked for the variables that definitions name in
	// ClientSecretEnv; nil means [os.Getenv].
	Getenv func(string) string
	// TLS is the base of the connections' configuration, to the endpoints and
	// to https proxies: roots, minimum version. nil means the defaults.
	TLS *tls.Config
	// Dial opens the TCP connections, to endpoints and proxies; nil means
	// [net.Dialer.DialContext].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// DialTimeout bounds the way to a connection that is ready for the
	// request: TCP, the proxy's handshake and TLS together. Nothing has been
	// sent then, so it is shorter than the patience with an exchange.
	// 0 means 15 s.
	DialTimeout time.Duration
	// UserAgent is sent where the definition has none; "" means "tokenbus".
	UserAgent string
	// MaxBody and MaxHeader bound an answer, in bytes; 0 means 1 MiB and
	// 64 KiB. A longer body is cut and marked, a longer header is an error.
	MaxBody   int64
	MaxHeader int64
	// Now is the clock of RawAnswer.ReceivedAt; nil means [time.Now].
	Now func() time.Time
	// Logger hears at New what of the definitions can't work; nil: nobody.
	Logger *slog.Logger
}

// Client talks to the token endpoints that its definitions name. It implements
// [refresh.Endpoint], keeps no connection and no state, and is safe for
// concurrent use.
type Client struct {
	definitions Definitions
	tls         *tls.Config
	dial        func(ctx context.Context, network, address string) (net.Conn, error)
	dialTimeout time.Duration
	userAgent   string
	maxBody     int64
	maxHeader   int64
	now         func() time.Time
}

// New returns a Client, or an error that names everything that is wrong with
// cfg.
func New(cfg Config) (*Client, error) {
	var errs []error
	if cfg.Definitions == nil {
		cfg.Definitions = Builtin()
	}
	if cfg.Getenv == nil {
		cfg.Getenv = os.Getenv
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		definitions: Definitions{},
		tls:         &tls.Config{MinVersion: tls.VersionTLS12},
		dial:        cfg.Dial,
		dialTimeout: cfg.DialTimeout,
		userAgent:   cfg.UserAgent,
		maxBody:     cfg.MaxBody,
		maxHeader:   cfg.MaxHeader,
		now:         cfg.Now,
	}
	for _, platform := range slices.Sorted(maps.Keys(cfg.Definitions)) {
		d := cfg.Definitions[platform].clone()
		if _, err := account.NewKey(platform, "x"); err != nil {
			errs = append(errs, fmt.Errorf("oauth: platform: %w", err))
		}
		if err := d.Check(); err != nil {
			errs = append(errs, fmt.Errorf("oauth: definition of %s: %w", platform, err))
		}
		c.define(platform, d, cfg)
	}
	if cfg.DialTimeout < 0 || cfg.MaxBody < 0 || cfg.MaxHeader < 0 {
		errs = append(errs, errors.New("oauth: DialTimeout, MaxBody and MaxHeader must not be negative"))
	}
	if !httpguts.ValidHeaderFieldValue(cfg.UserAgent) {
		errs = append(errs, errors.New("oauth: UserAgent is no header value"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	c.fillDefaults(cfg)
	return c, nil
}

// define takes the definition in, with its secret from the environment.
func (c *Client) define(platform string, d Definition, cfg Config) {
	if d.ClientSecret.IsZero() && d.ClientSecretEnv != "" {
		d.ClientSecret = account.NewSecret(cfg.Getenv(d.ClientSecretEnv))
		if d.ClientSecret.IsZero() {
			cfg.Logger.Debug("client secret is not set, accounts of the platform can't be refreshed",
				"platform", platform, "variable", d.ClientSecretEnv)
		}
	}
	if d.Auth == AuthNone && !d.ClientSecret.IsZero() {
		cfg.Logger.Warn("client secret is not used because auth is none", "platform", platform)
	}
	c.definitions[platform] = d
}

func (c *Client) fillDefaults(cfg Config) {
	if cfg.TLS != nil {
		c.tls = cfg.TLS.Clone()
	}
	// The wire is HTTP/1.1: a connection that carries one request has no use
	// for streams, and nothing on it may be replayed.
	c.tls.NextProtos = []string{"http/1.1"}
	if c.dial == nil {
		c.dial = new(net.Dialer).DialContext
	}
	if c.dialTimeout == 0 {
		c.dialTimeout = 15 * time.Second
	}
	if c.userAgent == "" {
		c.userAgent = "tokenbus"
	}
	if c.maxBody == 0 {
		c.maxBody = 1 << 20
	}
	if c.maxHeader == 0 {
		c.maxHeader = 64 << 10
	}
	if c.now == nil {
		c.now = time.Now
	}
}

// Platforms returns the names of the platforms that are defined, sorted.
func (c *Client) Platforms() []string { return slices.Sorted(maps.Keys(c.definitions)) }

// Policy implements [refresh.Endpoint].
func (c *Client) Policy(platform string) (rotation.Policy, bool) {
	d, ok := c.definitions[platform]
	if !ok {
		return rotation.Policy{}, false
	}
	return d.Policy(), true
}
