package client

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/oauth2"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// Client asks workers for tokens. It is safe for concurrent use.
type Client struct {
	nc       *nats.Conn
	subjects events.Subjects
	life     context.Context //nolint:containedctx // ends with Close
	close    func()
	link     *link

	mu   sync.Mutex // guards seen
	seen map[account.Key]account.Version
}

// New returns a client. A NATS server that can't be reached is no error: until
// it is there requests end with ErrUnavailable. One that refuses our
// credentials is: [ErrCredentials].
func New(cfg Config) (*Client, error) {
	subjects, err := cfg.subjects()
	if err != nil {
		return nil, fmt.Errorf("make tokenbus client: %w", err)
	}
	nc, own, err := cfg.connect()
	if err != nil {
		return nil, fmt.Errorf("make tokenbus client: %w", err)
	}
	life, end := context.WithCancel(context.Background())
	c := &Client{nc: nc, subjects: subjects, life: life, link: watch(nc), seen: make(map[account.Key]account.Version)}
	c.close = sync.OnceFunc(func() {
		end()
		c.link.close()
		if own {
			nc.Close()
		}
	})
	return c, nil
}

// Close ends the client; requests that wait end with ErrClosed. It may be
// called more than once.
func (c *Client) Close() error {
	c.close()
	return nil
}

// Option changes one request for a token.
type Option func(*events.TokenRequest)

// WithMinTTL asks for a token that lives at least this much longer; a refresh
// is forced where needed. More than a token's whole lifetime is ErrBadRequest.
func WithMinTTL(d time.Duration) Option { return func(r *events.TokenRequest) { r.MinTTL = d } }

// WithMinVersion asks for a token of at least this version.
func WithMinVersion(v account.Version) Option {
	return func(r *events.TokenRequest) { r.MinVersion = v }
}

// WithRejectedVersion says that the API answered 401 to the token of this
// version: the reply is a newer one, or an error.
func WithRejectedVersion(v account.Version) Option {
	return func(r *events.TokenRequest) { r.RejectedVersion = v }
}

// Token returns a living token of the account. The context's deadline is told
// to the worker; without one it is 10 s. A deadline beyond a minute counts as
// a minute.
//
// An error is an [*Error], or wraps context.Canceled or [ErrClosed].
func (c *Client) Token(ctx context.Context, key account.Key, opts ...Option) (Token, error) {
	var req events.TokenRequest
	for _, o := range opts {
		o(&req)
	}
	if key.IsZero() {
		return Token{}, &Error{Key: key, Code: events.CodeBadRequest, Message: "the key names no account"}
	}
	ctx, cancel, err := c.begin(ctx)
	if err != nil {
		return Token{}, err
	}
	defer cancel()
	for {
		floor := max(req.MinVersion, c.newest(key))
		reply, err := c.ask(ctx, key, req, floor)
		if err != nil {
			return Token{}, err
		}
		if c.see(key, reply.Version) {
			return Token{
				Key: key, Version: reply.Version, TokenType: reply.TokenType, ExpiresAt: reply.ExpiresAt,
				Source: reply.Source, Extra: reply.Extra, access: reply.AccessToken,
			}, nil
		}
		// Another request was given a newer version meanwhile, and this one
		// must not come after it: ask again, for that one.
	}
}

// TokenSource returns a source that asks for a token at each call: what is
// cached is the workers' business, which know when a token was replaced. The
// context is used for every call, each of which waits for 10 s at most.
func (c *Client) TokenSource(ctx context.Context, key account.Key, opts ...Option) oauth2.TokenSource {
	return &source{ctx, c, key, opts}
}

type source struct {
	ctx    context.Context //nolint:containedctx // as in every oauth2.TokenSource
	client *Client
	key    account.Key
	opts   []Option
}

func (s *source) Token() (*oauth2.Token, error) {
	ctx, cancel := context.WithTimeout(s.ctx, events.DefaultTimeout)
	defer cancel()
	t, err := s.client.Token(ctx, s.key, s.opts...)
	if err != nil {
		return nil, err
	}
	return t.OAuth2(), nil
}

// newest returns the newest version that the client was given; 0 if none was.
func (c *Client) newest(key account.Key) account.Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[key]
}

// see notes a version that is about to be handed out, and reports whether it
// may be: false if a newer one was.
func (c *Client) see(key account.Key, v account.Version) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v < c.seen[key] {
		return false
	}
	c.seen[key] = v
	return true
}

// begin returns the context of one request: it ends with the caller's, when
// the longest wait is over, and when the client is closed.
func (c *Client) begin(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if c.life.Err() != nil {
		return nil, nil, ErrClosed
	}
	wait := events.MaxTimeout + answerMargin
	if _, ok := ctx.Deadline(); !ok {
		wait = events.DefaultTimeout + answerMargin
	}
	ctx, cancelWait := context.WithTimeout(ctx, wait)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.life, func() { cancel(ErrClosed) })
	return ctx, func() { stop(); cancel(nil); cancelWait() }, nil
}
