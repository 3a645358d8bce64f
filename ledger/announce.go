package ledger

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/failpoint"
	"github.com/tokenbus/tokenbus/rotation"
)

// Bounds of the sweep: how many pending announcements one look brings, and how
// many of earlier looks are remembered.
const (
	pendingLook = 512
	maxPending  = 1 << 16
)

// Adopt takes a document that was read or written into L1, and tells the
// others in the background: announces it where that is still open.
func (l *Ledger) Adopt(d *Document) {
	v := l.Learn(d)
	doc := *d
	doc.Account = d.Clone() // the caller goes on with its own
	l.background(func(ctx context.Context) {
		if doc.AnnouncePending {
			l.announce(ctx, &doc)
		} else {
			l.share(ctx, v)
		}
	})
}

func (l *Ledger) announce(ctx context.Context, d *Document) {
	if err := l.announceOnce(ctx, d); err != nil {
		l.log.Warn("announcement is incomplete; it will be repeated", "account", d.Key.String(), "version", d.Version, "rev", d.Rev, "error", err)
	}
}

// announceOnce tells the world of a committed document: shared cache first,
// then the event, then the bump. Only when all three are acknowledged is the
// mark cleared that makes the sweep announce it again. Announcing twice is
// harmless. A cache that is down must not keep the bump back: peers drop what
// they have and read the store.
func (l *Ledger) announceOnce(ctx context.Context, d *Document) error {
	policy, _ := l.cfg.Policy(d.Key.Platform())
	errCache := l.put(ctx, rotation.ViewOf(&d.Account, d.Opened, policy))
	failpoint.At("cached")
	var errEvent error
	if d.Reason != "" {
		errEvent = Bounded(ctx, func(ctx context.Context) error {
			return l.cfg.Publisher.Refreshed(ctx, events.Refreshed{
				Key: d.Key, Version: d.Version, ExpiresAt: d.ExpiresAt, Reason: events.Reason(d.Reason), By: l.cfg.WorkerID, At: d.UpdatedAt,
			})
		})
	}
	failpoint.At("published")
	errBump := Bounded(ctx, func(ctx context.Context) error {
		return l.cfg.Publisher.Bump(ctx, events.Bump{Key: d.Key, Version: d.Version, Rev: d.Rev, At: d.UpdatedAt})
	})
	if err := errors.Join(errCache, errEvent, errBump); err != nil {
		return err
	}
	failpoint.At("bumped")
	_, err := l.write(ctx, d, account.Guard{Rev: d.Rev}, account.Change{Fields: account.FieldAnnounce, At: d.UpdatedAt})
	if errors.Is(err, ErrConflict) {
		return nil // there is a newer rev, with an announcement of its own
	}
	return err
}

// AnnouncePending repeats announcements that a crash or a fault left open. One
// is taken for left open when this worker has seen it in two looks, with any
// number of others between them: a look brings some of very many. A fresh one
// is being made by whoever wrote it, and how fresh it is can't be told from
// another machine's clock. It is called by one goroutine at a time.
func (l *Ledger) AnnouncePending(ctx context.Context) {
	var keys []account.Key
	err := Bounded(ctx, func(ctx context.Context) (err error) {
		keys, err = l.cfg.Store.Pending(ctx, pendingLook)
		return err
	})
	if err != nil {
		l.log.Debug("look for pending announcements", "error", err)
		return
	}
	if len(keys) == 0 || len(l.pending) > maxPending {
		clear(l.pending)
	}
	for _, key := range keys {
		d, err := l.ReadOpened(ctx, key)
		switch {
		case err != nil, !d.AnnouncePending:
			delete(l.pending, key)
		case l.pending[key] != d.Rev:
			l.pending[key] = d.Rev
		default:
			l.Learn(&d)
			l.announce(ctx, &d)
		}
	}
}

// Tell publishes a status event in the background.
func (l *Ledger) Tell(a *account.Account, code, message string, until time.Time) {
	doc := *a
	l.background(func(ctx context.Context) { l.TellNow(ctx, &doc, code, message, until) })
}

// TellNow publishes a status event.
func (l *Ledger) TellNow(ctx context.Context, a *account.Account, code, message string, until time.Time) {
	ctx, cancel := context.WithTimeout(ctx, CacheTimeout)
	defer cancel()
	err := l.cfg.Publisher.Status(ctx, events.Status{Key: a.Key, Status: a.Status, Code: code, Message: message, Until: until, At: l.Now()})
	if err != nil {
		l.log.Warn("status event is not published", "account", a.Key.String(), "code", code, "error", err)
	}
}

// Behind returns the highest version and rev of the document's account that
// peers have been told of, and whether that version is above the document's: the
// store is a restored backup, say, and its refresh token spent. Who can't be
// asked has seen nothing: a stream that is down must not end all refreshes.
func (l *Ledger) Behind(ctx context.Context, d *Document) (seen events.Bump, behind bool) {
	see := func(v account.Version, rev account.Rev) {
		seen.Version, seen.Rev = max(seen.Version, v), max(seen.Rev, rev)
	}
	if k := l.Known(d.Key); k != nil && k.View != nil {
		see(k.View.Version, k.View.Rev)
	}
	bumps, cancel := context.WithTimeout(ctx, CacheTimeout) // none takes the other's time
	defer cancel()
	if bump, err := l.cfg.Publisher.LastBump(bumps, d.Key); err == nil {
		see(bump.Version, bump.Rev)
	}
	_ = l.cache.Do(ctx, func(ctx context.Context) error {
		e, err := l.cfg.Cache.Get(ctx, d.Key)
		if err == nil {
			see(e.Version, e.Rev)
		}
		return err
	}, absent)
	return seen, seen.Version > d.Version
}
