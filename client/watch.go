package client

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// Watch returns the account's versions as they come: first the one that it is
// at, then each time that it has a newer one. Whoever is slow gets the newest
// and not each of them. [Client.Token] then returns that version or a newer one.
//
// While there is no token, the errors that Token would return come as they
// change; Watch goes on. It ends when ctx does, or, after its error, where going
// on is no use: [ErrClosed], [ErrBadRequest].
func (c *Client) Watch(ctx context.Context, key account.Key) iter.Seq2[account.Version, error] {
	return func(yield func(account.Version, error) bool) {
		signal, stop := c.watch(key)
		defer stop()
		look := time.NewTimer(time.Hour)
		defer look.Stop()
		var last account.Version
		var lastErr error
		for {
			token, err := c.Token(ctx, key)
			again := c.lookAgain(err)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil && (errors.Is(err, ErrClosed) || errors.Is(err, ErrBadRequest)):
				yield(0, err)
				return
			case err != nil && (lastErr == nil || err.Error() != lastErr.Error()):
				if !yield(0, err) {
					return
				}
			case err == nil && token.Version > last:
				last = token.Version
				if !yield(last, nil) {
					return
				}
			}
			lastErr = err
			look.Reset(again)
			select {
			case <-ctx.Done():
				return
			case <-c.life.Done():
			case <-signal:
			case <-look.C:
			}
		}
	}
}

// lookAgain returns after what time a watcher looks though nothing was heard.
func (c *Client) lookAgain(err error) time.Duration {
	e, ok := errors.AsType[*Error](err)
	switch {
	case ok:
		return max(e.RetryAfter, time.Second)
	case c.maxAge > 0:
		return c.maxAge
	}
	return 30 * time.Second
}

// watch returns a channel that gets a value whenever there is news of the
// account.
func (c *Client) watch(key account.Key) (signal chan struct{}, stop func()) {
	signal = make(chan struct{}, 1)
	if key.IsZero() {
		return signal, func() {}
	}
	e := c.memory.lock(key)
	defer e.mu.Unlock()
	if e.watchers == nil {
		e.watchers = map[chan struct{}]struct{}{}
	}
	e.watchers[signal] = struct{}{}
	return signal, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watchers, signal)
		c.memory.drop(e)
	}
}
