package provider

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// How often a worker looks for work that nobody brings.
const (
	dueEvery     = time.Second
	pendingEvery = 2 * time.Second
	journalEvery = 5 * time.Second

	sweepLimit = 128 // accounts per look
	maxAheadOf = 256 // flights beyond which nothing is refreshed ahead of need
)

// Run saves what the last start left in the spool, then looks for due
// refreshes, lost announcements and waiting journal records until ctx ends.
func (p *Provider) Run(ctx context.Context) error {
	p.replayAll(ctx)
	var loops sync.WaitGroup
	loops.Go(func() { p.every(ctx, dueEvery, p.refreshDue) })
	loops.Go(func() { p.every(ctx, pendingEvery, p.announcePending) })
	loops.Go(func() { p.every(ctx, journalEvery, p.replayAll) })
	loops.Wait()
	return nil
}

// every calls f again and again, with a jitter that keeps workers apart.
func (p *Provider) every(ctx context.Context, d time.Duration, f func(context.Context)) {
	for {
		wait := d/2 + time.Duration(p.random()*float64(d))
		select {
		case <-ctx.Done():
			return
		case <-p.stopping:
			return
		case <-p.clock.After(wait):
			f(ctx)
		}
	}
}

// refreshDue starts the refreshes that are due, ahead of need.
func (p *Provider) refreshDue(ctx context.Context) {
	if p.flights.len() > maxAheadOf {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	keys, err := p.store.Due(ctx, p.clock.Now(), sweepLimit)
	if err != nil {
		p.log.Debug("look for due accounts", "error", err)
		return
	}
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for _, key := range keys {
		p.flights.start(key, func() error { return p.rotateDue(key) })
	}
}

// rotateDue refreshes an account at the version that it has.
func (p *Provider) rotateDue(key account.Key) error {
	a, err := p.deciding(p.base, key)
	if a.Key.IsZero() || a.Deleted() || a.RefreshAt.IsZero() || a.RefreshAt.After(p.clock.Now()) {
		return err // no document, or it is no longer due
	}
	if e := p.l1.get(key); err == nil && e != nil && e.hold != nil && e.hold.until.After(p.clock.Now()) {
		err = e.hold.err
	}
	if err == nil {
		err = p.rotate(key, want{over: a.Version, reason: events.ReasonExpiry})
	}
	if e, ok := errors.AsType[*events.Error](err); ok && e.Code != events.CodeCoolingDown { // those are in the document
		p.postpone(&a, e.RetryAfter)
	}
	return err
}

// Bounds on how far a due refresh that can't be had is put off.
const (
	minPostpone = 10 * time.Second
	maxPostpone = 10 * time.Minute
)

// postpone puts a due refresh off that was refused for a reason that the
// document doesn't have: those that can't be refreshed must not stand before
// all others for ever. If the document has changed it has a due time of its own.
func (p *Provider) postpone(a *reading, wait time.Duration) {
	g := guardOf(&a.Account)
	at := p.clock.Now().Add(min(max(wait, minPostpone), maxPostpone))
	_, err := p.write(p.base, a, g, account.Change{Fields: account.FieldRefreshAt, To: account.Account{RefreshAt: millis(at)}, At: p.now()})
	if err != nil && !errors.Is(err, ErrConflict) {
		p.log.Debug("put off a due refresh", "account", a.Key.String(), "error", err)
	}
}

// announcePending repeats announcements that a crash or a fault left open. One
// is taken for left open when this worker has seen it in two looks: a fresh
// one is being made by whoever wrote it, and how fresh it is can't be told
// from another machine's clock.
func (p *Provider) announcePending(ctx context.Context) {
	lctx, cancel := context.WithTimeout(ctx, storeTimeout)
	keys, err := p.store.Pending(lctx, sweepLimit)
	cancel()
	if err != nil {
		p.log.Debug("look for pending announcements", "error", err)
		return
	}
	seen := map[account.Key]account.Rev{}
	for _, key := range keys {
		a, err := p.read(ctx, key)
		if err != nil || a.unreadable != nil || !a.AnnouncePending {
			continue
		}
		if p.pending[key] != a.Rev {
			seen[key] = a.Rev
			continue
		}
		p.learn(&a)
		p.announce(ctx, &a)
	}
	p.pending = seen
}
