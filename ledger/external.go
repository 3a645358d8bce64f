package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/rotation"
)

// ObserveRefreshed handles a refreshed event. One of this worker's own is being
// announced, one of another's may be announced already; one from outside says that another program changed the
// account in the store: it is read, cached and broadcast. nil means done; an
// error means that the event should be delivered again later. Repeated and
// old events change nothing.
func (l *Ledger) ObserveRefreshed(ctx context.Context, e events.Refreshed) error {
	if e.By == l.cfg.WorkerID || l.announced(ctx, e.Key, e.Version) {
		return nil
	}
	d, err := l.ReadOpened(ctx, e.Key)
	switch {
	case errors.Is(err, ErrNotFound):
		l.log.Warn("refreshed event for an account that the store does not have; ignored", "account", e.Key.String(), "version", e.Version)
		return nil
	case err != nil:
		return fmt.Errorf("read %s: %w", e.Key, err)
	case d.Version < e.Version:
		l.log.Warn("refreshed event names a version that the store does not have; ignored", "account", e.Key.String(), "version", d.Version, "announced", e.Version)
		return nil
	case d.AnnouncePending: // one of this fleet's own: it is being announced, or the sweep repeats it
		return nil
	case l.announced(ctx, e.Key, d.Version): // while the document was read
		return nil
	}
	if d, err = l.own(ctx, &d); err != nil {
		return fmt.Errorf("announce external change of %s: %w", e.Key, err)
	}
	l.Learn(&d)
	return l.announceOnce(ctx, &d)
}

func (l *Ledger) announced(ctx context.Context, key account.Key, v account.Version) bool {
	bump, err := l.cfg.Publisher.LastBump(ctx, key)
	return err == nil && bump.Version >= v
}

// own gives a document that another program wrote what our own writes have: a
// rev that peers can order by, fingerprints, a due time, and the mark of an
// announcement. Another refresh token is a login, as accounts.put's is.
func (l *Ledger) own(ctx context.Context, d *Document) (Document, error) {
	b := d.Account.Clone()
	if !d.Opened.ExpiresAt.IsZero() {
		b.ExpiresAt = rotation.Millis(d.Opened.ExpiresAt)
	}
	before := d.Account
	before.Fingerprints = d.stored
	if b.Fingerprints.Access != d.stored.Access || b.Fingerprints.Refresh != d.stored.Refresh {
		rotation.Login(&before, &b, l.Rules(d.Key))
	}
	const code = events.StatusSecondWriter
	const text = "another program wrote a refresh token that this fleet has spent already; the account needs a new login"
	spent := b.Status == account.ReauthRequired && b.Fingerprints.NotToBeSent()
	if spent {
		b.LastError = &account.LastError{Code: code, Message: text, At: l.Now()}
	}
	doc, err := l.Raise(ctx, d, b, rotation.LoginFields, events.ReasonExternal)
	if err == nil && spent {
		l.Tell(&doc.Account, code, text, time.Time{})
	}
	return doc, err
}
