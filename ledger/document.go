package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/rotation"
)

// Document is an account's document as the store has it, opened.
type Document struct {
	account.Account // with the fingerprints of the credentials that are in it
	// Opened are the credentials; empty where Unreadable says why although the
	// document has some.
	Opened     account.Credentials
	Unreadable error

	stored account.Fingerprints // as the document has them
	mark   Mark                 // of L1 when the read or the write began
}

// ErrUnreadable: the keyset doesn't open what the store has.
var ErrUnreadable = errors.New("credentials can't be opened")

// Unreadable is what requests for such an account are answered.
func Unreadable(key account.Key) *events.Error {
	return events.Unavailable(time.Minute, "%s: its credentials can't be opened with this worker's keyset", key)
}

// Read returns the document from the store, tombstones included, whether its
// credentials can be opened or not. That there is none (ErrNotFound) is noted
// in L1.
func (l *Ledger) Read(ctx context.Context, key account.Key) (Document, error) {
	d := Document{mark: l.l1.mark(key)}
	err := Bounded(ctx, func(ctx context.Context) (err error) {
		d.Account, err = l.cfg.Store.Get(ctx, key)
		return err
	})
	switch {
	case absent(err):
		l.l1.offer(&rotation.View{Key: key, Gone: true}, l.cfg.Clock.Now(), d.mark, true)
		return d, err
	case err != nil:
		return d, err
	}
	return l.opened(d), nil
}

// ReadOpened is Read for callers who need the credentials.
func (l *Ledger) ReadOpened(ctx context.Context, key account.Key) (Document, error) {
	d, err := l.Read(ctx, key)
	if err == nil {
		err = d.Unreadable
	}
	return d, err
}

// Write is a compare-and-set on the document that was read, and returns the
// document as it is afterwards. Errors are the store's.
func (l *Ledger) Write(ctx context.Context, d *Document, g account.Guard, c account.Change) (Document, error) {
	m := l.l1.mark(d.Key)
	doc, err := l.write(ctx, d, g, c)
	if err != nil {
		return Document{}, err
	}
	after := Document{Account: doc, mark: m}
	if len(doc.Credentials) > 0 && d.Unreadable == nil && bytes.Equal(doc.Credentials, d.Account.Credentials) { // as when d was opened
		after.stored, after.Opened = doc.Fingerprints, d.Opened
		after.Fingerprints.Access, after.Fingerprints.Refresh = d.Fingerprints.Access, d.Fingerprints.Refresh
		return after, nil
	}
	return l.opened(after), nil
}

func (l *Ledger) write(ctx context.Context, d *Document, g account.Guard, c account.Change) (doc account.Account, err error) {
	if c.At.IsZero() {
		c.At = l.Now()
	}
	err = Bounded(ctx, func(ctx context.Context) (err error) {
		doc, err = l.cfg.Store.Update(ctx, d.Key, g, c)
		return err
	})
	return doc, err
}

// Create writes the first document of an account, above everything that peers
// have seen of an earlier one. a carries what Seal has made of c.
func (l *Ledger) Create(ctx context.Context, a account.Account, c account.Credentials, reason events.Reason) (Document, error) {
	d := Document{Opened: c, stored: a.Fingerprints, mark: l.l1.mark(a.Key)}
	floor, err := l.floor(ctx, a.Key)
	if err != nil {
		return d, err
	}
	a.Version, a.Rev = floor.Version+1, floor.Rev+1
	a.AnnouncePending, a.Reason = true, string(reason)
	a.CreatedAt, a.UpdatedAt, a.SchemaVersion = l.Now(), l.Now(), account.SchemaVersion
	d.Account = a
	return d, Bounded(ctx, func(ctx context.Context) error { return l.cfg.Store.Create(ctx, a) })
}

