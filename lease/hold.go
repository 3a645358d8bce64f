package lease

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/tokenbus/tokenbus/ledger"
)

// releaseTimeout bounds a release. One that fails does no harm: the lease ends
// by itself.
const releaseTimeout = 2 * time.Second

// hold is one hold on one lease, and the goroutine that renews it.
type hold struct {
	locker *Locker
	name   string
	owner  string

	// trusted is the end of the trust window on the locker's clock; 0 once
	// the lease is known to be lost or given up.
	trusted atomic.Int64
	// token belongs to the renewing goroutine until done is closed.
	token Token
	lost  bool // as token

	stop     context.CancelFunc // ends the renewal
	done     chan struct{}      // closed when the renewal has ended
	released chan struct{}      // capacity 1: taken by whoever releases
}

// start begins to renew. The attempt that brought the token started at started.
func (h *hold) start(token Token, started time.Duration) {
	h.token = token
	h.trust(started)
	h.done, h.released = make(chan struct{}), make(chan struct{}, 1)
	h.released <- struct{}{}
	var ctx context.Context
	ctx, h.stop = context.WithCancel(context.Background())
	go func() {
		defer close(h.done)
		h.renewUntil(ctx)
	}()
}

// Trusted reports whether the lease still certainly excludes others: the last
// attempt that the backend acknowledged started less than TTL minus margin ago.
func (h *hold) Trusted() bool { return int64(h.locker.elapsed()) < h.trusted.Load() }

func (h *hold) trust(started time.Duration) {
	h.trusted.Store(int64(started + h.locker.ttl - h.locker.margin))
}

// renewUntil renews every third of the TTL, sooner after a failure, until ctx
// ends or the lease is certainly lost. A backend that is out of reach for
// longer than the trust window ends the trust, not the attempts: the lease may
// still be there when the backend is back.
func (h *hold) renewUntil(ctx context.Context) {
	wait := h.locker.ttl / 3
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := h.renew(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			timer.Reset(wait)
		case errors.Is(err, ErrLost):
			h.lost = true
			h.trusted.Store(0)
			h.locker.log.Warn("lease lost", "account", h.name)
			return
		default:
			h.locker.log.Warn("lease renewal failed", "account", h.name, "error", err)
			timer.Reset(wait / 4)
		}
	}
}

// renew makes one attempt. One that fails is read back before the lease is
// given up: the attempt, or an earlier one whose reply was lost, may have been
// carried out and have changed the token. What is read back is tried again at
// once, and only an acknowledged renewal extends the trust.
func (h *hold) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.locker.ttl/3)
	defer cancel()
	started := h.locker.elapsed()
	token, err := h.locker.backend.Renew(ctx, h.name, h.token)
	if err != nil {
		if err := h.readBack(ctx); err != nil {
			return err
		}
		started = h.locker.elapsed()
		token, err = h.locker.backend.Renew(ctx, h.name, h.token)
	}
	if errors.Is(err, ErrLost) {
		// Just read and lost already: an attempt from before may have come in
		// between. The next round finds out.
		return errRaced
	}
	if err != nil {
		return err
	}
	h.token = token
	h.trust(started)
	return nil
}

var errRaced = errors.New("renewal raced with an earlier one")

// readBack fetches the token of our hold. ErrLost means that it is gone.
func (h *hold) readBack(ctx context.Context) error {
	token, err := h.locker.backend.Read(ctx, h.name)
	switch {
	case errors.Is(err, ledger.ErrNotFound):
		return ErrLost
	case err != nil:
		return err
	case token.Owner != h.owner:
		return ErrLost
	}
	h.token = token
	return nil
}

// Release ends the trust, stops the renewal, waits for it and gives the lease
// up, in [releaseTimeout] at most, also when ctx has ended. Calling it again,
// or from several goroutines, is harmless: each call returns when the lease
// has been given up.
func (h *hold) Release(ctx context.Context) {
	h.trusted.Store(0)
	h.stop()
	<-h.done
	if _, first := <-h.released; !first {
		return
	}
	defer close(h.released)
	if h.lost {
		return
	}
	h.trusted.Store(0) // the renewal may have extended it
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	err := h.locker.backend.Release(ctx, h.name, h.token)
	if errors.Is(err, ErrLost) {
		// Perhaps ours under a newer token: a renewal may have been cut short.
		if err = h.readBack(ctx); err == nil {
			err = h.locker.backend.Release(ctx, h.name, h.token)
		}
	}
	if err != nil && !errors.Is(err, ErrLost) {
		h.locker.log.Warn("lease not released; it ends by itself", "account", h.name, "error", err)
	}
}
