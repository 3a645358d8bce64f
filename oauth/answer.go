package oauth

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

// maxLifetime is above what any access token is given; a longer one is a
// mistake and says nothing.
const maxLifetime = 10 * 365 * 24 * time.Hour

// body is an answer's body, as far as it can be read.
type body struct {
	// fields are the top level of the JSON object; of names that come twice
	// the last. Of an object that is cut they are the ones that came whole.
	fields map[string]json.RawMessage
	whole  bool // the object ended
	page   bool // it is a web page
	empty  bool
}

// readBody reads the body of an answer. It never fails: a body that is cut, or
// followed by garbage, gives the fields that can be read.
func readBody(raw refresh.RawAnswer) body {
	text := bytes.TrimSpace(bytes.TrimPrefix(raw.Body, []byte("\xef\xbb\xbf")))
	contentType := strings.ToLower(raw.Header["Content-Type"])
	switch {
	case len(text) == 0:
		return body{empty: true}
	case text[0] == '{':
		return readObject(text)
	case text[0] == '<', strings.HasPrefix(contentType, "text/html"), strings.HasPrefix(contentType, "application/xhtml"):
		return body{page: true}
	case strings.HasPrefix(contentType, "application/x-www-form-urlencoded"), strings.HasPrefix(contentType, "text/plain"):
		return readForm(string(text), raw.Truncated)
	}
	return body{}
}

func readObject(text []byte) body {
	b := body{fields: map[string]json.RawMessage{}}
	dec := json.NewDecoder(bytes.NewReader(text))
	if _, err := dec.Token(); err != nil {
		return b
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return b
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return b
		}
		if dec.InputOffset() == int64(len(text)) && value[0] != '"' {
			return b // a number's end may be missing
		}
		b.fields[name.(string)] = value // a key is always a string
	}
	_, err := dec.Token()
	b.whole = err == nil
	return b
}

// readForm reads a form-encoded answer, which some endpoints give whatever they
// are asked for.
func readForm(text string, cut bool) body {
	b := body{fields: map[string]json.RawMessage{}, whole: !cut}
	if cut { // the last value may lack its end
		text = text[:max(strings.LastIndexByte(text, '&'), 0)]
	}
	values, _ := url.ParseQuery(text) // gives what it can read
	for name := range values {
		account.Extra(b.fields).SetText(name, values.Get(name))
	}
	return b
}

// text returns the string in a field, "" where it is absent or something else.
func (b body) text(name string) string { return account.Extra(b.fields).Text(name) }

// headerText returns the string in a field if it can stand in an HTTP header, else
// "": whoever is served a line break would send a header of the endpoint's.
func (b body) headerText(name string) string {
	s := b.text(name)
	if strings.ContainsFunc(s, unicode.IsControl) {
		return ""
	}
	return s
}

// object returns the object in a field, or nil.
func (b body) object(name string) account.Extra {
	var m account.Extra
	if json.Unmarshal(b.fields[name], &m) != nil {
		return nil
	}
	return m
}

// time returns the point in time in a field, or zero.
func (b body) time(name string) time.Time {
	t, err := account.ParseTime(b.fields[name])
	if err != nil {
		return time.Time{}
	}
	return t
}

// seconds returns the duration in a field: a number of seconds, also as text.
// What is no lifetime that a token can have is 0.
func (b body) seconds(name string) time.Duration {
	text := string(b.fields[name])
	if s := b.text(name); s != "" {
		text = strings.TrimSpace(s)
	}
	n, ok := number(text)
	if !ok || n <= 0 || n > maxLifetime.Seconds() {
		return 0
	}
	return time.Duration(n * float64(time.Second))
}

// number reads a number as JSON has it. Go has more: hexadecimal ones, and words.
func number(text string) (float64, bool) {
	if strings.Trim(text, "+-.0123456789eE") != "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(text, 64)
	return n, err == nil
}

// read fills in the parts of the verdict that an answer brings: each field on
// its own, so that an odd one costs none of the others.
func (d Definition) read(b body, receivedAt time.Time, v *rotation.Verdict) {
	cred := account.Credentials{
		AccessToken:  account.NewSecret(b.headerText("access_token")),
		RefreshToken: account.NewSecret(b.text("refresh_token")),
		IDToken:      account.NewSecret(b.text("id_token")),
		TokenType:    b.headerText("token_type"),
		Scope:        b.text("scope"),
		Extra:        d.extra(b),
	}
	v.Lifetime = b.seconds("expires_in")
	v.EarliestRefreshAt = b.time("earliest_refresh_at")
	if most := receivedAt.Add(backoff.MaxRetryAfter); v.EarliestRefreshAt.After(most) {
		v.EarliestRefreshAt = most // no answer blocks an account for ever
	}
	if !cred.AccessToken.IsZero() {
		if v.Lifetime > 0 {
			cred.ExpiresAt = receivedAt.Add(v.Lifetime).UTC().Truncate(time.Millisecond)
		} else if at := b.time("expires_at"); at.After(receivedAt) && at.Before(receivedAt.Add(maxLifetime)) {
			cred.ExpiresAt = at
		}
	}
	v.Credentials = describe(cred)
}

// extra returns the answer's fields that callers need: those that the
// definition names, and the ids that some answers hold in objects.
func (d Definition) extra(b body) account.Extra {
	out := account.Extra{}
	for _, name := range d.ExtraFields {
		if raw := b.fields[name]; len(raw) > 0 && len(raw) <= maxClaim && !bytes.Equal(raw, []byte("null")) {
			out[name] = raw
		}
	}
	owner, organization := b.object("account"), b.object("organization")
	set(out, "account_uuid", owner.Text("uuid"))
	set(out, "email", owner.Text("email_address"))
	set(out, "organization_uuid", organization.Text("uuid"))
	if len(out) == 0 {
		return nil
	}
	return out
}

// set sets a field where there is a value that can be one.
func set(e account.Extra, name, value string) {
	if value != "" && len(value) <= maxClaim {
		e.SetText(name, value)
	}
}
