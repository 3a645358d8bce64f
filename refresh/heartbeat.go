package refresh

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/failpoint"
	"github.com/tokenbus/tokenbus/ledger"
)

// heartbeat keeps the rotation's record alive while its worker waits for the
// endpoint, and forbids the first byte once it can't be sure of that.
type heartbeat struct {
	r        *Refresher
	key      account.Key
	ctx      context.Context // of the goroutine; ends with stop
	cancel   context.CancelFunc
	done     chan struct{}
	turn     chan struct{}    // capacity 1: held by whoever writes a beat
	rotation account.Rotation // the record as last written; guarded by turn
	takeover bool             // another worker may hold an answer to the same token

	mu        sync.Mutex    // guards what follows
	deadline  time.Duration // on the Elapsed clock: nothing is sent from here on
	lost      bool          // the record is another's
	confirmed bool          // the record was ours at the last beat
	sent      bool
}

var errFenced = errors.New("the rotation's heartbeat is too old to send anything")

func (r *Refresher) startHeartbeat(ctx context.Context, d *ledger.Document, started time.Duration) *heartbeat {
	ctx, cancel := context.WithCancel(ctx)
	h := &heartbeat{
		r: r, key: d.Key, ctx: ctx, cancel: cancel, done: make(chan struct{}), turn: make(chan struct{}, 1),
		rotation: *d.Rotation, takeover: d.Rotation.Attempts > 1, deadline: started + d.Rotation.LeaseTTL,
	}
	go h.run()
	return h
}

// allow is asked right before the first byte of the request leaves. After a
// takeover it makes sure that the record still stands: the worker that was
// given up may have come back with its answer since. What is left: a process
// that is frozen between this check and the write.
func (h *heartbeat) allow() error {
	if h.takeover {
		h.beat()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost || h.takeover && !h.confirmed || h.r.clock.Elapsed() >= h.deadline {
		return errFenced
	}
	h.sent = true
	failpoint.At("sending")
	return nil
}

func (h *heartbeat) stop() {
	h.cancel()
	<-h.done
}

func (h *heartbeat) run() {
	defer close(h.done)
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-h.r.clock.After(h.r.cfg.Timing.LeaseTTL / 3):
		}
		if !h.beat() {
			return
		}
	}
}

// beat writes one heartbeat and reports whether to go on.
func (h *heartbeat) beat() bool {
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-h.ctx.Done():
		return false
	}
	started := h.r.clock.Elapsed()
	h.rotation.Heartbeat++
	h.mu.Lock()
	if h.sent {
		h.rotation.State = account.RotationSent
	}
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(h.ctx, ledger.StoreTimeout)
	defer cancel()
	_, err := h.r.cfg.Store.Update(ctx, h.key, account.Guard{Rotation: &h.rotation.ID}, account.Change{
		Fields: account.FieldRotation, At: h.r.ledger.Now(), To: account.Account{Rotation: &h.rotation},
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.confirmed = err == nil
	switch {
	case err == nil:
		h.deadline = started + h.rotation.LeaseTTL
	case errors.Is(err, ledger.ErrConflict), errors.Is(err, ledger.ErrNotFound):
		h.lost = true
	}
	return !h.lost
}
