package lookup

import (
	"context"
	"errors"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

// maxRounds is how many refreshes one request waits for.
const maxRounds = 4

// maxLooks is how many looks at accounts may run at once. One may last longer
// than the requests for it: by the time limits of cache and store.
const maxLooks = 1 << 14

// take has a new request wait: for a refresh that runs here already, if it needs
// nothing else, or for a look.
func (d *Desk) take(ctx context.Context, w *waiter) {
	k, now := d.ledger.Known(w.key), d.cfg.Clock.Now()
	if k != nil && k.View != nil && d.ledger.Fresh(k, now) {
		j := d.judge(k.View, w.req, now)
		if flight := d.cfg.Refresher.Running(w.key); flight != nil && j.err == nil && (j.wait || k.Busy.After(now)) {
			if d.board(w, flight, !j.wait) {
				go d.land(ctx, flight)
			}
			return
		}
	}
	d.seek(ctx, w)
}

// search is a look at an account: one for all requests that ask the same at the
// same time, given the same news of it.
type search struct {
	key  account.Key
	req  events.TokenRequest
	mark ledger.Mark
}

// seek has w wait for a look.
func (d *Desk) seek(ctx context.Context, w *waiter) {
	if w.rounds == maxRounds {
		d.fail(w, events.Unavailable(events.RetrySoon, "%s: no token that serves this request has come about", w.key))
		return
	}
	s := search{w.key, w.req, d.ledger.Mark(w.key)}
	switch first, ok := d.crowds.join(s, w); {
	case !ok:
		d.fail(w, timedOut(w.key))
	case first:
		select {
		case d.looks <- struct{}{}:
			go func() {
				defer func() { <-d.looks }()
				d.search(ctx, s)
			}()
		default:
			d.dismiss(s, events.Unavailable(events.RetrySoon, "%s: this worker has very many accounts to look up", w.key))
		}
	}
}

// search looks, and answers those who wait for that, or has them wait for a
// refresh.
func (d *Desk) search(ctx context.Context, s search) {
	defer context.AfterFunc(ctx, func() { d.dismiss(s, timedOut(s.key)) })()
	v, source, err := d.find(s.key, s.req)
	if err != nil {
		d.dismiss(s, WireError(ctx, s.key, err))
		return
	}
	k, now := d.ledger.Known(s.key), d.cfg.Clock.Now()
	j := d.judge(v, s.req, now)
	want := refresh.Want{Over: v.Version, Reason: j.reason}
	if k != nil && k.Busy.After(now) && k.View != nil && k.View.Version == v.Version {
		want.Join, want.Reason = true, events.ReasonRequest // a refresh that runs ends this token
	}
	switch {
	case j.err != nil:
		d.dismiss(s, j.err)
	case j.wait, want.Join:
		flight, _ := d.cfg.Refresher.Refresh(s.key, want)
		mine := false
		for _, w := range d.crowds.disband(s) {
			mine = d.board(w, flight, want.Join) || mine
		}
		if mine {
			go d.land(ctx, flight)
		}
	default:
		if j.refresh {
			d.refreshBeside(v)
		}
		found, waited := outcomeOf(k, v, j, source), outcomeOf(k, v, j, events.SourceRefresh)
		for _, w := range d.crowds.disband(s) {
			if w.rounds > 0 {
				d.serve(w, waited)
			} else {
				d.serve(w, found)
			}
		}
	}
}

// dismiss answers all who wait for a look with an error.
func (d *Desk) dismiss(s search, e *events.Error) {
	for _, w := range d.crowds.disband(s) {
		d.fail(w, e)
	}
}

// outcomeOf is what v makes of a request that it serves. k is what is in memory.
func outcomeOf(k *ledger.Known, v *rotation.View, j judgement, source events.Source) *outcome {
	o := &outcome{view: v, source: source, brief: j.notModified}
	if k != nil && k.View == v {
		o.known = k
	}
	return o
}

// board has w wait for a flight: for what comes of it or, with join, for its end
// alone. first says that the caller sees to it that it lands.
func (d *Desk) board(w *waiter, flight *refresh.Flight, join bool) (first bool) {
	w.join = join
	first, ok := d.crowds.join(flight, w)
	if !ok {
		d.fail(w, timedOut(w.key))
	}
	return first
}

// land waits for the flight and answers those who wait for it. Each is judged
// anew, by what is known now: its refresh may have brought what serves it, and
// there may be news again.
func (d *Desk) land(ctx context.Context, flight *refresh.Flight) {
	err := flight.Wait(ctx)
	var of *rotation.View
	var outcomes [2]*outcome // of it: the whole reply, and that nothing was modified
	for _, w := range d.crowds.disband(flight) {
		w.rounds++
		if err != nil && (!w.join || ctx.Err() != nil) { // one that was only joined and failed may have left the old token alive
			d.fail(w, WireError(ctx, w.key, err))
			continue
		}
		k, j := d.remembered(w.key, w.req, d.cfg.Clock.Now())
		if k == nil {
			d.seek(ctx, w)
			continue
		}
		if of != k.View {
			of, outcomes = k.View, [2]*outcome{}
		}
		o := &outcomes[0]
		if j.notModified {
			o = &outcomes[1]
		}
		if *o == nil {
			*o = outcomeOf(k, of, j, events.SourceRefresh)
		}
		d.serve(w, *o)
	}
}

// find returns the newest view that is at hand and good enough to judge the
// request by: from L1, else the shared cache, else the store.
func (d *Desk) find(key account.Key, req events.TokenRequest) (*rotation.View, events.Source, error) {
	epoch := d.ledger.Epoch()
	above := max(req.MinVersion, req.RejectedVersion) // somebody has seen it
	k := d.ledger.Known(key)
	if now := d.cfg.Clock.Now(); k != nil && k.View != nil && d.ledger.Fresh(k, now) {
		if !d.judge(k.View, req, now).unsure || d.ledger.Absent(k, now, above) {
			return k.View, events.SourceL1, nil
		}
	}
	if v := d.ledger.Shared(key); v != nil {
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
		v, err = d.ledger.Check(k, above)
	} else {
		v, err = d.ledger.Load(key, above)
	}
	switch {
	case err == nil:
		return v, events.SourceStore, nil
	case held:
		d.ledger.Reprieve(k.View, epoch)
		return k.View, events.SourceL1, nil
	case errors.Is(err, ledger.ErrUnreadable):
		return nil, "", ledger.Unreadable(key)
	}
	if v := d.ledger.InHand(key); v != nil && serves(v) {
		return v, events.SourceL1, nil
	}
	d.cfg.Logger.Debug("look-up without store", "account", key.String(), "error", err)
	after := events.RetrySoon
	if skipped, ok := errors.AsType[*backoff.SkippedError](err); ok {
		after = skipped.After
	}
	return nil, "", events.Unavailable(after, "%s: the account store does not answer and no living token is at hand", key)
}
