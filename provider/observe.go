package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// listeners are the flights that wait for news of an account.
type listeners struct {
	mu sync.Mutex // guards m
	m  map[account.Key]map[chan struct{}]struct{}
}

func (p *Provider) listen(key account.Key) chan struct{} {
	ch := make(chan struct{}, 1)
	l := &p.listeners
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m[key] == nil {
		l.m[key] = map[chan struct{}]struct{}{}
	}
	l.m[key][ch] = struct{}{}
	return ch
}

func (p *Provider) unlisten(key account.Key, ch chan struct{}) {
	l := &p.listeners
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.m[key], ch)
	if len(l.m[key]) == 0 {
		delete(l.m, key)
	}
}

// wake signals those who wait for news of the account, of all if key is zero.
func (l *listeners) wake(key account.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sets := []map[chan struct{}]struct{}{l.m[key]}
	if key.IsZero() {
		sets = slices.Collect(maps.Values(l.m))
	}
	for _, set := range sets {
		for ch := range set {
			select {
			case ch <- struct{}{}:
			default: // it is awake already
			}
		}
	}
}

// ObserveBump takes note of a bump that was heard: L1 serves nothing older
// from here on, and flights that wait for the account look again. It does not
// block.
func (p *Provider) ObserveBump(b events.Bump) {
	if p.l1.heard(b.Key, b.Rev) {
		p.stats.bumps.Add(1)
	}
	p.listeners.wake(b.Key)
}

// ObserveStatus takes note of a status event that was heard. It does not
// block.
func (p *Provider) ObserveStatus(e events.Status) {
	var busy time.Time // any other news ends it
	if e.Code == events.StatusRefreshing {
		policy, _ := p.endpoint.Policy(e.Key.Platform())
		busy = p.clock.Now().Add(policy.Timeout)
	} else if entry := p.l1.get(e.Key); entry == nil || entry.busy.IsZero() {
		return
	}
	p.l1.update(e.Key, func(entry *l1Entry) { entry.busy = busy })
}

// Resync is called when bumps may have been missed: nothing is served from L1
// any more before it was checked against the shared cache or the store.
func (p *Provider) Resync() {
	p.l1.epoch.Add(1)
	p.listeners.wake(account.Key{})
}

// ObserveRefreshed handles a refreshed event. One of this fleet's own is
// announced already; one from outside says that another program changed the
// account in the store: it is read, cached and broadcast. nil means done; an
// error means that the event should be delivered again later. Repeated and
// old events change nothing.
func (p *Provider) ObserveRefreshed(ctx context.Context, e events.Refreshed) error {
	if bump, err := p.publisher.LastBump(ctx, e.Key); err == nil && bump.Version >= e.Version {
		return nil
	}
	a, err := p.read(ctx, e.Key)
	if errors.Is(err, ErrNotFound) {
		p.log.Warn("refreshed event for an account that the store does not have; ignored", "account", e.Key.String(), "version", e.Version)
		return nil
	}
	if err == nil {
		err = a.unreadable
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", e.Key, err)
	}
	if a.Version < e.Version {
		p.log.Warn("refreshed event names a version that the store does not have; ignored", "account", e.Key.String(), "version", a.Version, "announced", e.Version)
		return nil
	}
	if a.AnnouncePending {
		return nil // one of this fleet's own: it is being announced, or the sweep repeats it
	}
	// The announcement may have been made while the document was read.
	if bump, err := p.publisher.LastBump(ctx, e.Key); err == nil && bump.Version >= a.Version {
		return nil
	}
	if a, err = p.markPending(ctx, &a); err != nil {
		return err
	}
	p.learn(&a)
	return p.announceOnce(ctx, &a)
}

// markPending gives a document that another program wrote what our own writes
// have: a rev that peers can order by, fingerprints, a due time, and the mark
// of an announcement. Another refresh token is a login, as accounts.put's is.
func (p *Provider) markPending(ctx context.Context, a *reading) (reading, error) {
	b := a.Clone()
	if !a.credentials.ExpiresAt.IsZero() {
		b.ExpiresAt = millis(a.credentials.ExpiresAt)
	}
	before := a.Account
	before.Fingerprints = a.stored
	if b.Fingerprints.Access != a.stored.Access || b.Fingerprints.Refresh != a.stored.Refresh {
		p.login(&before, &b)
	}
	doc, err := p.raise(ctx, a, b, loginFields, events.ReasonExternal)
	if err != nil {
		return *a, fmt.Errorf("announce external change of %s: %w", a.Key, err)
	}
	return doc, nil
}
