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

// dueLook is how many due accounts one look brings. Workers look at the same
// ones and begin them in orders of their own, so it is well above what several
// of them have under way.
const dueLook = 512

// RefreshDue starts the refreshes that are due, ahead of need. It is called
// again and again, and does not wait for them. A platform's are begun as places
// at its endpoint get free; meanwhile, and while its circuit is open, it is left
// out: its accounts stay as they are, and stand before those of no other.
func (r *Refresher) RefreshDue(ctx context.Context) {
	r.flights.prune(r.clock.Now(), r.clock.Elapsed())
	for r.flights.running() < maxBeside {
		if err := r.cfg.Spool.Check(); err != nil { // others can: they must not find it put off
			r.log.Debug("spool can't keep an answer; what is due is left to others", "error", err)
			return
		}
		var keys []account.Key
		err := ledger.Bounded(ctx, func(ctx context.Context) (err error) {
			keys, err = r.cfg.Store.Due(ctx, r.clock.Now(), dueLook, r.gates.passedOver(r.clock.Now())...)
			return err
		})
		if err != nil {
			r.log.Debug("look for due accounts", "error", err)
			return
		}
		byPlatform := map[string][]account.Key{}
		for _, key := range keys {
			byPlatform[key.Platform()] = append(byPlatform[key.Platform()], key)
		}
		full := len(keys) == dueLook // there may be more, of these platforms and of others
		for platform, keys := range byPlatform {
			r.feed(ctx, r.gate(platform), keys, full)
		}
		select {
		case <-r.stopping: // nothing was begun
			return
		default:
		}
		if !full {
			return
		}
	}
}

// full reports whether this worker had no room for an answer just now.
func (r *Refresher) full() bool { return r.clock.Elapsed() < time.Duration(r.fullUntil.Load()) }

// MoreDue receives when it is worth to call RefreshDue before it is time: one
// look has brought only a part of what is due, and that is under way.
func (r *Refresher) MoreDue() <-chan struct{} { return r.moreDue }

// feed begins due refreshes in the background, each once there is a place for
// it at the endpoint, until ctx ends.
func (r *Refresher) feed(ctx context.Context, g *gate, keys []account.Key, more bool) {
	if !g.feeding.CompareAndSwap(false, true) {
		return
	}
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	if !r.flights.beside(func() {
		passes := g.passes.Load()
		r.beginAll(ctx, g, keys)
		g.feeding.Store(false)
		if more && ctx.Err() == nil && g.passes.Load() > passes { // else it is no use to hurry
			select {
			case r.moreDue <- struct{}{}:
			default:
			}
		}
	}) {
		g.feeding.Store(false)
	}
}

// beginAll returns when all of the refreshes are begun that are needed. It does
// not wait for them: one may take very long.
func (r *Refresher) beginAll(ctx context.Context, g *gate, keys []account.Key) {
	for _, key := range keys {
		select {
		case g.slots <- struct{}{}:
		case <-ctx.Done():
			return
		case <-r.stopping:
			return
		}
		r.startDue(key, g)
	}
}

// startDue starts the due refresh of an account with the place at the endpoint
// that the caller has taken, or gives that back where none is begun.
func (r *Refresher) startDue(key account.Key, g *gate) {
	if !r.full() && g.breaker.OpenFor(r.clock.Now()) == 0 {
		fl, joined := r.flights.start(key, func(news <-chan struct{}) error {
			return r.fly(key, Want{Reason: events.ReasonExpiry, due: true, place: g}, news)
		})
		if fl != nil && !joined {
			return
		}
	}
	<-g.slots
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
	if !ok || cooling || f.doubted || f.doc.Key.IsZero() || f.doc.Deleted() {
		return // it is in the document, or there is none
	}
	at := f.clock.Now().Add(min(max(e.RetryAfter, minPostpone, f.atLeast), maxPostpone))
	_, err = f.ledger.Write(f.base, &f.doc, ledger.GuardOf(&f.doc.Account), account.Change{
		Fields: account.FieldRefreshAt, To: account.Account{RefreshAt: rotation.Millis(at)},
	})
	if err != nil && !errors.Is(err, ledger.ErrConflict) {
		f.log.Debug("put off a due refresh", "account", f.key.String(), "error", err)
	}
}
