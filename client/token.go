package client

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// SourceClient is the source of a token that the client had in memory.
const SourceClient events.Source = "client"

// Token is a living access token. Printing, logging or marshalling one doesn't
// show the secret: [Token.AccessToken], [Token.SetAuthHeader] and
// [Token.OAuth2] are the ways to it.
type Token struct {
	Key       account.Key
	Version   account.Version
	TokenType string        // as the endpoint gave it; "" means Bearer
	ExpiresAt time.Time     // zero where unknown
	Source    events.Source // SourceClient, or where the worker found it
	// Extra are fields of the account that callers need beside the token, such
	// as chatgpt_account_id; see [account.Extra.Text].
	Extra account.Extra

	access account.Secret
}

// AccessToken returns the token itself, a secret.
func (t Token) AccessToken() string { return t.access.Reveal() }

// Type returns the token type for an Authorization header: "Bearer" where the
// endpoint gave none or spells it otherwise.
func (t Token) Type() string {
	if t.TokenType == "" || strings.EqualFold(t.TokenType, "bearer") {
		return "Bearer"
	}
	return t.TokenType
}

// SetAuthHeader sets the request's Authorization header.
func (t Token) SetAuthHeader(r *http.Request) {
	r.Header.Set("Authorization", t.Type()+" "+t.AccessToken())
}

// OAuth2 returns the token as golang.org/x/oauth2 has it, which prints its
// secret. Its Extra method gives the extra fields.
func (t Token) OAuth2() *oauth2.Token {
	extra := make(map[string]any, len(t.Extra))
	for name, raw := range t.Extra {
		var v any
		if json.Unmarshal(raw, &v) == nil {
			extra[name] = v
		}
	}
	return (&oauth2.Token{AccessToken: t.AccessToken(), TokenType: t.Type(), Expiry: t.ExpiresAt}).WithExtra(extra)
}

func (t Token) String() string {
	s := fmt.Sprintf("token of %s, version %d", t.Key, t.Version)
	if !t.ExpiresAt.IsZero() {
		s += ", until " + t.ExpiresAt.UTC().Format(time.RFC3339)
	}
	return s
}

// Format implements [fmt.Formatter]: every verb prints what String returns.
func (t Token) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(t.String())) }

// LogValue implements [slog.LogValuer].
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }
