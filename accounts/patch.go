package accounts

import (
	"context"
	"encoding/json"
	"maps"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
)

// Patch changes the label, the proxy or extra fields and leaves the tokens. A
// rotation that runs merges over it.
func (o *Admin) Patch(ctx context.Context, r events.PatchRequest) (events.Account, error) {
	if err := checkLabel(r.Label); err != nil {
		return events.Account{}, err
	}
	edit, err := readPatch(r)
	if err != nil {
		return events.Account{}, err
	}
	return o.existing(ctx, events.KeyRequest{Platform: r.Platform, ID: r.ID}, func(ctx context.Context, a *ledger.Document) (ledger.Document, error) {
		if a.Unreadable != nil {
			return *a, ledger.Unreadable(a.Key)
		}
		b := a.Clone()
		if r.Label != nil {
			b.Label = *r.Label
		}
		next := edit(a.Opened)
		if next.Equal(a.Opened) {
			if b.Label == a.Label {
				return *a, nil
			}
			return o.ledger.Write(ctx, a, account.Guard{Version: a.Version}, account.Change{Fields: account.FieldLabel, To: b})
		}
		if n := len(next.Encode()); n > maxCredentials && n > len(a.Opened.Encode()) {
			return *a, tooLarge(n)
		}
		if err := o.ledger.Seal(&b, next); err != nil {
			return *a, err
		}
		// An edit is no login: it must not lift a restored document over what
		// the fleet knows to be newer, and its spent refresh token with it.
		if _, err := o.cfg.Refresher.StoreBehind(ctx, a); err != nil {
			return *a, err
		}
		return o.ledger.Raise(ctx, a, b, account.FieldVersion|account.FieldCredentials|account.FieldLabel, events.ReasonExternal)
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