// Raise writes a change that peers must see, above everything that they have
// seen: also in a store that went back in time. With FieldVersion the version
// rises as well. An empty reason means that no event is due.
func (l *Ledger) Raise(ctx context.Context, d *Document, b account.Account, fields account.Fields, reason events.Reason) (Document, error) {
	if b.Reason = string(reason); reason == "" {
		b.Reason = rotation.PendingReason(&d.Account)
	}
	b.AnnouncePending = true
	g, c := GuardOf(&d.Account), account.Change{Fields: fields | account.FieldAnnounce, To: b}
	if err := l.Lift(ctx, d, &g, &c); err != nil {
		return *d, err
	}
	return l.Write(ctx, d, g, c)
}

// Lift makes a change raise rev, and the version if it is among the fields,
// above all that peers have seen.
func (l *Ledger) Lift(ctx context.Context, d *Document, g *account.Guard, c *account.Change) error {
	floor, err := l.floor(ctx, d.Key)
	if err != nil {
		return err
	}
	c.To.Rev, g.Rev = max(d.Rev, floor.Rev)+1, d.Rev
	c.Fields, c.BumpRev = c.Fields|account.FieldRev, false
	if c.Fields&account.FieldVersion != 0 {
		c.To.Version = max(c.To.Version, d.Version+1, floor.Version+1)
	}
	return nil
}

// GuardOf holds as long as nothing that matters has changed since a was read.
func GuardOf(a *account.Account) account.Guard {
	g := account.Guard{Version: a.Version, Rev: a.Rev, Rotation: account.NoRotation()}
	if a.Rotation != nil {
		g.Rotation = &a.Rotation.ID
	}
	return g
}

// floor returns the highest version and rev that peers have seen: a store that
// lost the account, or went back in time, must not count them again.
func (l *Ledger) floor(ctx context.Context, key account.Key) (events.Bump, error) {
	ctx, cancel := context.WithTimeout(ctx, StoreTimeout)
	defer cancel()
	floor, err := l.cfg.Publisher.LastBump(ctx, key)
	if err != nil && !absent(err) {
		return floor, fmt.Errorf("read the last bump of %s: %w", key, err)
	}
	entry, err := l.cfg.Cache.Get(ctx, key)
	if err == nil {
		floor.Version, floor.Rev = max(floor.Version, entry.Version), max(floor.Rev, entry.Rev)
	}
	return floor, nil // a cache that is down has also nothing to contradict us with
}

// Fields that are sealed by themselves.
const (
	fieldCredentials = "credentials"
	fieldCache       = "cache"
)

// Associated binds sealed bytes to their account and field, so that none can
// be put in another's place.
func Associated(key account.Key, field string) []byte {
	return []byte(key.String() + "|" + field + "|" + strconv.Itoa(account.SchemaVersion))
}

// opened reads the document's credentials. The fingerprints are computed anew:
// another program may have written the document.
func (l *Ledger) opened(d Document) Document {
	d.stored = d.Fingerprints
	if len(d.Account.Credentials) == 0 {
		return d
	}
	plain, err := l.cfg.Sealer.Open(d.Account.Credentials, Associated(d.Key, fieldCredentials))
	if err == nil {
		d.Opened, err = account.DecodeCredentials(plain)
	}
	if err != nil {
		d.Opened, d.Unreadable = account.Credentials{}, fmt.Errorf("%w: %s: %w", ErrUnreadable, d.Key, err)
		return d
	}
	d.Fingerprints.Access = l.cfg.Sealer.Fingerprint(d.Opened.AccessToken)
	d.Fingerprints.Refresh = l.cfg.Sealer.Fingerprint(d.Opened.RefreshToken)
	return d
}

// Seal puts c into a, sealed, and sets what follows from c alone.
func (l *Ledger) Seal(a *account.Account, c account.Credentials) error {
	sealed, err := l.cfg.Sealer.Seal(c.Encode(), Associated(a.Key, fieldCredentials))
	if err != nil {
		return fmt.Errorf("seal credentials of %s: %w", a.Key, err)
	}
	a.Credentials, a.ExpiresAt = sealed, rotation.Millis(c.ExpiresAt)
	a.Fingerprints.Access = l.cfg.Sealer.Fingerprint(c.AccessToken)
	a.Fingerprints.Refresh = l.cfg.Sealer.Fingerprint(c.RefreshToken)
	return nil
}
