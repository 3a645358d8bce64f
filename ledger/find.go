package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/rotation"
)

// Shared takes the shared cache's view into L1 and returns it, unless it is
// past its end there or below what was heard of the account: then nil. It is
// bounded by the cache's time limit.
func (l *Ledger) Shared(key account.Key) *rotation.View {
	m := l.l1.mark(key)
	v, until := l.fetchOnce(key, m)
	now := l.cfg.Clock.Now()
	if v == nil || !now.Before(until) || v.Rev < l.l1.rev(key) {
		return nil
	}
	newest, _ := l.l1.offer(v, now, m, false)
	return newest
}

// fetchOnce is fetch, once for all that ask at the same time and have heard of
// the same: very many may wait for one account.
func (l *Ledger) fetchOnce(key account.Key, m Mark) (v *rotation.View, until time.Time) {
	type entry struct {
		v     *rotation.View
		until time.Time
	}
	e, _, _ := l.reads.Do(fmt.Sprintf("shared %s %d %d", key, m.floor, m.epoch), func() (any, error) {
		v, until := l.fetch(l.base, key)
		return entry{v, until}, nil
	})
	return e.(entry).v, e.(entry).until
}

// InHand returns the best view that can be had without the store, however
// old, unless a bump says that there is a newer one: with the store down,
// tokens in hand are served until they end.
func (l *Ledger) InHand(key account.Key) *rotation.View {
	v, _ := l.fetchOnce(key, l.l1.mark(key))
	k := l.l1.get(key)
	if k != nil && k.View != nil && (v == nil || v.Rev < k.View.Rev) {
		v = k.View
	}
	if v != nil && v.Rev < l.l1.mark(key).floor {
		return nil
	}
	return v
}

// Load reads the account from the store, once for all that ask at the same
// time, and brings L1 and the shared cache up to it. above is a version that the
// caller has heard of: it doesn't join a read from before that. It is bounded by
// the store's time limit, and by those who wait for their turn there.
func (l *Ledger) Load(key account.Key, above account.Version) (*rotation.View, error) {
	return l.loadOnce(key, above, l.stranger)
}

func (l *Ledger) loadOnce(key account.Key, above account.Version, budget *backoff.Budget) (*rotation.View, error) {
	v, err, _ := l.reads.Do(l.loading(key, above, budget))
	if err != nil {
		return nil, err
	}
	return v.(*rotation.View), nil
}

var errSlow = errors.New("the account store is slower than a check is worth")

// Check is Load for a caller with something in hand that serves. Then a store
// that hangs is worth no more than one that is down; unless bumps may have been
// missed since what is in hand was checked, and it is to be caught up with first.
func (l *Ledger) Check(k *Known, above account.Version) (*rotation.View, error) {
	if k.epoch != l.Epoch() {
		return l.loadOnce(k.View.Key, above, l.check)
	}
	enough := time.NewTimer(CacheTimeout)
	defer enough.Stop()
	select {
	case r := <-l.reads.DoChan(l.loading(k.View.Key, above, l.check)):
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*rotation.View), nil
	case <-enough.C: // the read goes on
		l.check.Late()
		return nil, errSlow
	}
}

// loading is a read of the store for all that ask at the same time and have
// heard of the same, and a name for it.
func (l *Ledger) loading(key account.Key, above account.Version, budget *backoff.Budget) (name string, read func() (any, error)) {
	m := l.l1.mark(key)
	name = fmt.Sprintf("%s %d %d %d %t", key, m.floor, m.epoch, above, budget == l.check)
	return name, func() (any, error) {
		// Another's read may have come to its end between this caller's look at
		// L1 and here.
		if k := l.l1.get(key); k != nil && k.View != nil && l.Absent(k, l.cfg.Clock.Now(), above) {
			return k.View, nil
		}
		var v *rotation.View
		err := budget.Do(l.base, func(ctx context.Context) (err error) {
			v, err = l.load(ctx, key)
			return err
		}, ofOneAccount)
		if err == nil && above > 0 && v.Missing() {
			l.l1.update(key, func(k *Known) { k.doubted = l.cfg.Clock.Now() })
		}
		return v, err
	}
}

func (l *Ledger) load(ctx context.Context, key account.Key) (*rotation.View, error) {
	d, err := l.ReadOpened(ctx, key)
	switch {
	case absent(err):
		return &rotation.View{Key: key, Gone: true}, nil
	case err != nil:
		return nil, err
	}
	v := l.Learn(&d)
	if !d.AnnouncePending {
		l.background(func(ctx context.Context) { l.share(ctx, v) })
	}
	return v, nil
}

// First is ReadOpened for the first look of a refresh, before which nothing is
// at stake: it doesn't wait for a store that is known to be out of order.
func (l *Ledger) First(ctx context.Context, key account.Key) (d Document, err error) {
	err = l.first.Do(ctx, func(ctx context.Context) (err error) {
		d, err = l.ReadOpened(ctx, key)
		return err
	}, ofOneAccount)
	return d, err
}

// Absent reports whether "no such account" is to be believed without another
// look, also by who has heard of its version above: a storm of forged requests
// costs one look a second.
func (l *Ledger) Absent(k *Known, now time.Time, above account.Version) bool {
	return k.View.Missing() && l.Fresh(k, now) && (above == 0 || now.Sub(k.doubted) < negativeMaxAge)
}

// doubt reports whether the caller is the one to look again at what is known,
// which was last doubted at least d ago. It does not block.
func (l *Ledger) doubt(k *Known, now time.Time, d time.Duration) (mine bool) {
	if now.Sub(k.doubted) < d {
		return false
	}
	l.l1.update(k.View.Key, func(latest *Known) {
		if mine = latest.doubted == k.doubted; mine {
			latest.doubted = now
		}
	})
	return mine
}

// CheckSoon checks what is known of an account beside the request, once it is
// so old that it must be checked before long: whoever asks often never waits
// for that. It does not block.
func (l *Ledger) CheckSoon(k *Known, now time.Time) {
	if now.Sub(k.checked) < l.cfg.Timing.L1MaxAge*2/3 || !l.doubt(k, now, events.RetrySoon/2) {
		return
	}
	epoch := l.Epoch()
	l.background(func(context.Context) {
		if l.Shared(k.View.Key) != nil {
			return
		}
		if _, err := l.loadOnce(k.View.Key, 0, l.check); err != nil {
			l.Reprieve(k.View, epoch)
		}
	})
}

// reprieve is how much longer a view is served that could not be checked. It
// outlasts a check that hangs, so that the next one is made beside a request.
const reprieve = 3 * time.Second

// Reprieve lets v be served for a little longer, although it could not be
// checked: the store and the shared cache are out of reach. epoch is that of
// when the check began.
func (l *Ledger) Reprieve(v *rotation.View, epoch int64) {
	if epoch != l.l1.epoch.Load() {
		return // that check was of before a cut
	}
	checked := l.cfg.Clock.Now().Add(reprieve - l.cfg.Timing.L1MaxAge)
	l.l1.update(v.Key, func(k *Known) {
		if k.View == v && (k.checked.Before(checked) || k.epoch != epoch) {
			k.checked, k.epoch = checked, epoch
		}
	})
}
