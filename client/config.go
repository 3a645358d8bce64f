package client

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/events"
)

// InboxPrefix is where replies to the client role of the embedded NATS server
// go: a connection of that role may listen nowhere else. A caller who brings a
// connection of the role sets it with [nats.CustomInboxPrefix].
const InboxPrefix = "_INBOX_client"

// Config configures a [Client]. Either Conn or URL is needed.
type Config struct {
	// Conn is the caller's connection. It stays open when the client is closed.
	// Give it nats.PingInterval(5*time.Second) and nats.MaxPingsOutstanding(2):
	// until a silent cut is noticed, a token that was replaced may be handed out
	// for up to MaxAge.
	Conn *nats.Conn

	// URL is where to connect to, nats://host:port or tls://host:port,
	// comma-separated where there are several servers. The connection is the client's own: it is made again whenever it
	// is lost. The fields up to Name are about it alone.
	URL string
	// Creds is a file with a JWT and its seed, NKey a file with an nkey seed,
	// such as the client.nk that a worker's embedded server makes; at most one.
	Creds, NKey string
	// CA is a file with the certificates that the server's must come from,
	// Cert and Key are files with our own certificate and its key.
	CA, Cert, Key string
	// InboxPrefix is where replies go; "" means InboxPrefix, the constant.
	InboxPrefix string
	// Name is what the server's monitoring shows.
	Name string

	// Prefix of all subjects; "" means "tokenbus".
	Prefix string

	// MaxAccounts is how many accounts are held in memory beside those that are
	// being asked for, some 2 KiB each; the least used go first. 0 means 100,000.
	MaxAccounts int
	// MaxAge is how long a token is handed out before a worker is asked whether
	// it is still the one; 0 means 30 s. A negative one holds nothing: each
	// look-up asks a worker, and with the workers away there is no token.
	MaxAge time.Duration
	// MinTTL is how much longer a token from memory lives, as long as workers
	// answer; 0 means 30 s, the workers' own default.
	MinTTL time.Duration

	// Hooks are told what happens, for metrics and traces.
	Hooks Hooks
	// Logger is told what becomes of the connection; nil discards it.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now. For tests.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	c.MaxAccounts = cmp.Or(c.MaxAccounts, 100_000)
	c.MaxAge = cmp.Or(c.MaxAge, 30*time.Second)
	c.MinTTL = cmp.Or(c.MinTTL, 30*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// check returns all that is wrong with what is not about the connection.
func (c Config) check() (events.Subjects, error) {
	var problems []error
	subjects, err := events.NewSubjects(cmp.Or(c.Prefix, events.DefaultPrefix))
	if err != nil {
		problems = append(problems, err)
	}
	if c.MaxAccounts < 0 {
		problems = append(problems, fmt.Errorf("MaxAccounts %d: want at least 1", c.MaxAccounts))
	}
	if c.MinTTL < 0 {
		problems = append(problems, fmt.Errorf("MinTTL %s: must not be negative", c.MinTTL))
	}
	return subjects, errors.Join(problems...)
}

// connect returns the connection to use and whether it is the client's own, of
// which t is told.
func (c Config) connect(t *trouble) (nc *nats.Conn, own bool, err error) {
	if c.Conn != nil {
		if c.URL != "" || c.Creds != "" || c.NKey != "" || c.CA != "" || c.Cert != "" || c.Key != "" || c.Name != "" || c.InboxPrefix != "" {
			return nil, false, errors.New("a connection and settings to make one are given; want one of them")
		}
		return c.Conn, false, nil
	}
	opts, err := c.options(t)
	if err != nil {
		return nil, false, err
	}
	nc, err = nats.Connect(c.URL, opts...)
	switch {
	case err == nil:
		return nc, true, nil
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked),
		errors.Is(err, nats.ErrAccountAuthExpired), errors.Is(err, nats.ErrNkeysNotSupported):
		return nil, false, fmt.Errorf("%w (%w)", ErrCredentials, err)
	case permanent(err):
		return nil, false, fmt.Errorf("connect to NATS: %w", err)
	}
	// Out of reach: made later. What is wrong with files comes back.
	t.unreachable(err)
	c.Logger.Warn("NATS is out of reach; trying again until it is there", "servers", hosts(c.URL), "error", err)
	if nc, err = nats.Connect(c.URL, append(opts, nats.RetryOnFailedConnect(true))...); err != nil {
		return nil, false, err
	}
	return nc, true, nil
}

// permanent reports whether another try to connect would end in the same way: one
// side alone wants TLS, or a certificate is not trusted.
func permanent(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" { // a TLS alert
		return true
	}
	return errors.Is(err, nats.ErrSecureConnRequired) || errors.Is(err, nats.ErrSecureConnWanted)
}

