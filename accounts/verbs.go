package accounts

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/lookup"
	"github.com/tokenbus/tokenbus/refresh"
)

// Get returns what an operator may see of an account.
func (o *Admin) Get(ctx context.Context, r events.KeyRequest) (events.Account, error) {
	return o.existing(ctx, r, func(_ context.Context, a *ledger.Document) (ledger.Document, error) { return *a, nil })
}

// maxList bounds the accounts of one page, in bytes of JSON, so that it fits into
// a message with room to spare. One account always fits: its label is bounded,
// but for one from before that bound.
const maxList = 512 << 10

// List returns accounts in the order of their keys: as many as asked for, or
// fewer where they are large, and then a cursor to go on from.
func (o *Admin) List(ctx context.Context, r events.ListRequest) (events.ListReply, error) {
	switch {
	case r.Limit < 0 || r.Limit > events.MaxListLimit:
		return events.ListReply{}, events.BadRequest(fmt.Sprintf("limit: want 1 to %d", events.MaxListLimit))
	case r.Status != "" && r.Status != account.Active && r.Status != account.Disabled && r.Status != account.ReauthRequired:
		return events.ListReply{}, events.BadRequest("status: want active, disabled or reauth_required")
	case r.Limit == 0:
		r.Limit = events.DefaultListLimit
	}
	if r.Platform != "" {
		if _, err := account.NewKey(r.Platform, "x"); err != nil {
			return events.ListReply{}, events.BadRequest("platform: " + err.Error())
		}
	}
	if r.Cursor != "" {
		if _, err := account.ParseKey(r.Cursor); err != nil {
			return events.ListReply{}, events.BadRequest("cursor: not one that a list has returned")
		}
	}
	docs, err := o.cfg.Store.List(ctx, ledger.ListQuery{Platform: r.Platform, Status: r.Status, After: r.Cursor, Limit: r.Limit + 1})
	if err != nil {
		return events.ListReply{}, events.Unavailable(events.RetrySoon, "list accounts: %v", err)
	}
	reply := events.ListReply{Accounts: []events.Account{}}
	if len(docs) > r.Limit {
		docs = docs[:r.Limit]
		reply.NextCursor = docs[len(docs)-1].Key.String()
	}
	size := 0
	for i, doc := range docs {
		a := events.NewAccount(doc)
		text, err := json.Marshal(a)
		if err != nil {
			return events.ListReply{}, events.Unavailable(events.RetrySoon, "list accounts: %v", err)
		}
		if size += len(text) + 1; size > maxList && i > 0 {
			reply.NextCursor = docs[i-1].Key.String()
			break
		}
		reply.Accounts = append(reply.Accounts, a)
	}
	return reply, nil
}

// Delete erases the credentials and leaves a tombstone.
func (o *Admin) Delete(ctx context.Context, r events.KeyRequest) (events.Account, error) {
	doc, err := o.existing(ctx, r, func(ctx context.Context, a *ledger.Document) (ledger.Document, error) {
		b := account.Account{Key: a.Key, Type: a.Type, DeletedAt: o.ledger.Now()}
		b.Fingerprints = account.Fingerprints{Spent: a.Fingerprints.Spent, Dead: a.Fingerprints.Dead}
		if a.Rotation != nil { // perhaps sent: not again, should the login come back
			b.Fingerprints = b.Fingerprints.WithSpent(a.Fingerprints.Refresh)
		}
		return o.ledger.Raise(ctx, a, b, account.FieldVersion|account.FieldCredentials|account.FieldFingerprints|account.FieldRotation|
			account.FieldFailure|account.FieldForced|account.FieldRefreshAt|account.FieldLabel|account.FieldDeleted, "")
	})
	return o.told(doc, err, events.StatusDeleted, "an operator deleted the account")
}

// Enable undoes Disable and nothing else.
func (o *Admin) Enable(ctx context.Context, r events.KeyRequest) (events.Account, error) {
	doc, err := o.existing(ctx, r, func(ctx context.Context, a *ledger.Document) (ledger.Document, error) {
		if a.Status != account.Disabled {
			return *a, nil
		}
		status := account.Active
		if a.Fingerprints.NotToBeSent() {
			status = account.ReauthRequired
		}
		return o.setStatus(ctx, a, status)
	})
	return o.told(doc, err, events.StatusEnabled, "an operator enabled the account")
}

// Disable stops the account: no token, no refresh, until Enable.
func (o *Admin) Disable(ctx context.Context, r events.KeyRequest) (events.Account, error) {
	doc, err := o.existing(ctx, r, func(ctx context.Context, a *ledger.Document) (ledger.Document, error) {
		if a.Status == account.Disabled {
			return *a, nil
		}
		return o.setStatus(ctx, a, account.Disabled)
	})
	return o.told(doc, err, events.StatusDisabled, "an operator disabled the account")
}

func (o *Admin) setStatus(ctx context.Context, a *ledger.Document, s account.Status) (ledger.Document, error) {
	return o.ledger.Raise(ctx, a, account.Account{Status: s}, account.FieldStatus, "")
}

// ClearError says "try again": back-off, failures and the mark of a refused
// refresh token go, and every cached copy is dropped. A rotation in doubt
// stays.
func (o *Admin) ClearError(ctx context.Context, r events.KeyRequest) (events.Account, error) {
	doc, err := o.existing(ctx, r, func(ctx context.Context, a *ledger.Document) (ledger.Document, error) {
		b := a.Clone()
		b.Fingerprints.Dead = ""
		b.CooldownUntil, b.Failures = time.Time{}, 0
		if !b.Fingerprints.NotToBeSent() { // else only a login helps
			b.LastError = nil
			if b.Status != account.Disabled {
				b.Status = account.Active
			}
		}
		rules := o.ledger.Rules(a.Key)
		b.RefreshAt = rules.Timing.RefreshAt(&b, rules.Policy, rules.Now, rules.Random)
		return o.ledger.Raise(ctx, a, b, account.FieldFingerprints|account.FieldFailure|account.FieldStatus|account.FieldRefreshAt, "")
	})
	return o.told(doc, err, events.StatusCleared, "an operator cleared the error")
}

// Refresh forces a refresh and waits for it as long as ctx allows. Force also
// ends the wait of a rotation in doubt.
func (o *Admin) Refresh(ctx context.Context, r events.KeyRequest) (events.Account, error) {
	before, err := o.Get(ctx, r)
	if err != nil {
		return before, err
	}
	key := before.Key()
	w := refresh.Want{Over: before.Version, Reason: events.ReasonForced, Operator: true, Force: r.Force}
	for range maxRounds {
		flight, joined := o.cfg.Refresher.Refresh(key, w)
		err := flight.Wait(ctx)
		if err != nil && joined && ctx.Err() == nil {
			continue // it wanted less than we do
		}
		now, gerr := o.Get(ctx, r)
		switch {
		case err != nil:
			return events.Account{}, lookup.WireError(ctx, key, err)
		case gerr != nil:
			return events.Account{}, gerr
		case now.Version > before.Version:
			return now, nil
		}
	}
	return events.Account{}, events.Unavailable(events.RetrySoon, "%s: no refresh came about", key)
}

// maxRounds is how many flights a forced refresh waits for.
const maxRounds = 4
