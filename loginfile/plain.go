package loginfile

import (
	"encoding/json"
	"errors"

	"github.com/tokenbus/tokenbus/account"
)

// The plain form is the body of accounts.put:
//
//	{"platform":"acme","id":"alice","type":"oauth","label":"…","credentials":{"access_token":"…","refresh_token":"…","expires_at":"…"}}
//
// Platform and id may be left out and given at the import.
func isPlain(o object) bool { return o.isObject("credentials") }

func readPlain(o object, l *Login) *Error {
	if kind := o.text("type"); kind != "" && kind != "oauth" {
		return &Error{Reason: `type: want "oauth"`, kind: ErrNoLogin}
	}
	l.Platform, l.ID, l.Label = o.text("platform"), o.text("id"), o.text("label")
	l.NeedsID = l.ID == ""
	if l.Platform != "" {
		checkKey(o, "platform", l.Platform, "x")
	}
	if l.ID != "" {
		checkKey(o, "id", "x", l.ID)
	}
	if o.has("if_version") {
		l.IfVersion = new(account.Version)
		if json.Unmarshal(o.fields["if_version"], l.IfVersion) != nil || *l.IfVersion < 0 {
			o.wrong("if_version", "want a whole number")
		}
	}
	c, err := account.DecodeCredentials(o.fields["credentials"])
	if err != nil {
		return &Error{Reason: err.Error()}
	}
	if c.ExpiresAt.IsZero() {
		c.ExpiresAt = claimsOf(c.AccessToken).expiry()
	}
	l.Credentials = c
	return usable(l)
}

// checkKey notes what is wrong with a part of a key.
func checkKey(o object, name, platform, id string) {
	_, err := account.NewKey(platform, id)
	if e, ok := errors.AsType[*account.KeyError](err); ok {
		o.wrong(name, e.Reason)
	}
}
