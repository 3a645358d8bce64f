package refresh

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/rotation"
)

// maxAheadOf is how many flights may run for anything to be refreshed ahead of
// need.
const maxAheadOf = 256

// RefreshDue starts the refreshes that are due, ahead of need. It is called
// again and again.
func (r *Refresher) RefreshDue(ctx context.Context) {
	r.flights.prune(r.clock.Now(), r.clock.Elapsed())
	if r.flights.running() > maxAheadOf {
		return
	}
	if err := r.cfg.Spool.Check(); err != nil { // others can: they must not find it put off
		r.log.Debug("spool can't keep an answer; what is due is left to others", "error", err)
		return
	}
	var keys []account.Key
	err := ledger.Bounded(ctx, func(ctx context.Context) (err error) {
		keys, err = r.cfg.Store.Due(ctx, r.clock.Now(), ledger.SweepLimit)
		return err
	})
	if err != nil {
		r.log.Debug("look for due accounts", "error", err)
		return
	}
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for _, key := range keys {
		r.flights.start(key, func(news <-chan struct{}) error {
			return r.fly(key, Want{Reason: events.ReasonExpiry, due: true}, news)
		})
	}
}

// Bounds on how far a due refresh that can't be had is put off.
const (
	minPostpone = 10 * time.Second
	maxPostpone = 10 * time.Minute
)

// postpone puts a due refresh off that was refused for a reason that the
// document doesn't have: those that can't be refreshed must not stand before
// all others for ever. If the document has changed it has a due time of its own.
func (f *flying) postpone(err error) {
	e, ok := errors.AsType[*events.Error](err)
	cooling := e != nil && e.Code == events.CodeCoolingDown && (f.begun || f.doc.CooldownUntil.After(f.clock.Now()))
	if !ok || cooling || f.doc.Key.IsZero() || f.doc.Deleted() {
		return // it is in the document, or there is none
	}
	at := f.clock.Now().Add(min(max(e.RetryAfter, minPostpone), maxPostpone))
	_, err = f.ledger.Write(f.base, &f.doc, ledger.GuardOf(&f.doc.Account), account.Change{
		Fields: account.FieldRefreshAt, To: account.Account{RefreshAt: rotation.Millis(at)},
	})
	if err != nil && !errors.Is(err, ledger.ErrConflict) {
		f.log.Debug("put off a due refresh", "account", f.key.String(), "error", err)
	}
}