func (c Config) options(t *trouble) ([]nats.Option, error) {
	var problems []error
	if c.URL == "" {
		problems = append(problems, errors.New("neither a connection nor a URL is given"))
	} else if err := checkURL(c.URL); err != nil {
		problems = append(problems, err)
	}
	if c.Creds != "" && c.NKey != "" {
		problems = append(problems, errors.New("a creds file and an nkey are given; want one of them"))
	}
	if (c.Cert == "") != (c.Key == "") {
		problems = append(problems, errors.New("a certificate and its key go together"))
	}
	opts := []nats.Option{
		nats.Name(c.Name),
		nats.CustomInboxPrefix(t.inbox),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(func(n int) time.Duration {
			most := min(time.Second<<min(n-1, 3), 5*time.Second)
			return most/4 + rand.N(most-most/4)
		}),
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(5 * time.Second),
	}
	if c.NKey != "" {
		o, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			problems = append(problems, fmt.Errorf("nkey: %w", err))
		}
		opts = append(opts, o)
	}
	if c.Creds != "" {
		opts = append(opts, nats.UserCredentials(c.Creds))
	}
	if c.CA != "" {
		opts = append(opts, nats.RootCAs(c.CA))
	}
	if c.Cert != "" && c.Key != "" {
		opts = append(opts, nats.ClientCert(c.Cert, c.Key))
	}
	return append(opts, c.handlers(t)...), errors.Join(problems...)
}

// checkURL returns what is wrong with the URLs, without what stands before an @:
// the library's own error would quote it all.
func checkURL(urls string) error {
	for one := range strings.SplitSeq(urls, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		if err == nil && u.Host != "" && slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) && isPort(u.Port()) {
			continue
		}
		if at := strings.LastIndex(urls, "@"); at >= 0 {
			urls = "[redacted]" + urls[at:]
		}
		return fmt.Errorf("URL %q: want nats://host:port or tls://host:port, several separated by commas", urls)
	}
	return nil
}

// hosts returns the servers of URLs that checkURL has found to be right, without
// the rest.
func hosts(urls string) []string {
	all := strings.Split(urls, ",")
	for i, one := range all {
		if u, err := url.Parse(strings.TrimSpace(one)); err == nil {
			all[i] = u.Host
		}
	}
	return all
}

// isPort reports whether text is a port's number, or nothing.
func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return text == "" || err == nil && n > 0
}

func (c Config) handlers(t *trouble) []nats.Option {
	log := c.Logger
	connected := func(nc *nats.Conn) {
		t.unreachable(nil)
		log.Info("connected to NATS", "server", nc.ConnectedUrlRedacted())
	}
	return []nats.Option{
		nats.ConnectHandler(connected),
		nats.ReconnectHandler(connected),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { t.unreachable(err) }),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			t.lost(err)
			if !nc.IsClosed() {
				log.Warn("connection to NATS lost; reconnecting", "error", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				t.forbidden(err)
			}
			log.Warn("NATS reports an error", "error", err)
		}),
	}
}
