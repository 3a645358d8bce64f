package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// maxCredentials bounds a login, in bytes: it has to fit into messages several
// times over.
const maxCredentials = 128 << 10

// casRounds is how often an operator's change is tried again when something
// else changed the document in between.
const casRounds = 8

// Put takes a login: it creates the account or replaces its credentials whole.
// An error is always an [*events.Error], and then nothing has changed, or the
// outcome is unknown (unavailable) and the same Put may be sent again.
func (p *Provider) Put(ctx context.Context, r events.PutRequest) (events.Account, error) {
	key, c, err := p.readPut(r)
	if err != nil {
		return events.Account{}, err
	}
	return p.change(ctx, key, func(ctx context.Context, a *reading) (reading, error) {
		return p.put(ctx, a, key, c, r)
	})
}

// readPut checks what a login says.
func (p *Provider) readPut(r events.PutRequest) (account.Key, account.Credentials, error) {
	key, err := account.NewKey(r.Platform, r.ID)
	if err != nil {
		return key, account.Credentials{}, events.BadRequest(err.Error())
	}
	if r.Type != "oauth" {
		return key, account.Credentials{}, events.BadRequest(`type: want "oauth"`)
	}
	switch n := len(r.Credentials); {
	case n == 0:
		return key, account.Credentials{}, events.BadRequest("credentials: missing")
	case n > maxCredentials:
		return key, account.Credentials{}, events.BadRequest(fmt.Sprintf("credentials: %d bytes, at most %d are taken", n, maxCredentials))
	}
	c, err := account.DecodeCredentials(json.RawMessage(r.Credentials))
	if err != nil {
		return key, c, events.BadRequest(err.Error())
	}
	if c.AccessToken.IsZero() && c.RefreshToken.IsZero() {
		return key, c, events.BadRequest("credentials: neither access_token nor refresh_token")
	}
	if err := account.CheckProxyURL(c.ProxyURL.Reveal()); err != nil {
		return key, c, events.BadRequest("credentials.proxy_url: " + err.Error())
	}
	return key, p.endpoint.Describe(r.Platform, c), nil
}

// put makes one attempt. a is nil if there is no document.
func (p *Provider) put(ctx context.Context, a *reading, key account.Key, c account.Credentials, r events.PutRequest) (reading, error) {
	if a == nil {
		a = &reading{mark: p.l1.mark(key)}
	}
	current := a.Version
	if a.Deleted() {
		current = 0
	}
	if current > 0 && a.credentials.Equal(c) { // also a put that is repeated because its reply was lost
		if r.Label == nil || *r.Label == a.Label {
			return *a, nil
		}
		return p.write(ctx, a, account.Guard{Version: a.Version}, account.Change{Fields: account.FieldLabel, To: account.Account{Label: *r.Label}, At: p.now()})
	}
	if r.IfVersion != nil && *r.IfVersion != current {
		return *a, events.BadRequest(fmt.Sprintf("if_version: %s is at version %d", key, current))
	}
	if slices.Contains(a.Fingerprints.Spent, p.sealer.Fingerprint(c.RefreshToken)) {
		return *a, events.BadRequest(fmt.Sprintf("credentials.refresh_token: this fleet has spent it already; %s needs a new login, not an old login file", key))
	}
	return p.putNew(ctx, a, key, c, r)
}

// putNew writes a login that differs from what is there.
func (p *Provider) putNew(ctx context.Context, a *reading, key account.Key, c account.Credentials, r events.PutRequest) (reading, error) {
	create := a.Key.IsZero()
	b := a.Clone()
	b.Key, b.Type, b.DeletedAt = key, "oauth", time.Time{}
	if create || a.Deleted() {
		b.Status, b.CreatedAt = account.Active, p.now()
	}
	if err := p.setCredentials(&b, c); err != nil {
		return *a, err
	}
	b.UpdatedAt, b.SchemaVersion = p.now(), account.SchemaVersion
	p.login(&a.Account, &b)
	if r.Label != nil {
		b.Label = *r.Label
	}
	if !create {
		return p.raise(ctx, a, b, loginFields|account.FieldVersion|account.FieldLabel|account.FieldDeleted, events.ReasonExternal)
	}
	floor, err := p.floor(ctx, key)
	if err != nil {
		return *a, err
	}
	b.Version, b.Rev = floor.Version+1, floor.Rev+1
	b.AnnouncePending, b.Reason = true, string(events.ReasonExternal)
	err = p.withTimeout(ctx, func(ctx context.Context) error { return p.store.Create(ctx, b) })
	return p.opened(reading{Account: b, mark: a.mark}), err
}

