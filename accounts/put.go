package accounts

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/rotation"
)

// maxCredentials bounds a login, in bytes, as it comes and as it is kept: it has
// to fit into messages several times over, and longer tokens may follow.
const maxCredentials = 128 << 10

// maxLabel bounds a label, in bytes.
const maxLabel = 1 << 10

// checkLabel says what is wrong with a label that is to be set; nil: none is.
func checkLabel(label *string) error {
	if label != nil && len(*label) > maxLabel {
		return events.BadRequest(fmt.Sprintf("label: %d bytes, at most %d are taken", len(*label), maxLabel))
	}
	return nil
}

// Put takes a login: it creates the account or replaces its credentials whole.
// An error is always an [*events.Error], and then nothing has changed, or the
// outcome is unknown (unavailable) and the same Put may be sent again.
func (o *Admin) Put(ctx context.Context, r events.PutRequest) (events.Account, error) {
	key, c, err := o.readPut(r)
	if err != nil {
		return events.Account{}, err
	}
	// Who says that there is no account is most often right.
	absent := r.IfVersion != nil && *r.IfVersion == 0
	return o.change(ctx, key, absent, func(ctx context.Context, a *ledger.Document) (ledger.Document, error) {
		return o.put(ctx, a, key, c, r)
	})
}

// readPut checks what a login says.
func (o *Admin) readPut(r events.PutRequest) (account.Key, account.Credentials, error) {
	key, err := account.NewKey(r.Platform, r.ID)
	if err != nil {
		return key, account.Credentials{}, events.BadRequest(err.Error())
	}
	if r.Type != "oauth" {
		return key, account.Credentials{}, events.BadRequest(`type: want "oauth"`)
	}
	if err := checkLabel(r.Label); err != nil {
		return key, account.Credentials{}, err
	}
	switch n := len(r.Credentials); {
	case n == 0:
		return key, account.Credentials{}, events.BadRequest("credentials: missing")
	case n > maxCredentials:
		return key, account.Credentials{}, tooLarge(n)
	}
	c, err := account.DecodeCredentials(json.RawMessage(r.Credentials))
	if err != nil {
		return key, c, events.BadRequest(err.Error())
	}
	if c.AccessToken.IsZero() && c.RefreshToken.IsZero() {
		return key, c, events.BadRequest("credentials: neither access_token nor refresh_token")
	}
	if n := len(c.Encode()); n > maxCredentials {
		return key, c, tooLarge(n)
	}
	if err := account.CheckProxyURL(c.ProxyURL.Reveal()); err != nil {
		return key, c, events.BadRequest("credentials.proxy_url: " + err.Error())
	}
	return key, o.cfg.Endpoint.Describe(r.Platform, c), nil
}

func tooLarge(n int) error {
	return events.BadRequest(fmt.Sprintf("credentials: %d bytes, at most %d are taken", n, maxCredentials))
}

// put makes one attempt. a is nil if there is no document.
func (o *Admin) put(ctx context.Context, a *ledger.Document, key account.Key, c account.Credentials, r events.PutRequest) (ledger.Document, error) {
	if a == nil {
		a = &ledger.Document{}
	}
	current := a.Version
	if a.Deleted() {
		current = 0
	}
	if current > 0 && a.Opened.Equal(c) { // also a put that is repeated because its reply was lost
		if r.Label == nil || *r.Label == a.Label {
			return *a, nil
		}
		return o.ledger.Write(ctx, a, account.Guard{Version: a.Version}, account.Change{Fields: account.FieldLabel, To: account.Account{Label: *r.Label}})
	}
	if r.IfVersion != nil && *r.IfVersion != current {
		return *a, events.BadRequest(fmt.Sprintf("if_version: %s is at version %d", key, current))
	}
	if slices.Contains(a.Fingerprints.Spent, o.cfg.Sealer.Fingerprint(c.RefreshToken)) {
		return *a, events.BadRequest(fmt.Sprintf("credentials.refresh_token: this fleet has spent it already; %s needs a new login, not an old login file", key))
	}
	return o.putNew(ctx, a, key, c, r)
}

// putNew writes a login that differs from what is there.
func (o *Admin) putNew(ctx context.Context, a *ledger.Document, key account.Key, c account.Credentials, r events.PutRequest) (ledger.Document, error) {
	create := a.Key.IsZero()
	b := a.Clone()
	b.Key, b.Type, b.DeletedAt = key, "oauth", time.Time{}
	if create || a.Deleted() {
		b.Status = account.Active
	}
	if err := o.ledger.Seal(&b, c); err != nil {
		return *a, err
	}
	rotation.Login(&a.Account, &b, o.ledger.Rules(key))
	if r.Label != nil {
		b.Label = *r.Label
	}
	if create {
		return o.ledger.Create(ctx, b, c, events.ReasonExternal)
	}
	return o.ledger.Raise(ctx, a, b, rotation.LoginFields|account.FieldVersion|account.FieldLabel|account.FieldDeleted, events.ReasonExternal)
}
