package loginfile_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/loginfile"
)

// jwt makes a token that says claims; its signature is none.
func jwt(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(claims)) + ".c2ln"
}

func auth(claims string) string { return `"https://api.openai.com/auth":{` + claims + `}` }

var (
	codexID     = jwt(`{"email":"a@example.com",` + auth(`"chatgpt_account_id":"ws-1","chatgpt_user_id":"user-1","chatgpt_plan_type":"plus"`) + `}`)
	codexAccess = jwt(`{"exp":1800000000,` + auth(`"chatgpt_account_id":"ws-1","chatgpt_user_id":"user-1","chatgpt_plan_type":"pro"`) + `}`)
	googleID    = jwt(`{"sub":"1234567890","email":"g@example.com"}`)
)

func codex(tokens string) string {
	return `{"auth_mode":"chatgpt","OPENAI_API_KEY":null,"tokens":` + tokens + `}`
}

func fullCodex(user, workspace string) string {
	id := jwt(`{` + auth(`"chatgpt_user_id":"`+user+`"`) + `}`)
	return codex(`{"id_token":"` + id + `","access_token":"at","refresh_token":"rt","account_id":"` + workspace + `"}`)
}

const claude = `{"claudeAiOauth":{"accessToken":"sk-ant-oat01-EX","refreshToken":"sk-ant-ort01-EX","expiresAt":1800000000000,"scopes":["user:inference","user:profile"],"subscriptionType":"max"}}`

const claudeAccount = `{"numStartups":3,"oauthAccount":{"accountUuid":"u-1","organizationUuid":"o-1","emailAddress":"c@example.com"}}`

// want is a login as the tests write it down.
type want struct {
	key, label      string // key is "platform." where the id is needed
	access, refresh string
	expires         string
	notes           string            // codes, space-separated
	extra           map[string]string // nil: not looked at
	check           func(l loginfile.Login) bool
}

func (w want) compare(t *testing.T, l loginfile.Login) {
	t.Helper()
	if got := l.Platform + "." + l.ID; got != w.key || l.NeedsID != strings.HasSuffix(w.key, ".") {
		t.Errorf("key %s, needs id: %t; want %s", got, l.NeedsID, w.key)
	}
	if l.Type != "oauth" {
		t.Errorf("type %q", l.Type)
	}
	if l.Label != w.label {
		t.Errorf("label %q, want %q", l.Label, w.label)
	}
	c := l.Credentials
	if c.AccessToken.Reveal() != w.access || c.RefreshToken.Reveal() != w.refresh {
		t.Errorf("tokens %q and %q, want %q and %q", c.AccessToken.Reveal(), c.RefreshToken.Reveal(), w.access, w.refresh)
	}
	expires := ""
	if !c.ExpiresAt.IsZero() {
		expires = c.ExpiresAt.Format(time.RFC3339)
	}
	if expires != w.expires {
		t.Errorf("expires %q, want %q", expires, w.expires)
	}
	var codes []string
	for _, n := range l.Notes {
		codes = append(codes, n.Code)
	}
	if got := strings.Join(codes, " "); got != w.notes {
		t.Errorf("notes %q, want %q", got, w.notes)
	}
	for name, v := range w.extra {
		if c.Extra.Text(name) != v {
			t.Errorf("extra %s is %q, want %q", name, c.Extra.Text(name), v)
		}
	}
	if w.check != nil && !w.check(l) {
		t.Error("check failed")
	}
}

const y2027 = "2027-01-15T08:00:00Z" // 1800000000

var recognized = []struct {
	name, format, file, account string
	want                        []want
}{
	{
		"codex", "codex", codex(`{"id_token":"` + codexID + `","access_token":"` + codexAccess + `","refresh_token":"rt_example","account_id":"ws-1"}`), "",
		[]want{{
			key: "openai.user-1__ws-1", label: "a@example.com", access: codexAccess, refresh: "rt_example", expires: y2027, notes: "two_writers",
			extra: map[string]string{"chatgpt_account_id": "ws-1", "chatgpt_user_id": "user-1", "plan_type": "pro", "email": "a@example.com"},
			check: func(l loginfile.Login) bool { return l.Credentials.IDToken.Reveal() == codexID },
		}},
	},
	{
		"codex, older, without auth_mode and id token", "codex", `{"OPENAI_API_KEY":null,"tokens":{"id_token":null,"access_token":"` + codexAccess + `","refresh_token":"r"},"last_refresh":"2026-01-02T03:04:05Z"}`, "",
		[]want{{key: "openai.user-1__ws-1", access: codexAccess, refresh: "r", expires: y2027, notes: "two_writers"}},
	},
	{
		"codex with tokens that name nobody", "codex", codex(`{"access_token":"opaque","refresh_token":"r","account_id":"ws-1"}`), "",
		[]want{{key: "openai.", access: "opaque", refresh: "r", notes: "two_writers"}},
	},
	{
		"codex without refresh token", "codex", codex(`{"access_token":"` + codexAccess + `","refresh_token":""}`), "",
		[]want{{key: "openai.user-1__ws-1", access: codexAccess, expires: y2027, notes: "no_refresh"}},
	},
	{
		"codex whose claim is the older user_id, behind a byte order mark", "codex",
		"\xef\xbb\xbf" + codex(`{"access_token":"`+jwt(`{`+auth(`"user_id":"user-9"`)+`,"https://api.openai.com/profile":{"email":"p@example.com"}}`)+`","refresh_token":"r","account_id":"ws-2"}`), "",
		[]want{{key: "openai.user-9__ws-2", label: "p@example.com", refresh: "r", notes: "two_writers",
			access: jwt(`{` + auth(`"user_id":"user-9"`) + `,"https://api.openai.com/profile":{"email":"p@example.com"}}`)}},
	},
	{
		"claude code", "claude-code", claude, claudeAccount,
		[]want{{
			key: "anthropic.u-1__o-1", label: "c@example.com", access: "sk-ant-oat01-EX", refresh: "sk-ant-ort01-EX", expires: y2027, notes: "account_file two_writers",
			extra: map[string]string{"account_uuid": "u-1", "organization_uuid": "o-1", "email": "c@example.com"},
			check: func(l loginfile.Login) bool { return l.Credentials.Scope == "user:inference user:profile" },
		}},
	},
	{
		"claude code without its account file", "claude-code", claude, "",
		[]want{{key: "anthropic.", access: "sk-ant-oat01-EX", refresh: "sk-ant-ort01-EX", expires: y2027, notes: "two_writers"}},
	},
	{
		"claude code with an account file of no login", "claude-code", claude, `{"oauthAccount":null}`,
		[]want{{key: "anthropic.", access: "sk-ant-oat01-EX", refresh: "sk-ant-ort01-EX", expires: y2027, notes: "two_writers"}},
	},
	{
		"claude code, only one of the two ids", "claude-code", claude, `{"oauthAccount":{"accountUuid":"u-1"}}`,
		[]want{{key: "anthropic.", access: "sk-ant-oat01-EX", refresh: "sk-ant-ort01-EX", expires: y2027, notes: "two_writers"}},
	},
	{
		"a setup token", "claude-code", `{"claudeAiOauth":{"accessToken":"sk-ant-oat01-EX","expiresAt":1800000000000,"scopes":["user:inference"]}}`, claudeAccount,
		[]want{{key: "anthropic.u-1__o-1", label: "c@example.com", access: "sk-ant-oat01-EX", expires: y2027, notes: "account_file setup_token"}},
	},
	{
		"gemini cli", "gemini-cli", `{"access_token":"ya29.EX","refresh_token":"1//EX","scope":"a b","token_type":"Bearer","id_token":"` + googleID + `","expiry_date":1800000000123}`, "",
		[]want{{
			key: "gemini.1234567890", label: "g@example.com", access: "ya29.EX", refresh: "1//EX", expires: y2027, notes: "shared client_secret",
			check: func(l loginfile.Login) bool {
				return l.Credentials.ExpiresAt.UnixMilli() == 1800000000123 && l.Credentials.TokenType == "Bearer" && l.Credentials.Scope == "a b"
			},
		}},
	},
	{
		"gemini cli without id token", "gemini-cli", `{"access_token":"ya29.EX","refresh_token":"1//EX","expiry_date":1800000000000}`, "",
		[]want{{key: "gemini.", access: "ya29.EX", refresh: "1//EX", expires: y2027, notes: "shared client_secret"}},
	},
	{
		"accounts.put", "tokenbus", `{"platform":"acme","id":"alice","type":"oauth","label":"Alice","if_version":0,"credentials":{"access_token":"a","refresh_token":"r","expires_at":"2027-01-15T08:00:00Z","tenant":"t"},"new":1}`, "",
		[]want{{
			key: "acme.alice", label: "Alice", access: "a", refresh: "r", expires: y2027, extra: map[string]string{"tenant": "t"},
			check: func(l loginfile.Login) bool { return l.IfVersion != nil && *l.IfVersion == 0 },
		}},
	},
	{
		"accounts.put without platform, id and type", "tokenbus", `{"credentials":{"refresh_token":"r","expires_at":1800000000}}`, "",
		[]want{{key: ".", refresh: "r", expires: y2027, check: func(l loginfile.Login) bool { return l.IfVersion == nil }}},
	},
	{
		"an array of accounts.put", "tokenbus", ` [{"platform":"acme","id":"a","credentials":{"access_token":"1"}},{"platform":"acme","id":"b","credentials":{"refresh_token":"2"}}]`, "",
		[]want{{key: "acme.a", access: "1", notes: "no_refresh"}, {key: "acme.b", refresh: "2"}},
	},
	{
		"cliproxyapi, codex", "cliproxyapi", `{"type":"codex","id_token":"` + codexID + `","access_token":"at","refresh_token":"rt","account_id":"ws-1","email":"x@example.com","expired":"2027-01-15T08:00:00Z","disabled":true}`, "",
		[]want{{key: "openai.user-1__ws-1", label: "x@example.com", access: "at", refresh: "rt", expires: y2027, notes: "paused two_writers"}},
	},
	{
		"cliproxyapi, claude", "cliproxyapi", `{"type":"claude","access_token":"at","refresh_token":"rt","email":"a@example.com","account_uuid":"u-1","organization_uuid":"o-1","expired":"2027-01-15T08:00:00Z","proxy_url":"socks5://u:p@127.0.0.1:1"}`, "",
		[]want{{
			key: "anthropic.u-1__o-1", label: "a@example.com", access: "at", refresh: "rt", expires: y2027, notes: "two_writers",
			check: func(l loginfile.Login) bool { return l.Credentials.ProxyURL.Reveal() == "socks5://u:p@127.0.0.1:1" },
		}},
	},
	{
		"cliproxyapi, claude, an older one", "cliproxyapi", `{"type":"claude","access_token":"at","refresh_token":"rt","email":"a@example.com","account_uuid":"u-1"}`, "",
		[]want{{key: "anthropic.", label: "a@example.com", access: "at", refresh: "rt", notes: "two_writers"}},
	},
	{
		"cliproxyapi, gemini", "cliproxyapi", `{"type":"gemini","email":"g@example.com","project_id":"p","token":{"access_token":"at","refresh_token":"rt","client_id":"c","client_secret":"s","expiry":"2027-01-15T08:00:00Z"}}`, "",
		[]want{{
			key: "gemini.g_40example_2ecom", label: "g@example.com", access: "at", refresh: "rt", expires: y2027, notes: "shared", extra: map[string]string{"project_id": "p"},
			check: func(l loginfile.Login) bool {
				return l.Credentials.ClientID == "c" && l.Credentials.ClientSecret.Reveal() == "s"
			},
		}},
	},
	{
		"cliproxyapi, antigravity", "cliproxyapi", `{"type":"antigravity","email":"g@example.com","project_id":"p","access_token":"at","refresh_token":"rt","expired":"2027-01-15T08:00:00Z"}`, "",
		[]want{{key: "antigravity.g_40example_2ecom", label: "g@example.com", access: "at", refresh: "rt", expires: y2027, notes: "shared"}},
	},
	{
		"cliproxyapi, xai", "cliproxyapi", `{"type":"xai","sub":"s-1","access_token":"at","refresh_token":"rt","expired":"2027-01-15T08:00:00Z"}`, "",
		[]want{{key: "xai.s-1", access: "at", refresh: "rt", expires: y2027, notes: "two_writers"}},
	},
	{
		"cliproxyapi, kimi", "cliproxyapi", `{"type":"kimi","device_id":"d","access_token":"` + jwt(`{"sub":"k.1","exp":1800000000}`) + `","refresh_token":"rt"}`, "",
		[]want{{key: "kimi.k_2e1", access: jwt(`{"sub":"k.1","exp":1800000000}`), refresh: "rt", expires: y2027, notes: "two_writers", extra: map[string]string{"device_id": "d"}}},
	},
	{
		"google adc", "google-adc", `{"type":"authorized_user","account":"","client_id":"c","client_secret":"s","refresh_token":"1//EX","quota_project_id":"q","universe_domain":"googleapis.com"}`, "",
		[]want{{
			key: "gemini.", refresh: "1//EX", notes: "shared",
			check: func(l loginfile.Login) bool {
				return l.Credentials.ClientID == "c" && l.Credentials.ClientSecret.Reveal() == "s"
			},
		}},
	},
	{
		"sub2api", "sub2api", `{"type":"sub2api-data","version":1,"proxies":[{"proxy_key":"k","protocol":"socks5","host":"::1","port":1080,"username":"u","password":"p@ss"}],"accounts":[
			{"name":"a1","platform":"openai","type":"oauth","credentials":{"access_token":"at","refresh_token":"rt","expires_at":"2027-01-15T08:00:00Z","chatgpt_user_id":"user-1","chatgpt_account_id":"ws-1"},"extra":{},"proxy_key":"k","expires_at":1},
			{"name":"a 2","platform":"anthropic","type":"oauth","credentials":{"access_token":"at","refresh_token":"rt","expires_at":"1800000000"},"extra":{"account_uuid":"u-1","org_uuid":"o-1"}},
			{"name":"a 3","platform":"anthropic","type":"setup-token","credentials":{"access_token":"at"}}]}`, "",
		[]want{
			{key: "openai.user-1__ws-1", label: "a1", access: "at", refresh: "rt", expires: y2027, notes: "two_writers",
				check: func(l loginfile.Login) bool { return l.Credentials.ProxyURL.Reveal() == "socks5://u:p%40ss@[::1]:1080" }},
			{key: "anthropic.u-1__o-1", label: "a 2", access: "at", refresh: "rt", expires: y2027, notes: "two_writers"},
			{key: "anthropic.a_203", label: "a 3", access: "at", notes: "setup_token"},
		},
	},
	{
		"sub2api inside data", "sub2api", `{"data":{"proxies":[],"accounts":[{"name":"g","platform":"gemini","type":"oauth","credentials":{"refresh_token":"rt","project_id":"p"}}]}}`, "",
		[]want{{key: "gemini.g", label: "g", refresh: "rt", notes: "shared", extra: map[string]string{"project_id": "p"}}},
	},
}