// loginFields are what login sets.
const loginFields = account.FieldCredentials | account.FieldFingerprints | account.FieldRotation | account.FieldStatus |
	account.FieldFailure | account.FieldForced | account.FieldRefreshAt

// login draws from b's new credentials, which replace a's, what follows for the
// rest of b: what was about another refresh token is over, and one that was
// perhaps sent is never sent again.
func (p *Provider) login(a, b *account.Account) {
	if b.Fingerprints.Refresh != a.Fingerprints.Refresh {
		if a.Rotation != nil {
			b.Fingerprints = b.Fingerprints.WithSpent(a.Fingerprints.Refresh)
		}
		b.Rotation = nil
		if b.Fingerprints.Dead != b.Fingerprints.Refresh {
			b.Fingerprints.Dead = ""
		}
	}
	switch {
	case b.Status == account.Disabled: // an operator's switch
	case b.Fingerprints.NotToBeSent():
		b.Status = account.ReauthRequired
	default:
		b.Status = account.Active
	}
	b.IssuedAt, b.EarliestRefreshAt, b.ForcedStreak = time.Time{}, time.Time{}, 0
	b.CooldownUntil, b.Failures, b.LastError = time.Time{}, 0, nil
	policy, _ := p.endpoint.Policy(b.Key.Platform())
	b.RefreshAt = p.timing.refreshAt(b, policy, p.random())
}

// raise writes an operator's change that peers must see, above everything that
// they have seen: also in a store that went back in time. With FieldVersion the
// version rises as well.
func (p *Provider) raise(ctx context.Context, a *reading, b account.Account, fields account.Fields, reason events.Reason) (reading, error) {
	floor, err := p.floor(ctx, a.Key)
	if err != nil {
		return *a, err
	}
	b.Rev = max(a.Rev, floor.Rev) + 1
	if fields&account.FieldVersion != 0 {
		b.Version = max(a.Version, floor.Version) + 1
	}
	if b.Reason = string(reason); reason == "" {
		b.Reason = pendingReason(&a.Account)
	}
	b.AnnouncePending = true
	return p.write(ctx, a, guardOf(&a.Account), account.Change{Fields: fields | account.FieldAnnounce | account.FieldRev, To: b, At: p.now()})
}

// guardOf holds as long as nothing that matters has changed since a was read.
func guardOf(a *account.Account) account.Guard {
	g := account.Guard{Version: a.Version, Rev: a.Rev, Rotation: account.NoRotation()}
	if a.Rotation != nil {
		g.Rotation = &a.Rotation.ID
	}
	return g
}

// floor returns the highest version and rev that peers have seen: a store that
// lost the account, or went back in time, must not count them again.
func (p *Provider) floor(ctx context.Context, key account.Key) (events.Bump, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	floor, err := p.publisher.LastBump(ctx, key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return floor, fmt.Errorf("read the last bump of %s: %w", key, err)
	}
	entry, err := p.cache.Get(ctx, key)
	if err == nil {
		floor.Version, floor.Rev = max(floor.Version, entry.Version), max(floor.Rev, entry.Rev)
	}
	return floor, nil // a cache that is down has also nothing to contradict us with
}

// change runs an operator's compare-and-set until it wins, and announces what
// it wrote. f gets nil if there is no document, and returns the document as it
// is afterwards.
func (p *Provider) change(ctx context.Context, key account.Key, f func(context.Context, *reading) (reading, error)) (events.Account, error) {
	for range casRounds {
		a, err := p.read(ctx, key)
		found := &a
		if errors.Is(err, ErrNotFound) {
			found, err = nil, nil
		}
		if err != nil {
			return events.Account{}, adminError(key, err)
		}
		doc, err := f(ctx, found)
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil {
			return events.Account{}, adminError(key, err)
		}
		if found == nil || doc.Rev != a.Rev {
			p.adopt(&doc)
		}
		return events.NewAccount(doc.Account), nil
	}
	return events.Account{}, unavailable(retrySoon, "%s: it changes too fast; try again", key)
}

func adminError(key account.Key, err error) *events.Error {
	if e, ok := errors.AsType[*events.Error](err); ok {
		return e
	}
	return unavailable(retrySoon, "%s: %v", key, err)
}

