package account

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Credentials are what an account signs in with, in the clear: they exist in
// memory only. At rest they are the sealed form of [Credentials.Encode].
type Credentials struct {
	AccessToken  Secret
	RefreshToken Secret
	IDToken      Secret
	TokenType    string    // as the endpoint gave it; "" means Bearer
	Scope        string    // as the endpoint gave it
	ExpiresAt    time.Time // when the access token ends; zero where unknown
	ClientID     string    // the account's own; wins over the provider's
	ClientSecret Secret    // the account's own; wins over the provider's
	ProxyURL     Secret    // the account's own path to the endpoint; may hold a password
	Extra        Extra     // every other field, kept as it came
}

// Extra holds the fields of a login that tokenbus itself has no use for, as
// raw JSON values. They may be secrets: printing an Extra shows names alone.
type Extra map[string]json.RawMessage

func (e Extra) names() string { return fmt.Sprint(slices.Sorted(maps.Keys(e))) }

func (e Extra) String() string { return e.names() }

// Format implements [fmt.Formatter]: every verb prints the field names.
func (e Extra) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(e.names())) }

// LogValue implements [slog.LogValuer].
func (e Extra) LogValue() slog.Value { return slog.StringValue(e.names()) }

// Text returns the string value of a field, or "" where it is absent or no
// string.
func (e Extra) Text(name string) string {
	var s string
	if json.Unmarshal(e[name], &s) != nil {
		return ""
	}
	return s
}

// SetText sets a field to a string value.
func (e Extra) SetText(name, value string) {
	raw, _ := json.Marshal(value) // a string always marshals
	e[name] = raw
}

// Encode returns the credentials as the JSON object that accounts.put takes and
// that [DecodeCredentials] always reads again: an expiry outside the years that
// it takes is moved to their edge.
// The result is a secret in the clear: it is meant for sealing at once.
func (c Credentials) Encode() []byte {
	m := make(map[string]json.RawMessage, len(c.Extra)+9)
	maps.Copy(m, c.Extra)
	set := func(name, value string) {
		delete(m, name)
		if value != "" {
			Extra(m).SetText(name, value)
		}
	}
	set("access_token", c.AccessToken.Reveal())
	set("refresh_token", c.RefreshToken.Reveal())
	set("id_token", c.IDToken.Reveal())
	set("token_type", c.TokenType)
	set("scope", c.Scope)
	set("client_id", c.ClientID)
	set("client_secret", c.ClientSecret.Reveal())
	set("proxy_url", c.ProxyURL.Reveal())
	set("expires_at", "")
	if !c.ExpiresAt.IsZero() {
		set("expires_at", clampTime(c.ExpiresAt).Format(time.RFC3339Nano))
	}
	out, err := json.Marshal(m)
	if err != nil {
		// Only an Extra that was not built from valid JSON can do this.
		panic("account: extra field is not JSON: " + err.Error())
	}
	return out
}

// clampTime moves t into what ParseTime takes.
func clampTime(t time.Time) time.Time {
	t = t.UTC()
	switch {
	case t.Year() < 1970:
		return time.Unix(0, 0).UTC()
	case t.Year() > 9999:
		return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	}
	return t
}

// FieldError names the field of a credentials object that is wrong, without
// its value.
type FieldError struct {
	Field  string
	Reason string
}

func (e *FieldError) Error() string { return "credentials." + e.Field + ": " + e.Reason }

