package bus

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// ErrCredentials means that the NATS server refuses our credentials. It
// answered, so waiting would not help.
var ErrCredentials = errors.New("the NATS server refuses our credentials")

// Config configures a connection to NATS.
type Config struct {
	// URLs are the servers, nats://host:port or tls://host:port. Server, if
	// not nil, is used instead, without the network.
	URLs   []string
	Server *Server
	// Creds is a file with a JWT and its seed, NKey a file with an nkey seed;
	// at most one of the two. A connection to Server defaults to its worker's
	// nkey.
	Creds, NKey string
	// CA is a file with the certificates that the server's must come from,
	// Cert and Key are files with our own certificate and its key.
	CA, Cert, Key string
	// Name is what the server's monitoring shows.
	Name string
	// InboxPrefix is where replies go; see [InboxPrefix]. "" means the
	// library's own, which no role of the embedded server may use. A
	// connection to Server defaults to the worker's.
	InboxPrefix string
	// Hooks are told what becomes of the connection.
	Hooks Hooks
	// Logger takes the same, once for each change; nil discards it.
	Logger *slog.Logger
}

// Hooks are called, where not nil, one after the other and never at the same
// time. They must not block.
type Hooks struct {
	Connected    func()               // the first time and again
	Disconnected func(err error)      // err may be nil
	Unreachable  func(err error)      // no server took us; it is tried again
	Refused      func(err error)      // credentials were refused while reconnecting; is ErrCredentials
	Forbidden    func(err error)      // the credentials' role does not permit what we tried
	SlowConsumer func(subject string) // messages of a subscription were dropped
	Closed       func(err error)      // for good; nil after Close
}

// FieldError says which field of a [Config] can't be used.
type FieldError struct {
	Field string // its name
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *FieldError) Unwrap() error { return e.Err }

// Connect connects to NATS. A server that can't be reached is no error: the
// connection is made later, and whenever it is lost, for as long as it takes.
// Any error means that waiting would not help: a wrong configuration, a
// certificate that isn't trusted, or [ErrCredentials].
func Connect(cfg Config) (*nats.Conn, error) {
	if cfg.Server != nil {
		cfg.NKey = cmp.Or(cfg.NKey, cfg.Server.KeyFile(RoleWorker))
		cfg.InboxPrefix = cmp.Or(cfg.InboxPrefix, InboxPrefix(RoleWorker))
	}
	r := newReporter(cfg)
	opts, err := cfg.options(r)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	nc, err := opts.Connect()
	switch {
	case err == nil:
		return nc, nil
	case refused(err):
		return nil, fmt.Errorf("connect to NATS at %s: %w (%w)", cfg.where(), ErrCredentials, err)
	case permanent(err):
		return nil, fmt.Errorf("connect to NATS at %s: %w", cfg.where(), err)
	}
	opts.RetryOnFailedConnect = true
	cfg.logger().Warn("NATS is out of reach; trying again until it is there", "servers", cfg.where(), "error", err)
	r.unreachable(err)
	if nc, err = opts.Connect(); err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", cfg.where(), err)
	}
	r.first.Store(nc)
	return nc, nil
}

func (c Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

// where names the servers without what stands before an @.
func (c Config) where() string {
	if c.Server != nil {
		return "the embedded server"
	}
	names := make([]string, len(c.URLs))
	for i, u := range c.URLs {
		names[i] = redact(u)
	}
	return strings.Join(names, ",")
}

func redact(u string) string {
	scheme, rest, ok := strings.Cut(u, "://")
	if !ok {
		scheme, rest = "nats", u
	}
	return scheme + "://" + rest[strings.LastIndex(rest, "@")+1:]
}

func (c Config) options(r *reporter) (nats.Options, error) {
	opts := nats.GetDefaultOptions()
	opts.Servers = c.URLs
	opts.Name = c.Name
	opts.Timeout = 5 * time.Second
	opts.PingInterval, opts.MaxPingsOut = pingInterval, pingsOut
	opts.MaxReconnect = -1
	opts.IgnoreAuthErrorAbort = true
	r.install(&opts)

	var problems []error
	use := func(field string, o nats.Option, err error) {
		if err == nil {
			err = o(&opts)
		}
		if err != nil {
			problems = append(problems, &FieldError{field, err})
		}
	}
	if c.InboxPrefix != "" {
		use("InboxPrefix", nats.CustomInboxPrefix(c.InboxPrefix), nil)
	}
	if c.Server != nil {
		use("Server", nats.InProcessServer(c.Server), nil)
	} else if len(c.URLs) == 0 {
		problems = append(problems, &FieldError{"URLs", errors.New("no server is named")})
	}
	for _, u := range c.URLs {
		if _, err := url.Parse(u); err != nil && strings.Contains(u, "://") { // it quotes the whole URL
			problems = append(problems, &FieldError{"URLs", fmt.Errorf("%s: want nats://host:port or tls://host:port", redact(u))})
		}
	}
	c.credentials(use)
	return opts, errors.Join(problems...)
}

func (c Config) credentials(use func(string, nats.Option, error)) {
	if c.Creds != "" && c.NKey != "" {
		use("NKey", nil, errors.New("want a creds file or an nkey, not both"))
	}
	if c.Creds != "" {
		use("Creds", nats.UserCredentials(c.Creds), checkCreds(c.Creds))
	}
	if c.NKey != "" {
		o, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil && fileThere(c.NKey) == nil {
			err = fmt.Errorf("%s holds no user's nkey seed", c.NKey)
		}
		use("NKey", o, err)
	}
	if c.CA != "" {
		use("CA", nats.RootCAs(c.CA), nil)
	}
	if (c.Cert == "") != (c.Key == "") {
		use("Cert", nil, errors.New("want a certificate and its key, or neither"))
	} else if c.Cert != "" {
		use("Cert", nats.ClientCert(c.Cert, c.Key), nil)
	}
}

// checkCreds reports what is wrong with a creds file, never with its content.
func checkCreds(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	defer clear(content)
	if _, err := nkeys.ParseDecoratedJWT(content); err != nil {
		return fmt.Errorf("%s holds no user JWT", path)
	}
	if _, err := nkeys.ParseDecoratedUserNKey(content); err != nil {
		return fmt.Errorf("%s holds no user's seed", path)
	}
	return nil
}

func fileThere(path string) error { _, err := os.Stat(path); return err }

// reconnectDelay is the pause after all servers were tried n times: 250 ms to
// a second at first, up to 5 s later, jittered so that a fleet doesn't return
// in step.
func reconnectDelay(n int) time.Duration {
	most := min(time.Second<<min(n-1, 3), 5*time.Second)
	return most/4 + rand.N(most-most/4)
}

// refused reports whether the server looked at our credentials and said no.
func refused(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) ||
		errors.Is(err, nats.ErrAuthRevoked) || errors.Is(err, nats.ErrAccountAuthExpired) ||
		errors.Is(err, nats.ErrNkeysNotSupported)
}

// permanent reports whether another try would end in the same way.
func permanent(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return true
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" { // a TLS alert
		return true
	}
	return errors.Is(err, nats.ErrSecureConnRequired) || errors.Is(err, nats.ErrSecureConnWanted)
}

// flush sends what is buffered and waits until the server has it.
func flush(ctx context.Context, nc *nats.Conn) error {
	if !nc.IsConnected() {
		return nil // nothing waits to be sent but what a reconnect sends
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // a flush wants a deadline
	defer cancel()
	return nc.FlushWithContext(ctx)
}