// existing wraps f for verbs that need an account.
func (p *Provider) existing(ctx context.Context, r events.KeyRequest, f func(context.Context, *reading) (reading, error)) (events.Account, error) {
	key, err := account.NewKey(r.Platform, r.ID)
	if err != nil {
		return events.Account{}, events.BadRequest(err.Error())
	}
	return p.change(ctx, key, func(ctx context.Context, a *reading) (reading, error) {
		if a == nil || a.Deleted() {
			return reading{}, noAccount(key)
		}
		return f(ctx, a)
	})
}

// Get returns what an operator may see of an account.
func (p *Provider) Get(ctx context.Context, r events.KeyRequest) (events.Account, error) {
	return p.existing(ctx, r, func(_ context.Context, a *reading) (reading, error) { return *a, nil })
}

// List returns accounts in the order of their keys.
func (p *Provider) List(ctx context.Context, r events.ListRequest) (events.ListReply, error) {
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
	docs, err := p.store.List(ctx, ListQuery{Platform: r.Platform, Status: r.Status, After: r.Cursor, Limit: r.Limit + 1})
	if err != nil {
		return events.ListReply{}, unavailable(retrySoon, "list accounts: %v", err)
	}
	reply := events.ListReply{Accounts: []events.Account{}}
	if len(docs) > r.Limit {
		docs = docs[:r.Limit]
		reply.NextCursor = docs[len(docs)-1].Key.String()
	}
	for _, a := range docs {
		reply.Accounts = append(reply.Accounts, events.NewAccount(a))
	}
	return reply, nil
}

// Patch changes the label, the proxy or extra fields and leaves the tokens. A
// rotation that runs merges over it.
func (p *Provider) Patch(ctx context.Context, r events.PatchRequest) (events.Account, error) {
	edit, err := readPatch(r)
	if err != nil {
		return events.Account{}, err
	}
	return p.existing(ctx, events.KeyRequest{Platform: r.Platform, ID: r.ID}, func(ctx context.Context, a *reading) (reading, error) {
		if a.unreadable != nil {
			return *a, unreadable(a.Key)
		}
		b := a.Clone()
		if r.Label != nil {
			b.Label = *r.Label
		}
		next := edit(a.credentials)
		if next.Equal(a.credentials) {
			if b.Label == a.Label {
				return *a, nil
			}
			return p.write(ctx, a, account.Guard{Version: a.Version}, account.Change{Fields: account.FieldLabel, To: b, At: p.now()})
		}
		if err := p.setCredentials(&b, next); err != nil {
			return *a, err
		}
		// An edit is no login: it must not lift a restored document over what
		// the fleet knows to be newer, and its spent refresh token with it.
		if _, err := p.storeBehind(ctx, a); err != nil {
			return *a, err
		}
		return p.raise(ctx, a, b, account.FieldVersion|account.FieldCredentials|account.FieldLabel, events.ReasonExternal)
	})
}

// tokenFields are the fields that a patch may not touch.
var tokenFields = []string{"access_token", "refresh_token", "id_token", "token_type", "scope", "expires_at", "client_id", "client_secret"}

// readPatch checks a patch and returns what it does to credentials.
func readPatch(r events.PatchRequest) (func(account.Credentials) account.Credentials, error) {
	fields := map[string]json.RawMessage{}
	maps.Copy(fields, r.Extra)
	maps.Copy(fields, r.Credentials)
	for _, name := range tokenFields {
		if _, ok := fields[name]; ok {
			return nil, events.BadRequest("credentials." + name + ": a patch leaves the tokens; use accounts.put")
		}
	}
	proxy, hasProxy := fields["proxy_url"]
	delete(fields, "proxy_url")
	if len(r.ProxyURL) > 0 {
		proxy, hasProxy = r.ProxyURL, true
	}
	var url *string
	if hasProxy {
		if err := json.Unmarshal(proxy, &url); err != nil {
			return nil, events.BadRequest("proxy_url: want a string or null")
		}
		if url == nil {
			url = new("")
		}
		if err := account.CheckProxyURL(*url); err != nil {
			return nil, events.BadRequest("proxy_url: " + err.Error())
		}
	}
	return func(c account.Credentials) account.Credentials {
		if url != nil {
			c.ProxyURL = account.NewSecret(*url)
		}
		c.Extra = maps.Clone(c.Extra)
		for name, raw := range fields {
			if string(raw) == "null" {
				delete(c.Extra, name)
				continue
			}
			if c.Extra == nil {
				c.Extra = account.Extra{}
			}
			c.Extra[name] = raw
		}
		if len(c.Extra) == 0 {
			c.Extra = nil
		}
		return c
	}, nil
}

