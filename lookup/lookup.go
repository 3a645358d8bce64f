package lookup

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/clock"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

// Config is what a [Desk] is made of. All fields are required.
type Config struct {
	Ledger    *ledger.Ledger
	Refresher *refresh.Refresher
	Timing    rotation.Timing
	Clock     clock.Clock
	Logger    *slog.Logger
}

// Desk answers token requests. Use [New]. All methods are safe for concurrent
// use.
type Desk struct {
	cfg    Config
	ledger *ledger.Ledger
	counts struct{ l1, shared, store, refresh atomic.Int64 }
	crowds crowds
	looks  chan struct{} // one taken by each search
	mu     sync.Mutex    // guards errors
	errors map[events.Code]int64
}

// New returns a Desk.
func New(cfg Config) *Desk {
	return &Desk{
		cfg: cfg, ledger: cfg.Ledger, crowds: crowds{m: map[any]*list.List{}}, looks: make(chan struct{}, maxLooks),
		errors: map[events.Code]int64{},
	}
}

// Ask answers a token request that Cached has no answer for. It doesn't block:
// answer is called once, from any goroutine, with the encoded reply or an
// [*events.Error], at the latest when the request's timeout has passed; a
// refresh that was begun goes on. ctx is of all requests, not of one: when it
// ends, everybody is answered. The bytes must not be changed: others get them too.
func (d *Desk) Ask(ctx context.Context, key account.Key, req events.TokenRequest, answer func(reply []byte, err error)) {
	d.take(ctx, d.admit(key, req, func(o *outcome) {
		if o.err != nil {
			answer(nil, o.err)
			return
		}
		answer(o.encoded(), nil)
	}))
}

// Token answers a token request as Ask does, for a caller that waits for the
// answer, no longer than ctx and the request's timeout allow. An error is always
// an [*events.Error].
func (d *Desk) Token(ctx context.Context, key account.Key, req events.TokenRequest) (events.TokenReply, error) {
	if end, ok := ctx.Deadline(); ok {
		req.Timeout = min(cmp.Or(req.Timeout, events.DefaultTimeout), time.Until(end))
	}
	ended := make(chan *outcome, 1)
	w := d.admit(key, req, func(o *outcome) { ended <- o })
	d.take(context.WithoutCancel(ctx), w)
	defer context.AfterFunc(ctx, func() { d.expire(w) })()
	o := <-ended
	if o.err != nil {
		return events.TokenReply{}, o.err
	}
	return o.reply(), nil
}

// admit returns a request that is to be ended, by fail or serve: they call end.
func (d *Desk) admit(key account.Key, req events.TokenRequest, end func(*outcome)) *waiter {
	w := &waiter{key: key, req: req, end: end}
	w.req.Timeout = 0 // the timer sees to it
	w.timer = time.AfterFunc(cmp.Or(req.Timeout, events.DefaultTimeout), func() { d.expire(w) })
	return w
}

// expire ends a request whose time is up: with what is in memory, though it could
// not be checked in that time, if that serves.
func (d *Desk) expire(w *waiter) {
	if !d.crowds.leave(w) {
		return
	}
	k, now := d.ledger.Known(w.key), d.cfg.Clock.Now()
	if k.Servable() && !k.Busy.After(now) {
		if j := d.judge(k.View, w.req, now); j.serves() {
			d.serve(w, outcomeOf(k, k.View, j, events.SourceL1))
			return
		}
	}
	d.fail(w, timedOut(w.key))
}

func (d *Desk) fail(w *waiter, e *events.Error) {
	w.timer.Stop()
	d.mu.Lock()
	d.errors[e.Code]++
	d.mu.Unlock()
	w.end(&outcome{err: e})
}

func (d *Desk) serve(w *waiter, o *outcome) {
	w.timer.Stop()
	d.count(o.source)
	w.end(o)
}

func (d *Desk) judge(v *rotation.View, req events.TokenRequest, now time.Time) judgement {
	return judge(v, req, now, d.cfg.Timing)
}

// refreshBeside starts a refresh that nobody waits for.
func (d *Desk) refreshBeside(v *rotation.View) {
	d.cfg.Refresher.Refresh(v.Key, refresh.Want{Over: v.Version, Reason: events.ReasonRequest, Beside: true})
}

// WireError turns whatever a request failed with into an error reply.
func WireError(ctx context.Context, key account.Key, err error) *events.Error {
	if e, ok := errors.AsType[*events.Error](err); ok {
		return e
	}
	if ctx.Err() != nil {
		return timedOut(key)
	}
	return events.Unavailable(events.RetrySoon, "%s", err)
}

func timedOut(key account.Key) *events.Error {
	return &events.Error{Code: events.CodeTimeout, Message: fmt.Sprintf("%s: no token within the request's deadline; a refresh that runs goes on", key)}
}

func (d *Desk) count(source events.Source) {
	switch source {
	case events.SourceL1:
		d.counts.l1.Add(1)
	case events.SourceShared:
		d.counts.shared.Add(1)
	case events.SourceStore:
		d.counts.store.Add(1)
	case events.SourceRefresh:
		d.counts.refresh.Add(1)
	}
}

// Counts returns how many requests were answered, by where the token was
// found, and refused, by code.
func (d *Desk) Counts() (map[events.Source]int64, map[events.Code]int64) {
	answered := map[events.Source]int64{
		events.SourceL1: d.counts.l1.Load(), events.SourceShared: d.counts.shared.Load(),
		events.SourceStore: d.counts.store.Load(), events.SourceRefresh: d.counts.refresh.Load(),
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return answered, maps.Clone(d.errors)
}