func TestParse(t *testing.T) {
	for _, tt := range recognized {
		t.Run(tt.name, func(t *testing.T) {
			f := loginfile.File{Name: "f.json", Data: []byte(tt.file)}
			if tt.account != "" {
				f.ClaudeAccount = []byte(tt.account)
			}
			logins, err := loginfile.Parse(f)
			if err != nil {
				t.Fatal(err)
			}
			if len(logins) != len(tt.want) {
				t.Fatalf("%d logins, want %d", len(logins), len(tt.want))
			}
			for i, l := range logins {
				if l.Format != tt.format {
					t.Errorf("format %q, want %q", l.Format, tt.format)
				}
				tt.want[i].compare(t, l)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	unknown, none := loginfile.ErrUnknownFormat, loginfile.ErrNoLogin
	for _, tt := range []struct {
		name, file, account string
		kind                error
		text                string // what every line together must be
	}{
		{"nothing", "", "", unknown, "f.json: not a login file that tokenbus knows: it is empty"},
		{"no JSON", "hunter2", "", unknown, "f.json: not a login file that tokenbus knows: not JSON at byte 1"},
		{"two objects", "{} {}", "", unknown, "f.json: not a login file that tokenbus knows: not JSON at byte 4"},
		{"a text", `"hunter2"`, "", unknown, "f.json: not a login file that tokenbus knows: want a JSON object"},
		{"null", `null`, "", unknown, "f.json: not a login file that tokenbus knows: want a JSON object"},
		{"something else", `{"name":"hunter2","type":"module"}`, "", unknown, "f.json: not a login file that tokenbus knows"},
		{"an array of something else", `[1,{"x":2}]`, "", unknown, "f.json: not a login file that tokenbus knows"},
		{"an empty array", `[]`, "", unknown, "f.json: not a login file that tokenbus knows"},
		{"a broken array", `[{`, "", unknown, "f.json: not a login file that tokenbus knows: not JSON"},
		{"codex with an API key", `{"auth_mode":"apikey","OPENAI_API_KEY":"hunter2","tokens":null}`, "", none, "f.json: no OAuth login in it: it holds an API key alone, which needs no tokenbus"},
		{"codex, older, with an API key", `{"OPENAI_API_KEY":"hunter2"}`, "", none, "f.json: no OAuth login in it: it holds an API key alone, which needs no tokenbus"},
		{"codex logged out", `{"auth_mode":"chatgpt"}`, "", none, `f.json: no OAuth login in it: log in with ChatGPT first ("codex login")`},
		{"codex with empty tokens", codex(`{}`), "", none, "f.json: no OAuth login in it: neither an access token nor a refresh token"},
		{"codex with a wrong field", codex(`{"access_token":{"hunter2":1},"refresh_token":5}`), "", nil, "f.json: tokens.access_token: want a string"},
		{"claude with a wrong expiry", `{"claudeAiOauth":{"accessToken":"hunter2","expiresAt":"hunter2"}}`, "", nil, "f.json: claudeAiOauth.expiresAt: want RFC 3339 or Unix seconds"},
		{"claude with wrong scopes", `{"claudeAiOauth":{"accessToken":"hunter2","scopes":[1]}}`, "", nil, "f.json: claudeAiOauth.scopes: want an array of strings"},
		{"claude that is no object", `{"claudeAiOauth":"hunter2"}`, "", nil, "f.json: claudeAiOauth: want an object"},
		{"claude with a broken account file", claude, `hunter2`, nil, "f.json: the account file (.claude.json): not JSON at byte 1"},
		{"claude with a wrong account file", claude, `{"oauthAccount":{"accountUuid":1}}`, nil, "f.json: the account file (.claude.json): oauthAccount.accountUuid: want a string"},
		{"gemini with a wrong expiry", `{"access_token":"hunter2","expiry_date":"hunter2"}`, "", nil, "f.json: expiry_date: want RFC 3339 or Unix seconds"},
		{"accounts.put of another type", `{"platform":"acme","id":"a","type":"apikey","credentials":{"access_token":"hunter2"}}`, "", none, `f.json: no OAuth login in it: type: want "oauth"`},
		{"accounts.put with a bad id", `{"platform":"acme","id":"hunter2.","credentials":{"access_token":"a"}}`, "", nil, "f.json: id: the id may contain only A-Z, a-z, 0-9, _ and -"},
		{"accounts.put with a bad platform", `{"platform":"Hunter2","id":"a","credentials":{"access_token":"a"}}`, "", nil, "f.json: platform: the platform may contain only a-z, 0-9, _ and -"},
		{"accounts.put with a bad if_version", `{"platform":"acme","id":"a","if_version":"hunter2","credentials":{"access_token":"a"}}`, "", nil, "f.json: if_version: want a whole number"},
		{"accounts.put with a bad field", `{"platform":"acme","id":"a","credentials":{"access_token":["hunter2"]}}`, "", nil, "f.json: credentials.access_token: want a string"},
		{"accounts.put with a bad proxy", `{"platform":"acme","id":"a","credentials":{"access_token":"a","proxy_url":"ftp://hunter2@x"}}`, "", nil, "f.json: the proxy's URL: want http://, https:// or socks5://"},
		{"accounts.put without tokens", `{"platform":"acme","id":"a","credentials":{"scope":"hunter2"}}`, "", none, "f.json: no OAuth login in it: neither an access token nor a refresh token"},
		{"a service account", `{"type":"vertex","service_account":{"private_key":"hunter2"}}`, "", none, "f.json: no OAuth login in it: it holds a service account"},
		{"sub2api without accounts", `{"proxies":[],"accounts":[]}`, "", none, "f.json: no OAuth login in it: it is an empty list"},
		{"sub2api of another version", `{"type":"sub2api-data","version":2,"proxies":[],"accounts":[]}`, "", nil, "f.json: version: want 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := loginfile.File{Name: "f.json", Data: []byte(tt.file)}
			if tt.account != "" {
				f.ClaudeAccount = []byte(tt.account)
			}
			logins, err := loginfile.Parse(f)
			if len(logins) > 0 || err == nil {
				t.Fatalf("%d logins, %v", len(logins), err)
			}
			if err.Error() != tt.text {
				t.Errorf("got  %s\nwant %s", err, tt.text)
			}
			for _, kind := range []error{unknown, none} {
				if errors.Is(err, kind) != (kind == tt.kind) {
					t.Errorf("is %q: %t", kind, errors.Is(err, kind))
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the error quotes the file")
			}
		})
	}
}

// TestParseTakesWhatItCan: one bad account of a file doesn't keep the others out.
func TestParseTakesWhatItCan(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		ids        string
		text       string
	}{
		{
			"an array", `[{"platform":"acme","id":"a","credentials":{"access_token":"1"}},7,{"id":"b.","credentials":{"access_token":"1"}},{"platform":"acme","id":"c","credentials":{"access_token":"1"}}]`,
			"a c", "f.json: [1]: want an object with \"platform\", \"id\" and \"credentials\"\nf.json: [2]: id: the id may contain only A-Z, a-z, 0-9, _ and -",
		},
		{
			"sub2api", `{"accounts":[{"name":"a","platform":"xyz","type":"oauth","credentials":{"access_token":"1"}},{"name":"b","platform":"openai","type":"apikey","credentials":{"api_key":"k"}},
				{"name":"c","platform":"xyz","type":"oauth","credentials":{"access_token":"1"},"proxy_key":"gone"},{"name":"d","platform":"","type":"oauth","credentials":{"access_token":"1"}},
				{"name":"e","platform":"xyz","type":"oauth","credentials":{"access_token":1}},"f",{"name":"g","platform":"grok","type":"oauth","credentials":{"access_token":"1"}}]}`,
			"a g", "f.json: accounts[1]: no OAuth login in it: an API key or another kind of access\n" +
				"f.json: accounts[2]: proxy_key: names none of the proxies in the file; export them too, or take the key out\n" +
				"f.json: accounts[3]: platform: the platform is empty\n" +
				"f.json: accounts[4]: credentials.access_token: want a string\n" +
				"f.json: accounts[5]: want a JSON object",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			logins, err := loginfile.Parse(loginfile.File{Name: "f.json", Data: []byte(tt.file)})
			var ids []string
			for _, l := range logins {
				ids = append(ids, l.ID)
			}
			if got := strings.Join(ids, " "); got != tt.ids {
				t.Errorf("ids %s, want %s", got, tt.ids)
			}
			if err == nil || err.Error() != tt.text {
				t.Errorf("got\n%v\nwant\n%s", err, tt.text)
			}
		})
	}
}

// TestIDsDontCollide: different logins have different ids, also where a name
// holds what joins names.
func TestIDsDontCollide(t *testing.T) {
	seen := map[string]string{}
	long := strings.Repeat("x", 120)
	for _, parts := range [][2]string{
		{"user-1", "ws-1"}, {"user-2", "ws-1"}, {"user-1", "ws-2"}, {"user", "1__ws-1"}, {"user__1", "ws"}, {"user", "_1__ws"}, {"user_", "1__ws"},
		{"a_5f", "b"}, {"a_", "b"}, {"a", "5f__b"}, {"ä", "b"}, {"\u00e4", "B"}, {"a b", "c"}, {"a", "b c"}, {long + "1", "w"}, {long + "2", "w"}, {long, "1w"},
	} {
		logins, err := loginfile.Parse(loginfile.File{Name: "f", Data: []byte(fullCodex(parts[0], parts[1]))})
		if err != nil {
			t.Fatal(err)
		}
		key, err := logins[0].Key()
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("%q", parts)
		if other, ok := seen[key.ID()]; ok {
			t.Errorf("%s and %s are both %s", name, other, key.ID())
		}
		seen[key.ID()] = name
	}
}

// TestExpectedIDs: an id is for ever; it may not change with a version of this
// package.
func TestExpectedIDs(t *testing.T) {
	for parts, want := range map[[2]string]string{
		{"user-AbC123", "0f1e2d3c-0000-4000-8000-000000000000"}: "user-AbC123__0f1e2d3c-0000-4000-8000-000000000000",
		{"user_1", "é@x"}: "user_5f1___c3_a9_40x",
		{strings.Repeat("u", 100), "w.1" + strings.Repeat("v", 40)}: strings.Repeat("u", 90) + "_-0c4718ea4dc787e8eddb57d10427fb29",
	} {
		logins, err := loginfile.Parse(loginfile.File{Name: "f", Data: []byte(fullCodex(parts[0], parts[1]))})
		if err != nil || logins[0].ID != want {
			t.Errorf("%v: %v %v, want %s", parts, logins[0].ID, err, want)
		}
	}
}

func TestKeySaysWhatIsMissing(t *testing.T) {
	for text, l := range map[string]loginfile.Login{
		"platform": {ID: "a"}, "whose": {Platform: "acme"}, "the id may": {Platform: "acme", ID: "a b"},
	} {
		if _, err := l.Key(); err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "a b") {
			t.Errorf("%+v: %v", l, err)
		}
	}
	if k, err := (loginfile.Login{Platform: "acme", ID: "a"}).Key(); err != nil || k.String() != "acme.a" {
		t.Error(k, err)
	}
}

// FuzzParse: whatever the bytes, nothing panics, errors quote nothing, and what
// comes back can be put.
func FuzzParse(f *testing.F) {
	for _, tt := range recognized {
		f.Add([]byte(tt.file), []byte(tt.account))
	}
	f.Add([]byte(`[{"credentials":{}}]`), []byte("null"))
	f.Fuzz(func(t *testing.T, data, claude []byte) {
		logins, err := loginfile.Parse(loginfile.File{Name: "f", Data: data, ClaudeAccount: claude})
		if len(logins) == 0 && err == nil {
			t.Fatal("neither a login nor an error")
		}
		for _, l := range logins {
			if l.Format == "" || l.Type != "oauth" || l.NeedsID != (l.ID == "") {
				t.Fatalf("%+v", l)
			}
			if _, err := l.Key(); err != nil && l.Platform != "" && l.ID != "" {
				t.Fatalf("%s.%s: %v", l.Platform, l.ID, err)
			}
			if l.Credentials.AccessToken.IsZero() && l.Credentials.RefreshToken.IsZero() {
				t.Fatal("a login without tokens")
			}
			if c, err := account.DecodeCredentials(l.Credentials.Encode()); err != nil || !c.Equal(l.Credentials) {
				t.Fatalf("can't be put: %v", err)
			}
		}
	})
}
