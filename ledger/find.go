package ledger

import (
	"context"
	"fmt"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/rotation"
)

// Shared takes the shared cache's view into L1 and returns it, unless it is
// past its end there or below what was heard of the account: then nil.
func (l *Ledger) Shared(ctx context.Context, key account.Key) *rotation.View {
	m := l.l1.mark(key)
	v, until := l.fetch(ctx, key)
	now := l.cfg.Clock.Now()
	if v == nil || !now.Before(until) || v.Rev < l.l1.get(key).Rev() {
		return nil
	}
	newest, _ := l.l1.offer(v, now, m, false)
	return newest
}

// InHand returns the best view that can be had without the store, however
// old, unless a bump says that there is a newer one: with the store down,
// tokens in hand are served until they end.
func (l *Ledger) InHand(ctx context.Context, key account.Key) *rotation.View {
	v, _ := l.fetch(ctx, key)
	k := l.l1.get(key)
	if k != nil && k.View != nil && (v == nil || v.Rev < k.View.Rev) {
		v = k.View
	}
	if v != nil && k != nil && v.Rev < k.floor {
		return nil
	}
	return v
}

// Load reads the account from the store, once for all that ask at the same
// time, and brings L1 and the shared cache up to it. above is a version that
// the caller has heard of: it doesn't join a read from before that.
func (l *Ledger) Load(ctx context.Context, key account.Key, above account.Version) (*rotation.View, error) {
	m := l.l1.mark(key)
	same := fmt.Sprintf("%s %d %d %d", key, m.floor, m.epoch, above)
	result := l.reads.DoChan(same, func() (any, error) { return l.load(l.base, key) })
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*rotation.View), nil
	case <-ctx.Done():
		return nil, ctx.Err()
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
