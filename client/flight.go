package client

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

const (
	// spareAfter is how long a look-up waits for workers while it has a living
	// token to fall back on.
	spareAfter = time.Second
	// mostBeside bounds the questions that run beside look-ups at once.
	mostBeside = 64
	// A reply below what a bump has announced is asked for again, since that
	// worker may not have heard the bump yet; then it refutes the bump.
	mostDoubts = 4
	doubtPause = 20 * time.Millisecond // doubled each time
)

// flight is one question to the fleet that any number of look-ups wait for.
// token and err are there once done is closed.
type flight struct {
	done  chan struct{}
	epoch int64 // when it began: what was missed since, it knows nothing of
	token Token
	err   error
}

// lookup is [Client.Token] where the fast path has no answer.
func (c *Client) lookup(ctx context.Context, key account.Key, w want) (Token, error) {
	if err := w.check(key); err != nil {
		return Token{}, err
	}
	// Before anything is asked, so that no bump is missed that comes after the reply.
	if err := c.ears.listen(key.Platform()); err != nil {
		return Token{}, c.requestError(ctx, key, err)
	}
	wait := patience{client: c, parent: ctx}
	defer wait.end()
	for {
		s := c.situation()
		if c.life.Err() != nil { // after the epoch was read: Close raises it afterwards
			return Token{}, ErrClosed
		}
		a := c.consult(key, w, s, &wait)
		if a.flight == nil {
			return a.token, nil
		}
		err := c.await(wait.begin(), a.flight, a.verdict == shouldAsk)
		again := err == nil && (a.entry.overtaken(a.flight.token) || a.joined && c.ended(a.flight.token))
		if err == nil && !again {
			a.entry.touch()
			return a.flight.token, nil
		}
		switch ended := wait.begin().Err() != nil; {
		case ended:
			if a.verdict == shouldAsk && c.life.Err() == nil {
				if token, ok := c.stillHeld(a.entry, w); ok {
					return token, nil
				}
			}
			return Token{}, c.requestError(wait.begin(), key, wait.begin().Err())
		case again:
		case withdrawn(err):
			return Token{}, err
		case a.joined && errors.Is(err, ErrTimeout):
			// Who began it had less patience than we have; perhaps none at all, so
			// that nobody was asked.
		case a.verdict == shouldAsk:
			c.spare(a.entry, s.epoch)
		default:
			return Token{}, err
		}
	}
}

// check returns what is wrong with the look-up, as the workers would say it.
func (w want) check(key account.Key) error {
	bad := func(message string) error {
		return &Error{Key: key, Code: events.CodeBadRequest, Message: message}
	}
	switch {
	case key.IsZero():
		return bad("the key names no account")
	case w.minTTL < 0:
		return bad("min_ttl: must not be negative")
	case w.minVersion < 0, w.rejected < 0:
		return bad("versions must not be negative")
	}
	return nil
}

// advice is what memory says to a look-up: have this token, or wait for this
// flight, and then perhaps have what is held all the same.
type advice struct {
	entry   *entry
	verdict verdict
	token   Token
	flight  *flight // nil: have the token
	joined  bool    // somebody else began the flight
}

// consult judges what is held of the account.
func (c *Client) consult(key account.Key, w want, s situation, wait *patience) advice {
	e := c.memory.lock(key)
	defer e.mu.Unlock()
	s = e.of(s)
	h := e.held.Load()
	a := advice{entry: e, verdict: judge(h, w, s)}
	switch a.verdict {
	case mustAsk:
		a.flight, a.joined = c.join(e, w, wait.begin(), nil)
		return a
	case shouldAsk:
		a.flight, a.joined = c.join(e, w, wait.begin(), nil)
		return a
	case serveAndAsk:
		c.beside(e, s)
	case serve:
		if h.stamp != s.epoch || s.at >= h.fresh {
			e.held.Store(h.ready(s))
		}
	}
	e.touch()
	c.hits.add()
	a.token = h.token
	return a
}

// join returns the flight for w, and begins it if there is none of this epoch;
// landed, if not nil, is called when one that was begun ends, or at once where
// none is begun. The caller holds e.mu.
//
// The flight outlives who began it: others wait for it, and what it brings is
// held. It has the deadline of who began it.
func (c *Client) join(e *entry, w want, ctx context.Context, landed func()) (f *flight, joined bool) {
	if landed == nil {
		landed = func() {}
	}
	epoch := c.epoch.Load()
	if f := e.flights[w]; f != nil && f.epoch == epoch {
		landed()
		return f, true
	}
	f = &flight{done: make(chan struct{}), epoch: epoch}
	if !c.work.begin() {
		landed()
		f.err = ErrClosed
		close(f.done)
		return f, false
	}
	if e.flights == nil {
		e.flights = map[want]*flight{}
	}
	e.flights[w] = f
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(events.DefaultTimeout + answerMargin)
	}
	go func() {
		defer c.work.end()
		ctx, cancel := context.WithDeadline(c.life, deadline)
		defer cancel()
		c.fly(ctx, e, f, w)
		landed()
	}()
	return f, false
}

