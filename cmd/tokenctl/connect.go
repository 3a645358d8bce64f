package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

const connectTimeout = 5 * time.Second

// role is what the embedded server's keys are made for. A token is a client's
// business: an operator's key may not fetch one.
type role string

const (
	operator role = "operator"
	client   role = "client"
)

func (r role) inboxPrefix() string { return "_INBOX_" + string(r) }
func (r role) keyName() string     { return string(r) + ".nk" }

// keyFile returns the seed file to use for the role; "" if there is none.
// given tells that the user named it or its neighbour.
func (c config) keyFile(r role) (path string, given bool) {
	switch {
	case c.creds != "":
		return "", true
	case c.nkey == "":
		path := filepath.Join(c.dataDir, "nats", r.keyName())
		if readable(path) != nil {
			return "", false
		}
		return path, false
	case r == client && filepath.Base(c.nkey) == operator.keyName():
		if beside := filepath.Join(filepath.Dir(c.nkey), r.keyName()); readable(beside) == nil {
			return beside, true
		}
	}
	return c.nkey, true
}

// conn is a connection in one role.
type conn struct {
	*nats.Conn
	cfg    config
	role   role
	key    string      // the seed file in use; "" for none
	denied chan error  // what the server doesn't permit us
	shows  atomic.Bool // events: those that come while there is no connection are missed
}

// connect connects at once or fails; a connection that is lost later is made
// again. tell is called with what becomes of the connection.
func (c config) connect(r role, tell func(string)) (*conn, error) {
	key, given := c.keyFile(r)
	cn := &conn{cfg: c, role: r, key: key, denied: make(chan error, 1)}
	nc, err := cn.dial(tell)
	if errors.Is(err, nats.ErrNkeysNotSupported) && !given {
		cn.key = "" // a key that was found lies there from an earlier start; the server wants none
		nc, err = cn.dial(tell)
	}
	if err != nil {
		return nil, cn.explain(err)
	}
	cn.Conn = nc
	return cn, nil
}

func (c *conn) dial(tell func(string)) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name("tokenctl"), nats.Timeout(connectTimeout), nats.CustomInboxPrefix(c.role.inboxPrefix()), nats.MaxReconnects(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			switch {
			case errors.Is(err, nats.ErrPermissionViolation):
				select {
				case c.denied <- err:
				default:
				}
			case errors.Is(err, nats.ErrSlowConsumer):
				tell("events were lost: they came faster than they could be written")
			}
		}),
		nats.DisconnectErrHandler(func(nc *nats.Conn, _ error) {
			if !nc.IsClosed() {
				tell("the connection to NATS is lost; trying to get it back")
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			if c.shows.Load() {
				tell("connected to NATS again; what happened in between is not shown")
			} else {
				tell("connected to NATS again; waiting for the answer")
			}
		}),
	}
	if c.key != "" {
		o, err := nats.NkeyOptionFromSeed(c.key)
		if err != nil {
			return nil, usagef("--nats-nkey: %s: want a file with a user's NKey seed, such as a worker's %s", c.key, c.role.keyName())
		}
		opts = append(opts, o)
	}
	if c.cfg.creds != "" {
		if err := checkCreds(c.cfg.creds); err != nil {
			return nil, err
		}
		opts = append(opts, nats.UserCredentials(c.cfg.creds))
	}
	if c.cfg.ca != "" {
		opts = append(opts, from("nats-ca", nats.RootCAs(c.cfg.ca)))
	}
	if c.cfg.cert != "" {
		opts = append(opts, from("nats-cert", nats.ClientCert(c.cfg.cert, c.cfg.key)))
	}
	return nats.Connect(strings.Join(c.cfg.urls, ","), opts...)
}

// checkCreds reports a file that can't be a user's credentials, without its
// content.
func checkCreds(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return usagef("--nats-creds: %w", err)
	}
	defer clear(content)
	_, noJWT := nkeys.ParseDecoratedJWT(content)
	_, noSeed := nkeys.ParseDecoratedUserNKey(content)
	if noJWT != nil || noSeed != nil {
		return usagef("--nats-creds: %s: want a file with a user's JWT and seed, such as nsc writes", path)
	}
	return nil
}

