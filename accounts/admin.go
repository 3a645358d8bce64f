// Package accounts is what operators do to accounts: put a login, change what
// is beside the tokens, switch an account off and on, end a doubt, look at what
// waits in a journal. Nothing here returns a secret, and every change is a
// compare-and-set on the document that it was decided on.
package accounts

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/refresh"
)

// Config is what an [Admin] is made of. All fields are required.
type Config struct {
	Ledger    *ledger.Ledger
	Refresher *refresh.Refresher
	Store     ledger.Store // for lists alone
	Journal   refresh.Journal
	Spool     refresh.Spool
	Endpoint  refresh.Endpoint
	Sealer    ledger.Sealer
	WorkerID  string
}

// Admin carries out the operators' verbs. Use [New]. All methods are safe for
// concurrent use. Every error is an [*events.Error], and then nothing has
// changed, or the outcome is unknown (unavailable) and the same verb may be
// sent again.
type Admin struct {
	cfg    Config
	ledger *ledger.Ledger
}

// New returns an Admin.
func New(cfg Config) *Admin { return &Admin{cfg: cfg, ledger: cfg.Ledger} }

// casRounds is how often an operator's change is tried again when something
// else changed the document in between.
const casRounds = 8

// change runs an operator's compare-and-set until it wins, and announces what
// it wrote. f gets nil if there is no document, and returns the document as it
// is afterwards. With absent the caller takes it that there is none, which saves a
// read: f's write conflicts where that is wrong, and what is there is read.
func (o *Admin) change(ctx context.Context, key account.Key, absent bool, f func(context.Context, *ledger.Document) (ledger.Document, error)) (events.Account, error) {
	for range casRounds {
		var found *ledger.Document
		if !absent {
			switch a, err := o.ledger.Read(ctx, key); {
			case err == nil:
				found = &a
			case !errors.Is(err, ledger.ErrNotFound):
				return events.Account{}, adminError(key, err)
			}
		}
		absent = false
		doc, err := f(ctx, found)
		if errors.Is(err, ledger.ErrConflict) {
			continue
		}
		if err != nil {
			return events.Account{}, adminError(key, err)
		}
		if found == nil || doc.Rev != found.Rev {
			o.ledger.Adopt(&doc)
		}
		return events.NewAccount(doc.Account), nil
	}
	return events.Account{}, events.Unavailable(events.RetrySoon, "%s: it changes too fast; try again", key)
}

func adminError(key account.Key, err error) *events.Error {
	if e, ok := errors.AsType[*events.Error](err); ok {
		return e
	}
	return events.Unavailable(events.RetrySoon, "%s: %v", key, err)
}

// existing wraps f for verbs that need an account.
func (o *Admin) existing(ctx context.Context, r events.KeyRequest, f func(context.Context, *ledger.Document) (ledger.Document, error)) (events.Account, error) {
	key, err := account.NewKey(r.Platform, r.ID)
	if err != nil {
		return events.Account{}, events.BadRequest(err.Error())
	}
	return o.change(ctx, key, false, func(ctx context.Context, a *ledger.Document) (ledger.Document, error) {
		if a == nil || a.Deleted() {
			return ledger.Document{}, events.NotFound(key)
		}
		return f(ctx, a)
	})
}

// told publishes the status event of a successful verb.
func (o *Admin) told(doc events.Account, err error, code, message string) (events.Account, error) {
	if err == nil {
		a := account.Account{Key: doc.Key(), Status: doc.Status}
		o.ledger.Tell(&a, code, message, time.Time{})
	}
	return doc, err
}
