package account_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"pgregory.net/rapid"
)

func drawSecret(t *rapid.T, name string) account.Secret {
	return account.NewSecret(rapid.String().Draw(t, name))
}

func drawExtra(t *rapid.T) account.Extra {
	values := rapid.SampledFrom([]string{`"text"`, `1`, `1.5e3`, `true`, `{}`, `{"a":[1,"b",null]}`, `[]`, `"<&>"`, `"\u0000é"`, `""`})
	names := rapid.SampledFrom([]string{"email", "account_uuid", "a.b", "", "é", "Access_Token", "expiresAt"})
	e := account.Extra{}
	for name, value := range rapid.MapOfN(names, values, 0, 5).Draw(t, "extra") {
		e[name] = json.RawMessage(value)
	}
	if len(e) == 0 {
		return nil
	}
	return e
}

func drawCredentials(t *rapid.T) account.Credentials {
	var expires time.Time
	if rapid.Bool().Draw(t, "has expiry") {
		expires = time.UnixMilli(rapid.Int64Range(0, 253402300799999).Draw(t, "expiry")).UTC()
	}
	return account.Credentials{
		AccessToken: drawSecret(t, "access"), RefreshToken: drawSecret(t, "refresh"), IDToken: drawSecret(t, "id"),
		TokenType: rapid.String().Draw(t, "type"), Scope: rapid.String().Draw(t, "scope"), ExpiresAt: expires,
		ClientID: rapid.String().Draw(t, "client"), ClientSecret: drawSecret(t, "client secret"), ProxyURL: drawSecret(t, "proxy"),
		Extra: drawExtra(t),
	}
}

// sameFields compares field by field, so as not to rest on Encode.
func sameFields(a, b account.Credentials) bool {
	sameJSON := func(x, y json.RawMessage) bool {
		var u, v any
		return json.Unmarshal(x, &u) == nil && json.Unmarshal(y, &v) == nil && fmt.Sprint(u) == fmt.Sprint(v)
	}
	return a.AccessToken.Equal(b.AccessToken) && a.RefreshToken.Equal(b.RefreshToken) && a.IDToken.Equal(b.IDToken) &&
		a.TokenType == b.TokenType && a.Scope == b.Scope && a.ExpiresAt.Equal(b.ExpiresAt) && a.ClientID == b.ClientID &&
		a.ClientSecret.Equal(b.ClientSecret) && a.ProxyURL.Equal(b.ProxyURL) &&
		maps.EqualFunc(a.Extra, b.Extra, sameJSON)
}

func TestCredentialsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCredentials(t)
		encoded := c.Encode()
		d, err := account.DecodeCredentials(encoded)
		if err != nil {
			t.Fatalf("decode %s: %v", encoded, err)
		}
		if !sameFields(c, d) || !c.Equal(d) || !bytes.Equal(encoded, d.Encode()) {
			t.Fatalf("%s came back as %s", encoded, d.Encode())
		}
	})
}

// TestEncodeAlwaysDecodes: an answer's expires_in may lead anywhere, and what
// is sealed must be readable again.
func TestEncodeAlwaysDecodes(t *testing.T) {
	for name, tc := range map[string]struct{ expires, want time.Time }{
		"before 1970":  {time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(0, 0)},
		"after 9999":   {time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)},
		"other zone":   {time.Date(2026, 1, 1, 12, 0, 0, 0, time.FixedZone("", 3600)), time.Date(2026, 1, 1, 11, 0, 0, 0, time.UTC)},
		"microseconds": {time.Date(2026, 1, 1, 0, 0, 0, 1999999, time.UTC), time.Date(2026, 1, 1, 0, 0, 0, 1000000, time.UTC)},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := account.DecodeCredentials(account.Credentials{ExpiresAt: tc.expires}.Encode())
			if err != nil || !d.ExpiresAt.Equal(tc.want) {
				t.Errorf("%v, %v; want %v", d.ExpiresAt, err, tc.want)
			}
		})
	}
}

func TestEncodePutsKnownFieldsOverExtra(t *testing.T) {
	c := account.Credentials{AccessToken: account.NewSecret("a"), Extra: account.Extra{
		"access_token": json.RawMessage(`"stray"`), "refresh_token": json.RawMessage(`"stray"`), "expires_at": json.RawMessage(`1`),
	}}
	if got := string(c.Encode()); got != `{"access_token":"a"}` {
		t.Errorf("Encode = %s", got)
	}
	if len(c.Extra) != 3 {
		t.Error("Encode changed the Extra")
	}
}

func TestDecodeCredentials(t *testing.T) {
	c, err := account.DecodeCredentials([]byte(`{"access_token":"a","refresh_token":null,"expires_at":"1800000000","scope":"x y","email":null,"account_uuid":"u","n":[1]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := account.Credentials{
		AccessToken: account.NewSecret("a"), Scope: "x y", ExpiresAt: time.Unix(1800000000, 0),
		Extra: account.Extra{"account_uuid": json.RawMessage(`"u"`), "n": json.RawMessage(`[1]`)},
	}
	if !sameFields(c, want) {
		t.Errorf("decoded %s, want %s", c.Encode(), want.Encode())
	}
	if c, err := account.DecodeCredentials([]byte(`{}`)); err != nil || c.Extra != nil {
		t.Errorf("{} = %+v, %v", c, err)
	}
}

func TestDecodeCredentialsNamesTheField(t *testing.T) {
	for name, tc := range map[string]struct{ body, field string }{
		"empty":           {``, ""},
		"no JSON":         {`sk-very-secret`, ""},
		"cut short":       {`{"access_token":"sk-very-secret`, ""},
		"array":           {`["sk-very-secret"]`, ""},
		"text":            {`"sk-very-secret"`, ""},
		"null":            {`null`, ""},
		"two objects":     {`{}{}`, ""},
		"access token":    {`{"access_token":["sk-very-secret"]}`, "access_token"},
		"refresh token":   {`{"refresh_token":1}`, "refresh_token"},
		"id token":        {`{"id_token":{"a":"sk-very-secret"}}`, "id_token"},
		"token type":      {`{"token_type":true}`, "token_type"},
		"scope as a list": {`{"scope":["a"]}`, "scope"},
		"client id":       {`{"client_id":1}`, "client_id"},
		"client secret":   {`{"client_secret":1}`, "client_secret"},
		"proxy":           {`{"proxy_url":1}`, "proxy_url"},
		"expiry":          {`{"expires_at":"sk-very-secret"}`, "expires_at"},
		"negative expiry": {`{"expires_at":-1}`, "expires_at"},
		"the first one":   {`{"scope":1,"access_token":1}`, "access_token"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := account.DecodeCredentials([]byte(tc.body))
			e, ok := errors.AsType[*account.FieldError](err)
			if !ok || e.Field != tc.field {
				t.Fatalf("error %v, want a FieldError of %q", err, tc.field)
			}
			if leaks(err.Error()) || !sameFields(c, account.Credentials{}) {
				t.Errorf("the error quotes the value, or something was decoded: %v", err)
			}
		})
	}
}

func TestParseTime(t *testing.T) {
	ms := time.UnixMilli
	for name, tc := range map[string]struct {
		raw  string
		want time.Time // zero with ok: absent
		ok   bool
	}{
		"nothing":                     {``, time.Time{}, true},
		"null":                        {`null`, time.Time{}, true},
		"empty text":                  {`""`, time.Time{}, true},
		"blank text":                  {`"  "`, time.Time{}, true},
		"zero":                        {`0`, time.Time{}, true},
		"zero as text":                {`"0"`, time.Time{}, true},
		"zero with a point":           {`0.0`, time.Time{}, true},
		"seconds":                     {`1800000000`, ms(1800000000000), true},
		"seconds as text":             {`"1800000000"`, ms(1800000000000), true},
		"seconds, spaces around":      {` "  1800000000 " `, ms(1800000000000), true},
		"fraction, down":              {`1800000000.9999`, ms(1800000000999), true},
		"exponent":                    {`1.8e9`, ms(1800000000000), true},
		"one second":                  {`1`, ms(1000), true},
		"the largest seconds":         {`100000000000`, ms(100000000000000), true},
		"the smallest milliseconds":   {`100000000001`, ms(100000000001), true},
		"milliseconds":                {`1800000000123`, ms(1800000000123), true},
		"milliseconds as text":        {`"1800000000123"`, ms(1800000000123), true},
		"fraction of ms, down":        {`1800000000123.9`, ms(1800000000123), true},
		"RFC 3339":                    {`"2026-01-02T03:04:05Z"`, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), true},
		"RFC 3339 with zone":          {`"2026-01-02T03:04:05+02:00"`, time.Date(2026, 1, 2, 1, 4, 5, 0, time.UTC), true},
		"RFC 3339, down":              {`"2026-01-02T03:04:05.999999999Z"`, time.Date(2026, 1, 2, 3, 4, 5, 999000000, time.UTC), true},
		"RFC 3339, the epoch":         {`"1970-01-01T00:00:00Z"`, ms(0), true},
		"RFC 3339, before the epoch":  {`"1969-12-31T23:59:59Z"`, time.Time{}, false},
		"RFC 3339, year 1":            {`"0001-01-01T00:00:00Z"`, time.Time{}, false},
		"RFC 3339, year 10000 in UTC": {`"9999-12-31T23:59:59-23:00"`, time.Time{}, false},
		"negative":                    {`-1`, time.Time{}, false},
		"negative as text":            {`"-1800000000"`, time.Time{}, false},
		"microseconds":                {`1800000000000000`, time.Time{}, false},
		"overflows a float":           {`1e400`, time.Time{}, false},
		"not a number":                {`"NaN"`, time.Time{}, false},
		"infinite":                    {`"Infinity"`, time.Time{}, false},
		"date alone":                  {`"2026-01-02"`, time.Time{}, false},
		"no zone":                     {`"2026-01-02T03:04:05"`, time.Time{}, false},
		"month 13":                    {`"2026-13-02T03:04:05Z"`, time.Time{}, false},
		"words":                       {`"tomorrow"`, time.Time{}, false},
		"true":                        {`true`, time.Time{}, false},
		"object":                      {`{}`, time.Time{}, false},
		"array":                       {`[1]`, time.Time{}, false},
		"no JSON":                     {`"cut`, time.Time{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := account.ParseTime(json.RawMessage(tc.raw))
			if (err == nil) != tc.ok || !got.Equal(tc.want) || got.IsZero() != tc.want.IsZero() || got.Location() != time.UTC {
				t.Errorf("ParseTime(%s) = %v, %v; want %v", tc.raw, got, err, tc.want)
			}
		})
	}
}

func TestMergeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, answer := drawCredentials(t), drawCredentials(t)
		before, given := old.Encode(), answer.Encode()
		got := old.Merge(answer)

		if !bytes.Equal(before, old.Encode()) || !bytes.Equal(given, answer.Encode()) {
			t.Fatal("Merge changed its arguments")
		}
		pick := func(name string, got, old, answer account.Secret) {
			want := answer
			if answer.IsZero() {
				want = old
			}
			if !got.Equal(want) {
				t.Fatalf("%s is neither the answer's nor kept", name)
			}
		}
		pick("access_token", got.AccessToken, old.AccessToken, answer.AccessToken)
		pick("refresh_token", got.RefreshToken, old.RefreshToken, answer.RefreshToken)
		pick("id_token", got.IDToken, old.IDToken, answer.IDToken)
		pick("token_type", account.NewSecret(got.TokenType), account.NewSecret(old.TokenType), account.NewSecret(answer.TokenType))
		pick("scope", account.NewSecret(got.Scope), account.NewSecret(old.Scope), account.NewSecret(answer.Scope))
		wantExpiry := answer.ExpiresAt
		if answer.AccessToken.IsZero() {
			wantExpiry = old.ExpiresAt
		}
		if !got.ExpiresAt.Equal(wantExpiry) {
			t.Fatal("the expiry doesn't go with the access token")
		}
		if got.ClientID != old.ClientID || !got.ClientSecret.Equal(old.ClientSecret) || !got.ProxyURL.Equal(old.ProxyURL) {
			t.Fatal("an answer changed the account's own client or proxy")
		}
		for name := range got.Extra {
			want, ok := answer.Extra[name]
			if !ok {
				want = old.Extra[name]
			}
			if !bytes.Equal(got.Extra[name], want) {
				t.Fatalf("extra field %q is neither the answer's nor kept", name)
			}
		}
		for _, e := range []account.Extra{old.Extra, answer.Extra} {
			for name := range e {
				if got.Extra[name] == nil {
					t.Fatalf("extra field %q is lost", name)
				}
			}
		}
		if !got.Merge(answer).Equal(got) {
			t.Fatal("merging the same answer again changes something")
		}
		if !old.Merge(account.Credentials{}).Equal(old) {
			t.Fatal("an empty answer changes something")
		}
	})
}