// Delete erases the credentials and leaves a tombstone.
func (p *Provider) Delete(ctx context.Context, r events.KeyRequest) (events.Account, error) {
	doc, err := p.existing(ctx, r, func(ctx context.Context, a *reading) (reading, error) {
		b := account.Account{Key: a.Key, Type: a.Type, DeletedAt: p.now()}
		b.Fingerprints = account.Fingerprints{Spent: a.Fingerprints.Spent, Dead: a.Fingerprints.Dead}
		if a.Rotation != nil { // perhaps sent: not again, should the login come back
			b.Fingerprints = b.Fingerprints.WithSpent(a.Fingerprints.Refresh)
		}
		return p.raise(ctx, a, b, account.FieldVersion|account.FieldCredentials|account.FieldFingerprints|account.FieldRotation|
			account.FieldFailure|account.FieldForced|account.FieldRefreshAt|account.FieldLabel|account.FieldDeleted, "")
	})
	return p.told(doc, err, events.StatusDeleted, "an operator deleted the account")
}

// Enable undoes Disable and nothing else.
func (p *Provider) Enable(ctx context.Context, r events.KeyRequest) (events.Account, error) {
	doc, err := p.existing(ctx, r, func(ctx context.Context, a *reading) (reading, error) {
		if a.Status != account.Disabled {
			return *a, nil
		}
		status := account.Active
		if a.Fingerprints.NotToBeSent() {
			status = account.ReauthRequired
		}
		return p.setStatus(ctx, a, status)
	})
	return p.told(doc, err, events.StatusEnabled, "an operator enabled the account")
}

// Disable stops the account: no token, no refresh, until Enable.
func (p *Provider) Disable(ctx context.Context, r events.KeyRequest) (events.Account, error) {
	doc, err := p.existing(ctx, r, func(ctx context.Context, a *reading) (reading, error) {
		if a.Status == account.Disabled {
			return *a, nil
		}
		return p.setStatus(ctx, a, account.Disabled)
	})
	return p.told(doc, err, events.StatusDisabled, "an operator disabled the account")
}

func (p *Provider) setStatus(ctx context.Context, a *reading, s account.Status) (reading, error) {
	return p.raise(ctx, a, account.Account{Status: s}, account.FieldStatus, "")
}

// pendingReason keeps the event of an announcement that is still open.
func pendingReason(a *account.Account) string {
	if a.AnnouncePending {
		return a.Reason
	}
	return ""
}

// ClearError says "try again": back-off, failures and the mark of a refused
// refresh token go, and every cached copy is dropped. A rotation in doubt
// stays.
func (p *Provider) ClearError(ctx context.Context, r events.KeyRequest) (events.Account, error) {
	doc, err := p.existing(ctx, r, func(ctx context.Context, a *reading) (reading, error) {
		b := a.Clone()
		b.Fingerprints.Dead = ""
		b.CooldownUntil, b.Failures, b.LastError = time.Time{}, 0, nil
		if b.Status != account.Disabled {
			b.Status = account.Active
		}
		policy, _ := p.endpoint.Policy(a.Key.Platform())
		b.RefreshAt = p.timing.refreshAt(&b, policy, p.random())
		return p.raise(ctx, a, b, account.FieldFingerprints|account.FieldFailure|account.FieldStatus|account.FieldRefreshAt, "")
	})
	return p.told(doc, err, events.StatusCleared, "an operator cleared the error")
}

// Refresh forces a refresh and waits for it as long as ctx allows. Force also
// ends the wait of a rotation in doubt.
func (p *Provider) Refresh(ctx context.Context, r events.KeyRequest) (events.Account, error) {
	before, err := p.Get(ctx, r)
	if err != nil {
		return before, err
	}
	key := before.Key()
	w := want{over: before.Version, reason: events.ReasonForced, operator: true, force: r.Force}
	for range maxRounds {
		fl, joined := p.refreshOrJoin(key, w)
		err := p.await(ctx, fl)
		if err != nil && joined && ctx.Err() == nil {
			continue // it wanted less than we do
		}
		now, gerr := p.Get(ctx, r)
		switch {
		case err != nil:
			return events.Account{}, wireError(ctx, key, err)
		case gerr != nil:
			return events.Account{}, gerr
		case now.Version > before.Version:
			return now, nil
		}
	}
	return events.Account{}, unavailable(retrySoon, "%s: no refresh came about", key)
}

// told publishes the status event of a successful verb.
func (p *Provider) told(doc events.Account, err error, code, message string) (events.Account, error) {
	if err == nil {
		a := account.Account{Key: doc.Key(), Status: doc.Status}
		p.tell(&a, code, message, time.Time{})
	}
	return doc, err
}