// DecodeCredentials reads the JSON object that accounts.put takes and that
// [Credentials.Encode] writes. Fields it doesn't know become Extra; null is
// the same as absent. An error never quotes a value; one that concerns a
// field is a [*FieldError].
func DecodeCredentials(data []byte) (Credentials, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(data, &m); err != nil || m == nil {
		return Credentials{}, &FieldError{"", "want a JSON object"}
	}
	maps.DeleteFunc(m, func(_ string, v json.RawMessage) bool { return bytes.Equal(v, []byte("null")) })
	var first error
	text := func(name string) string {
		raw, ok := m[name]
		if !ok {
			return ""
		}
		delete(m, name)
		var s string
		if err := json.Unmarshal(raw, &s); err != nil && first == nil {
			first = &FieldError{name, "want a string"}
		}
		return s
	}
	c := Credentials{
		AccessToken:  NewSecret(text("access_token")),
		RefreshToken: NewSecret(text("refresh_token")),
		IDToken:      NewSecret(text("id_token")),
		TokenType:    text("token_type"),
		Scope:        text("scope"),
		ClientID:     text("client_id"),
		ClientSecret: NewSecret(text("client_secret")),
		ProxyURL:     NewSecret(text("proxy_url")),
	}
	if raw, ok := m["expires_at"]; ok {
		delete(m, "expires_at")
		t, err := ParseTime(raw)
		if err != nil && first == nil {
			first = &FieldError{"expires_at", err.Error()}
		}
		c.ExpiresAt = t
	}
	if first != nil {
		return Credentials{}, first
	}
	if len(m) > 0 {
		c.Extra = m
	}
	return c, nil
}

// maxUnixSeconds is the largest number that is read as seconds; above it a
// number is milliseconds, as the login files of several programs have it.
const maxUnixSeconds = 1e11

// ParseTime reads a JSON value that is a point in time: RFC 3339 text, or Unix
// seconds as a number or as text; above 1e11 the number is milliseconds. null,
// "" and 0 are the zero time. The result is UTC, rounded down to the
// millisecond.
func ParseTime(raw json.RawMessage) (time.Time, error) {
	s := strings.TrimSpace(string(raw))
	if s == "" || s == "null" {
		return time.Time{}, nil
	}
	if s[0] == '"' {
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return time.Time{}, errTime
		}
		if s = strings.TrimSpace(text); s == "" {
			return time.Time{}, nil
		}
		if t, err := time.Parse(time.RFC3339, s); err == nil {
			if y := t.UTC().Year(); y < 1970 || y > 9999 {
				return time.Time{}, errTime
			}
			return t.UTC().Truncate(time.Millisecond), nil
		}
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n >= 0 && n < 1e14) {
		return time.Time{}, errTime
	}
	switch {
	case n == 0:
		return time.Time{}, nil
	case n > maxUnixSeconds:
		return time.UnixMilli(int64(n)).UTC(), nil
	default:
		return time.UnixMilli(int64(n * 1000)).UTC(), nil
	}
}

var errTime = fmt.Errorf("want RFC 3339 or Unix seconds")

// Merge returns c with what an answer of the token endpoint brought: every
// field that the answer has replaces c's, every field that it lacks is kept
// (RFC 6749 §6: no new refresh token means that the old one stays). The expiry
// is the exception: it belongs to the access token and goes with it.
func (c Credentials) Merge(answer Credentials) Credentials {
	out := c
	if !answer.AccessToken.IsZero() {
		out.AccessToken = answer.AccessToken
		out.ExpiresAt = answer.ExpiresAt
	}
	if !answer.RefreshToken.IsZero() {
		out.RefreshToken = answer.RefreshToken
	}
	if !answer.IDToken.IsZero() {
		out.IDToken = answer.IDToken
	}
	if answer.TokenType != "" {
		out.TokenType = answer.TokenType
	}
	if answer.Scope != "" {
		out.Scope = answer.Scope
	}
	if len(answer.Extra) > 0 {
		out.Extra = maps.Clone(c.Extra)
		if out.Extra == nil {
			out.Extra = Extra{}
		}
		maps.Copy(out.Extra, answer.Extra)
	}
	return out
}

// Equal reports whether c and d are the same login to the last field.
func (c Credentials) Equal(d Credentials) bool { return bytes.Equal(c.Encode(), d.Encode()) }
