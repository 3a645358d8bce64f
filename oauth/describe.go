package oauth

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// maxToken bounds the tokens that are looked into and maxClaim what is taken
// out of them, in bytes.
const (
	maxToken = 64 << 10
	maxClaim = 4 << 10
)

// The claims that hold what OpenAI's callers need.
const (
	openaiAuth    = "https://api.openai.com/auth"
	openaiProfile = "https://api.openai.com/profile"
)

// Describe implements [refresh.Endpoint]. No signature is checked: what the
// tokens say is used as a description and grants nothing. A claim that is
// there replaces the extra field of its name, one that is missing leaves it.
func (c *Client) Describe(_ string, cred account.Credentials) account.Credentials {
	return describe(cred)
}

func describe(cred account.Credentials) account.Credentials {
	access := claimsOf(cred.AccessToken)
	if cred.ExpiresAt.IsZero() {
		cred.ExpiresAt = access.expiry()
	}
	found := account.Extra{}
	// The id token may be from an older answer than the access token, which
	// comes last and wins.
	for _, c := range []claims{claimsOf(cred.IDToken), access} {
		auth, profile := c.object(openaiAuth), c.object(openaiProfile)
		set(found, "email", profile.text("email"))
		set(found, "email", c.text("email"))
		set(found, "chatgpt_account_id", auth.text("chatgpt_account_id"))
		set(found, "chatgpt_user_id", auth.text("user_id"))
		set(found, "chatgpt_user_id", auth.text("chatgpt_user_id"))
		set(found, "plan_type", auth.text("chatgpt_plan_type"))
	}
	if len(found) > 0 {
		extra := make(account.Extra, len(cred.Extra)+len(found))
		maps.Copy(extra, cred.Extra)
		maps.Copy(extra, found)
		cred.Extra = extra
	}
	return cred
}

// claims are what a JWT says; nil where a token is none.
type claims map[string]json.RawMessage

// claimsOf reads the payload of a JWT without checking its signature.
func claimsOf(token account.Secret) claims {
	text := token.Reveal()
	if len(text) > maxToken {
		return nil
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return nil
	}
	var c claims
	if json.Unmarshal(payload, &c) != nil {
		return nil
	}
	return c
}

func (c claims) text(name string) string { return account.Extra(c).Text(name) }

func (c claims) object(name string) claims {
	var m claims
	if json.Unmarshal(c[name], &m) != nil {
		return nil
	}
	return m
}

// expiry returns exp, or zero where it is absent or no time.
func (c claims) expiry() time.Time {
	n, ok := number(strings.Trim(string(c["exp"]), `"`))
	if !ok || n <= 0 || n > 253402300799 { // the end of the year 9999
		return time.Time{}
	}
	return time.UnixMilli(int64(n * 1000)).UTC()
}