// from is an option whose error names the flag that it comes from.
func from(flag string, option nats.Option) nats.Option {
	return func(o *nats.Options) error {
		if err := option(o); err != nil {
			return usagef("--%s: %w", flag, err)
		}
		return nil
	}
}

// explain says what to do about a connection that doesn't come about.
func (c *conn) explain(err error) error {
	if _, ok := errors.AsType[*usageError](err); ok {
		return err
	}
	where := c.cfg.where()
	switch {
	case errors.Is(err, nats.ErrNoServers), errors.Is(err, nats.ErrTimeout), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("no NATS server answers at %s: is a worker running? (go run ./cmd/worker)", where)
	case errors.Is(err, nats.ErrNkeysNotSupported):
		return usagef("the NATS server at %s takes no NKeys; leave --nats-nkey out", where)
	case errors.Is(err, nats.ErrSecureConnRequired), errors.Is(err, nats.ErrSecureConnWanted):
		return usagef("connect to %s: %w; see --nats-ca, --nats-cert and the URL's tls://", where, err)
	case !errors.Is(err, nats.ErrAuthorization) && !errors.Is(err, nats.ErrAuthExpired) && !errors.Is(err, nats.ErrAuthRevoked) && !errors.Is(err, nats.ErrAccountAuthExpired):
		return fmt.Errorf("connect to %s: %w", where, err)
	}
	switch {
	case c.cfg.creds != "":
		return usagef("the NATS server at %s refuses the credentials in %s: are they for this server?", where, c.cfg.creds)
	case c.key != "":
		return usagef("the NATS server at %s refuses the key in %s: is it of this server's worker? (its keys are in <data-dir>/nats)", where, c.key)
	}
	return usagef("the NATS server at %s wants credentials: give --nats-nkey with the worker's %s (there is none in %s), or --nats-creds",
		where, c.role.keyName(), filepath.Join(c.cfg.dataDir, "nats"))
}

// where names the servers without what stands before an @, which may be a
// password, and says if they come from the environment: a demo's variables stay
// in a shell that has read them.
func (c config) where() string {
	names := make([]string, len(c.urls))
	for i, u := range c.urls {
		scheme, rest, _ := strings.Cut(u, "://")
		names[i] = scheme + "://" + rest[strings.LastIndex(rest, "@")+1:]
	}
	text := strings.Join(names, ",")
	if c.urlsEnv {
		text += " (" + option{name: "nats-url"}.env() + ")"
	}
	return text
}

// notPermitted says what to do about a subject that the server forbids us.
func (c *conn) notPermitted() error {
	who := "we are"
	switch {
	case c.cfg.creds != "":
		who = "the user in " + c.cfg.creds + " is"
	case c.key != "":
		who = "the key in " + c.key + " is"
	}
	return usagef("%s not allowed to do this; it takes the %s role (a worker's %s)", who, c.role, c.role.keyName())
}

// errNotSent: the process was interrupted before a request went out.
var errNotSent = errors.New("interrupted; it was not sent")

// ask makes one request. An error that a worker sends comes back in the body.
func (c *conn) ask(ctx context.Context, subject string, body []byte, timeout time.Duration) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, errNotSent
	}
	ctx, cancelTimeout := context.WithTimeout(ctx, timeout)
	defer cancelTimeout()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-c.denied:
			cancel(c.notPermitted())
		case <-done:
		}
	}()
	msg, err := c.RequestWithContext(ctx, subject, body)
	close(done)
	<-watched
	if err == nil {
		return msg.Data, nil
	}
	cause := context.Cause(ctx)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, fmt.Errorf("no worker answers at %s: is one running? (go run ./cmd/worker)", c.cfg.where())
	case errors.Is(err, nats.ErrMaxPayload):
		return nil, errors.New("it is too large for this NATS server; see its max_payload")
	case errors.Is(cause, context.DeadlineExceeded):
		return nil, fmt.Errorf("no worker at %s answered within %s; whether it was done is unknown", c.cfg.where(), timeout)
	case errors.Is(cause, context.Canceled):
		return nil, errors.New("interrupted; whether it was done is unknown")
	case cause != nil:
		return nil, cause
	}
	return nil, fmt.Errorf("ask the workers at %s: %w", c.cfg.where(), err)
}