// beside asks the fleet about the account without anybody waiting. The caller
// holds e.mu.
func (c *Client) beside(e *entry, s situation) {
	if h := e.held.Load(); h != nil {
		e.held.Store(h.asked(e.of(s)))
	}
	if f := e.flights[want{}]; f != nil && f.epoch == c.epoch.Load() || c.life.Err() != nil {
		return
	}
	select {
	case c.slots <- struct{}{}:
		c.join(e, want{}, context.Background(), func() { <-c.slots })
	default: // a later look-up tries again
	}
}

// fly asks until there is a token or an error, and lands the flight.
func (c *Client) fly(ctx context.Context, e *entry, f *flight, w want) {
	begun := c.clock.now()
	var requests int
	f.token, f.err = c.fetch(ctx, e, w, &requests)
	c.counts.asked.Add(1)
	if f.err != nil {
		c.counts.failed.Add(1)
	}
	e.mu.Lock()
	if e.flights[w] == f { // else one of a later epoch has its place
		delete(e.flights, w)
	}
	c.memory.drop(e)
	e.mu.Unlock()
	close(f.done)
	if c.life.Err() != nil {
		return
	}
	if hook := c.hooks.Asked; hook != nil {
		hook(Asked{Key: e.key, Version: f.token.Version, Source: f.token.Source, Err: f.err, Took: c.clock.now().Sub(begun), Requests: requests})
	}
}

func (c *Client) fetch(ctx context.Context, e *entry, w want, requests *int) (Token, error) {
	for doubts := 0; ; {
		s := c.situation()
		e.mu.Lock()
		q := e.question(w, s)
		e.mu.Unlock()
		reply, err := c.ask(ctx, e.key, q.req, requests)
		if err != nil {
			if errors.Is(err, ErrDisabled) || errors.Is(err, ErrNotFound) {
				e.mu.Lock()
				e.deny()
				e.mu.Unlock()
			}
			return Token{}, err
		}
		s = c.situation()
		e.mu.Lock()
		announced := e.announced
		token, result := e.take(q, reply, s, doubts == mostDoubts)
		if result == given && !e.placed {
			c.memory.keep(e)
		}
		e.mu.Unlock()
		switch result {
		case given:
			if announced > token.Version {
				c.log.Warn("bump names a version that the fleet doesn't have; ignored", "account", e.key.String(), "version", int64(announced))
			}
			return token, nil
		case doubted:
			if err := sleep(ctx, doubtPause<<doubts); err != nil {
				return Token{}, c.requestError(ctx, e.key, err)
			}
			doubts++
		}
	}
}

var errEnough = errors.New("waited long enough")

// await waits for a flight; with a token to fall back on, not for long.
func (c *Client) await(ctx context.Context, f *flight, spared bool) error {
	var enough <-chan time.Time
	if spared {
		timer := time.NewTimer(spareAfter)
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case <-f.done:
		return f.err
	case <-enough:
		return errEnough
	case <-ctx.Done():
		return ctx.Err()
	}
}

// spare lets look-ups have what is held without waiting, after workers did not
// answer a question of this epoch: after one from before, nobody was asked about
// what was missed since.
func (c *Client) spare(e *entry, epoch int64) {
	s := c.situation()
	if s.epoch != epoch {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.spare(s)
}

// stillHeld returns what is held, for a look-up that has waited and can wait no
// longer: news that came meanwhile counts.
func (c *Client) stillHeld(e *entry, w want) (Token, bool) {
	s := c.situation()
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.held.Load()
	if judge(h, w, e.of(s)) == mustAsk {
		return Token{}, false
	}
	return h.token, true
}

// overtaken reports whether a newer version was handed out than the token's.
func (e *entry) overtaken(t Token) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return t.Version < e.seen
}

// ended reports whether the token has ended since a worker gave it, which is so
// where the answer came before the machine was suspended.
func (c *Client) ended(t Token) bool {
	return !t.ExpiresAt.IsZero() && t.ExpiresAt.Sub(c.clock.now().Round(0)) <= lastMoment
}

// withdrawn reports whether the error says that there is to be no token,
// whatever is held.
func withdrawn(err error) bool {
	return errors.Is(err, ErrDisabled) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrBadRequest) || errors.Is(err, ErrClosed)
}

// patience is how long one look-up waits. Its context is made when it is needed.
type patience struct {
	client *Client
	parent context.Context //nolint:containedctx // of one call
	ctx    context.Context //nolint:containedctx // of one call
	cancel context.CancelFunc
}

// begin returns a context that ends with the caller's, when the longest wait is
// over, and when the client is closed.
func (p *patience) begin() context.Context {
	if p.ctx != nil {
		return p.ctx
	}
	wait := events.MaxTimeout + answerMargin
	if _, ok := p.parent.Deadline(); !ok {
		wait = events.DefaultTimeout + answerMargin
	}
	ctx, cancelWait := context.WithTimeout(p.parent, wait)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.client.life, func() { cancel(ErrClosed) })
	p.ctx, p.cancel = ctx, func() { stop(); cancel(nil); cancelWait() }
	return ctx
}

func (p *patience) end() {
	if p.cancel != nil {
		p.cancel()
	}
}

// sleep waits, or returns the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
