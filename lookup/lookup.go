package lookup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/clock"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

// maxRounds is how many refreshes one request waits for.
const maxRounds = 4

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
	mu     sync.Mutex // guards errors
	errors map[events.Code]int64
}

// New returns a Desk.
func New(cfg Config) *Desk {
	return &Desk{cfg: cfg, ledger: cfg.Ledger, errors: map[events.Code]int64{}}
}

// Cached answers from memory alone, with the encoded reply. It is the fast
// path of [Desk.Token], which gives every answer that Cached doesn't. It never
// blocks and may start a refresh beside the request.
func (d *Desk) Cached(key account.Key, req events.TokenRequest) ([]byte, bool) {
	k := d.ledger.Known(key)
	if k == nil || k.View == nil || k.View.Gone {
		return nil, false
	}
	now := d.cfg.Clock.Now()
	if !d.ledger.Fresh(k, now) || k.Busy.After(now) {
		return nil, false
	}
	j := d.judge(k.View, req, now)
	if !j.serves() {
		return nil, false
	}
	if j.refresh {
		d.refreshBeside(k.View)
	}
	d.ledger.CheckSoon(k, now)
	d.counts.l1.Add(1)
	if j.notModified {
		return k.NotModified(), true
	}
	return k.Body(), true
}

// Token answers a token request. It waits for a refresh only if no living
// token serves the request, and then no longer than ctx and the request's
// timeout allow; the refresh goes on without it. An error is always an
// [*events.Error].
func (d *Desk) Token(ctx context.Context, key account.Key, req events.TokenRequest) (events.TokenReply, error) {
	if req.Timeout == 0 {
		req.Timeout = events.DefaultTimeout
	}
	if end, ok := ctx.Deadline(); !ok || time.Until(end) > req.Timeout { // else the bus has set it
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, req.Timeout)
		defer cancel()
	}
	reply, err := d.token(ctx, key, req)
	if err != nil {
		e := WireError(ctx, key, err)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.errors[e.Code]++
		return events.TokenReply{}, e
	}
	d.count(reply.Source)
	return reply, nil
}

func (d *Desk) token(ctx context.Context, key account.Key, req events.TokenRequest) (events.TokenReply, error) {
	waited := false
	for range maxRounds {
		v, source, err := d.find(ctx, key, req)
		if err != nil {
			return events.TokenReply{}, err
		}
		j := d.judge(v, req, d.cfg.Clock.Now())
		if j.err != nil {
			return events.TokenReply{}, j.err
		}
		w := refresh.Want{Over: v.Version, Reason: j.reason}
		if k := d.ledger.Known(key); k != nil && k.Busy.After(d.cfg.Clock.Now()) && k.View != nil && k.View.Version == v.Version {
			j.wait, w.Join, w.Reason = true, true, events.ReasonRequest // a refresh that runs ends this token
		}
		if !j.wait {
			if j.refresh {
				d.refreshBeside(v)
			}
			if waited {
				source = events.SourceRefresh
			}
			reply := v.Reply(source)
			reply.NotModified = j.notModified
			return reply, nil
		}
		flight, _ := d.cfg.Refresher.Refresh(key, w)
		if err := flight.Wait(ctx); err != nil && (!w.Join || ctx.Err() != nil) {
			return events.TokenReply{}, err
		}
		waited = true // one that was only joined and failed may have left the old token alive: then nobody is busy any more
	}
	return events.TokenReply{}, events.Unavailable(events.RetrySoon, "%s: no token that serves this request has come about", key)
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
		return &events.Error{Code: events.CodeTimeout, Message: fmt.Sprintf("%s: no token within the request's deadline; a refresh that runs goes on", key)}
	}
	return events.Unavailable(events.RetrySoon, "%s", err)
}

// find returns the newest view that is at hand and good enough to judge the
// request by: from L1, else the shared cache, else the store.
func (d *Desk) find(ctx context.Context, key account.Key, req events.TokenRequest) (*rotation.View, events.Source, error) {
	epoch := d.ledger.Epoch()
	above := max(req.MinVersion, req.RejectedVersion) // somebody has seen it
	k := d.ledger.Known(key)
	if now := d.cfg.Clock.Now(); k != nil && k.View != nil && d.ledger.Fresh(k, now) {
		if !d.judge(k.View, req, now).unsure || d.ledger.Absent(k, now, above) {
			return k.View, events.SourceL1, nil
		}
	}
	if v := d.ledger.Shared(ctx, key); v != nil {
		if j := d.judge(v, req, d.cfg.Clock.Now()); !j.unsure && !j.wait {
			return v, events.SourceShared, nil
		}
	}
	serves := func(v *rotation.View) bool { return d.judge(v, req, d.cfg.Clock.Now()).serves() }
	k = d.ledger.Known(key) // newer by what was shared, perhaps
	held := k.Servable() && serves(k.View)
	var v *rotation.View
	var err error
	if held {
		v, err = d.ledger.Check(ctx, k, above)
	} else {
		v, err = d.ledger.Load(ctx, key, above)
	}
	switch {
	case err == nil:
		return v, events.SourceStore, nil
	case held:
		d.ledger.Reprieve(k.View, epoch)
		return k.View, events.SourceL1, nil
	case ctx.Err() != nil:
		return nil, "", ctx.Err()
	case errors.Is(err, ledger.ErrUnreadable):
		return nil, "", ledger.Unreadable(key)
	}
	if v := d.ledger.InHand(ctx, key); v != nil && serves(v) {
		return v, events.SourceL1, nil
	}
	d.cfg.Logger.Debug("look-up without store", "account", key.String(), "error", err)
	after := events.RetrySoon
	if skipped, ok := errors.AsType[*backoff.SkippedError](err); ok {
		after = skipped.After
	}
	return nil, "", events.Unavailable(after, "%s: the account store does not answer and no living token is at hand", key)
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
