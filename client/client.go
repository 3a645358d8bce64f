package client

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// Client holds tokens and asks workers for them. Use [New]. It is safe for
// concurrent use.
type Client struct {
	nc       *nats.Conn
	trouble  *trouble
	subjects events.Subjects
	maxAge   time.Duration
	minTTL   time.Duration
	hooks    Hooks
	log      *slog.Logger

	clock  *coarse
	memory *memory
	// epoch rises when bumps may have been missed: what was held before must be
	// looked after before it is served again. It rises with Close as well, which
	// so closes the fast path.
	epoch  atomic.Int64
	hits   counter
	counts counts

	link  *link
	ears  *ears
	slots chan struct{} // one taken by each question beside look-ups

	life  context.Context //nolint:containedctx // ends with Close
	work  work
	close func()
}

// New returns a client. A NATS server that can't be reached is no error: until
// it is there, look-ups end with ErrUnavailable, whose text says why it isn't. One
// that refuses our credentials is: [ErrCredentials]; and so is what no waiting
// heals about TLS: a certificate that is not trusted, or that one side alone wants
// TLS.
func New(cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	subjects, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("make tokenbus client: %w", err)
	}
	told := &trouble{inbox: cmp.Or(cfg.InboxPrefix, InboxPrefix)}
	nc, own, err := cfg.connect(told)
	if err != nil {
		return nil, fmt.Errorf("make tokenbus client: %w", err)
	}
	life, end := context.WithCancel(context.Background())
	c := &Client{
		nc: nc, trouble: told, subjects: subjects, maxAge: cfg.MaxAge, minTTL: cfg.MinTTL, hooks: cfg.Hooks, log: cfg.Logger,
		clock: newCoarse(cfg.Now), memory: newMemory(cfg.MaxAccounts), slots: make(chan struct{}, mostBeside), life: life,
	}
	c.ears = newEars(c)
	c.link = newLink(c)
	c.work.begin()
	go func() {
		defer c.work.end()
		c.clock.run(life.Done(), c.clock.read, func() { c.missed("the clock jumped") })
	}()
	c.close = sync.OnceFunc(func() {
		end()
		c.epoch.Add(1)
		c.ears.close()
		c.link.close()
		c.work.close()
		if own {
			nc.Close()
		}
	})
	return c, nil
}

// Close ends the client and waits until nothing of it runs. Look-ups that wait
// end with ErrClosed. It may be called more than once; it returns nil.
func (c *Client) Close() error {
	c.close()
	return nil
}

// Token returns a living token of the account: from memory, or from a worker.
// The context's deadline is told to the worker; without one it is 10 s, and one
// beyond a minute counts as a minute. A token in memory is returned also where
// ctx has ended.
//
// An error is an [*Error], or is [ErrClosed], or wraps context.Canceled.
func (c *Client) Token(ctx context.Context, key account.Key, opts ...Option) (Token, error) {
	if len(opts) > 0 {
		return c.lookup(ctx, key, wanted(opts))
	}
	if e := c.memory.get(key); e != nil {
		if h := e.held.Load(); h != nil && c.clock.coarse() < h.fresh && c.epoch.Load() == h.stamp {
			e.touch()
			c.hits.add()
			return h.token, nil
		}
	}
	return c.lookup(ctx, key, want{})
}

// Option changes one look-up.
type Option func(*want)

func wanted(opts []Option) (w want) {
	for _, o := range opts {
		o(&w)
	}
	return w
}

// WithMinTTL wants a token that lives at least this much longer; a refresh is
// forced where needed. More than a token's whole lifetime is ErrBadRequest. 0 takes
// any token that lives, where [Config.MinTTL] or the workers' own would not.
func WithMinTTL(d time.Duration) Option {
	return func(w *want) { w.minTTL = cmp.Or(d, time.Nanosecond) } // 0 is the default's
}

// WithMinVersion wants a token of at least this version.
func WithMinVersion(v account.Version) Option { return func(w *want) { w.minVersion = v } }

// WithRejectedVersion says that the API answered 401 to the token of this
// version: the answer is a newer one, or an error.
func WithRejectedVersion(v account.Version) Option { return func(w *want) { w.rejected = v } }

// situation is what is so now.
func (c *Client) situation() situation {
	epoch := c.epoch.Load() // first: what is done in this situation counts up to here
	now := c.clock.now()
	return situation{now: now, at: c.clock.at(now), epoch: epoch, up: c.nc.IsConnected(), maxAge: c.maxAge, minTTL: c.minTTL}
}

// missed takes in that bumps may have been missed.
func (c *Client) missed(why string) {
	c.epoch.Add(1)
	c.counts.cuts.Add(1)
	c.log.Info("bumps may have been missed; tokens in memory are looked after before they are used", "why", why)
	if hook := c.hooks.Missed; hook != nil {
		hook(why)
	}
	c.link.catchUpSoon()
}

// hear takes a bump in.
func (c *Client) hear(b events.Bump) {
	e := c.memory.find(b.Key)
	if e == nil {
		return
	}
	defer e.mu.Unlock()
	if !e.hear(b) {
		return
	}
	c.counts.bumps.Add(1)
	if e.held.Load() != nil && e.used.Load() {
		c.beside(e, c.situation()) // so that who uses it waits little, or not at all
	}
}

// work is what runs beside the callers, for Close to wait for.
type work struct {
	mu     sync.Mutex // guards closed
	closed bool
	wg     sync.WaitGroup
}

func (w *work) begin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.wg.Add(1)
	}
	return !w.closed
}

func (w *work) end() { w.wg.Done() }

func (w *work) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.wg.Wait()
}