func TestExtraText(t *testing.T) {
	e := account.Extra{"n": json.RawMessage(`1`)}
	e.SetText("s", `a "quoted" <text>`)
	if e.Text("s") != `a "quoted" <text>` || e.Text("n") != "" || e.Text("none") != "" || account.Extra(nil).Text("x") != "" {
		t.Errorf("Text = %q, %q", e.Text("s"), e.Text("n"))
	}
	if names := slices.Sorted(maps.Keys(e)); fmt.Sprint(e) != fmt.Sprint(names) {
		t.Errorf("prints %v, want the names %v", e, names)
	}
}

func TestCheckProxyURL(t *testing.T) {
	for text, ok := range map[string]bool{
		"": true, "http://proxy:3128": true, "https://u:p@proxy": true, "socks5://[::1]:1080": true, "socks5h://proxy:1080": true,
		"proxy:3128": false, "//proxy": false, "ftp://proxy": false, "http://": false, "http://:80": false, "socks4://proxy": false,
		"http://sk-very-secret@%zz": false, "http://u:sk-very-secret@": false, "\x00": false,
	} {
		err := account.CheckProxyURL(text)
		if (err == nil) != ok {
			t.Errorf("CheckProxyURL(%q) = %v", text, err)
		}
		if err != nil && (leaks(err.Error()) || strings.Contains(err.Error(), "proxy:")) {
			t.Errorf("the error quotes the URL: %v", err)
		}
	}
}

func FuzzDecodeCredentials(f *testing.F) {
	for _, s := range []string{`{}`, `null`, `{"access_token":"a","expires_at":1800000000,"x":{"y":[1,2]}}`, `{"expires_at":"2026-01-02T03:04:05Z"}`, `{"access_token":1}`, `[`, `{"a":"\ud800"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := account.DecodeCredentials(data)
		if err != nil {
			if _, ok := errors.AsType[*account.FieldError](err); !ok {
				t.Fatalf("unexpected error %v", err)
			}
			return
		}
		d, err := account.DecodeCredentials(c.Encode())
		if err != nil || !c.Equal(d) {
			t.Fatalf("%s doesn't come back: %v", c.Encode(), err)
		}
	})
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{`null`, `0`, `1800000000`, `"1800000000123"`, `"2026-01-02T03:04:05.9+02:00"`, `"0x1p40"`, `1e13`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		v, err := account.ParseTime(raw)
		if err != nil {
			if !v.IsZero() {
				t.Fatalf("%v with %v", v, err)
			}
			return
		}
		if !v.IsZero() && (v.Year() < 1970 || v.Year() > 9999 || v.Nanosecond()%1e6 != 0) {
			t.Fatalf("ParseTime = %v", v)
		}
	})
}
