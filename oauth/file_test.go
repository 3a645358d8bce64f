package oauth_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/oauth"
)

func noEnv(string) string { return "" }

const everyField = `# all there is
providers:
  openai:
    token_url: https://auth.example/token
    client_id: app_x
    client_secret_env: OPENAI_SECRET
    auth: none
    encoding: form
    params: {scope: "openid offline_access"}
    headers: {User-Agent: "x/1"}
    extra_fields: [project_id]
    timeout: 61s
    reuse_grace: 10s
    dead_grant_errors: [invalid_grant, gone]
    min_refresh_age: 5s
    refresh_at_least_every: 240h
    serve_while_refreshing: false
    max_concurrent: 7
    proxy_url: socks5://user:pass@127.0.0.1:1080
`

func TestParseFileEveryField(t *testing.T) {
	defs, err := oauth.ParseFile("p.yaml", []byte(everyField), func(name string) string {
		return map[string]string{"OPENAI_SECRET": "hush"}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	d := defs["openai"]
	if s := d.ClientSecret.Reveal(); s != "hush" {
		t.Errorf("client secret %q", s)
	}
	if s := d.ProxyURL.Reveal(); s != "socks5://user:pass@127.0.0.1:1080" {
		t.Errorf("proxy %q", s)
	}
	d.ClientSecret, d.ProxyURL = oauth.Definition{}.ClientSecret, oauth.Definition{}.ProxyURL
	want := oauth.Definition{
		TokenURL: "https://auth.example/token", ClientID: "app_x", ClientSecretEnv: "OPENAI_SECRET",
		Auth: oauth.AuthNone, Encoding: oauth.EncodingForm,
		Params: map[string]string{"scope": "openid offline_access"}, Headers: map[string]string{"User-Agent": "x/1"},
		ExtraFields: []string{"project_id"}, Timeout: 61 * time.Second, ReuseGrace: 10 * time.Second,
		DeadGrantErrors: []string{"invalid_grant", "gone"}, MinRefreshAge: 5 * time.Second,
		RefreshAtLeastEvery: 240 * time.Hour, ServeWhileRefreshing: false, MaxConcurrent: 7,
	}
	if !reflect.DeepEqual(d, want) {
		t.Errorf("got  %+v\nwant %+v", d, want)
	}
	if _, err := oauth.New(oauth.Config{Definitions: defs}); err != nil {
		t.Error(err)
	}
}

func TestParseFileOverrides(t *testing.T) {
	defs, err := oauth.ParseFile("p.yaml", []byte("providers:\n  gemini:\n    timeout: 5s\n  mine:\n    token_url: http://[::1]:8080/t\n"), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	want := oauth.Builtin()["gemini"]
	want.Timeout = 5 * time.Second
	if !reflect.DeepEqual(defs["gemini"], want) {
		t.Errorf("gemini: got %+v", defs["gemini"])
	}
	if !reflect.DeepEqual(defs["openai"], oauth.Builtin()["openai"]) {
		t.Error("openai changed")
	}
	mine := defs["mine"]
	if mine.Auth != oauth.AuthNone || mine.Encoding != oauth.EncodingForm || mine.Timeout != time.Minute || !mine.ServeWhileRefreshing ||
		mine.MaxConcurrent != 32 || !reflect.DeepEqual(mine.DeadGrantErrors, []string{"invalid_grant"}) ||
		!reflect.DeepEqual(mine.ExtraFields, []string{"chatgpt_account_id", "chatgpt_user_id", "plan_type", "project_id", "account_uuid", "organization_uuid", "email"}) {
		t.Errorf("defaults: %+v", mine)
	}
	for _, empty := range []string{"", "# nothing\n", "providers:\n", "providers: {}\n", "---\n"} {
		if defs, err := oauth.ParseFile("p.yaml", []byte(empty), noEnv); err != nil || len(defs) != len(oauth.Builtin()) {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

// Each wrong value is named with its line, all of them at once, and no secret
// is quoted.
func TestP10ParseFileProblems(t *testing.T) {
	const head = "providers:\n  mine:\n    token_url: https://a.example/t\n    "
	for _, tt := range []struct{ name, file, want string }{
		{"unknown field", head + "token_uri: x", `p.yaml:4: providers.mine: "token_uri": unknown field`},
		{"unknown top field", "provider:\n  x: {}", `p.yaml:1: "provider": unknown field`},
		{"no mapping", "- a", "p.yaml:1: the file: want a mapping"},
		{"providers no mapping", "providers: [a]", "p.yaml:1: providers: want a mapping"},
		{"platform no mapping", "providers:\n  mine: 3", "p.yaml:2: providers.mine: want a mapping\np.yaml:2: providers.mine.token_url: is missing"},
		{"bad platform", "providers:\n  Mine: {}", `p.yaml:2: platform "Mine": the platform may contain only a-z, 0-9, _ and -`},
		{"twice", head + "auth: none\n    auth: none", `p.yaml:5: providers.mine: "auth" is given twice`},
		{"no token_url", "providers:\n  mine:\n    client_id: c", "p.yaml:2: providers.mine.token_url: is missing"},
		{"token_url http", "providers:\n  openai:\n    token_url: http://a.example/t", "p.yaml:3: providers.openai.token_url: must be https (http is for loopback addresses only)"},
		{"token_url like loopback", "providers:\n  openai:\n    token_url: http://127.0.0.1.example/t", "p.yaml:3: providers.openai.token_url: must be https (http is for loopback addresses only)"},
		{"token_url ftp", "providers:\n  openai:\n    token_url: ftp://a/t", "p.yaml:3: providers.openai.token_url: must be https"},
		{"token_url with password", "providers:\n  openai:\n    token_url: https://u:hush@a/t", "p.yaml:3: providers.openai.token_url: must not hold a user or password"},
		{"token_url no URL", "providers:\n  openai:\n    token_url: 'https://:0/hush'", "p.yaml:3: providers.openai.token_url: is not a URL"},
		{"client_secret", head + "client_secret: hush", "p.yaml:4: providers.mine.client_secret: never in the file itself: use client_secret_env or client_secret_file"},
		{"secret as env name", head + "client_secret_env: hush-hush", "p.yaml:4: providers.mine.client_secret_env: want the name of an environment variable"},
		{"env missing", head + "client_secret_env: NO_SUCH", "p.yaml:4: providers.mine.client_secret_env: the environment variable NO_SUCH is not set"},
		{"file missing", head + "client_secret_file: /no/such", "p.yaml:4: providers.mine.client_secret_file: stat /no/such: no such file or directory"},
		{"file a folder", head + "client_secret_file: /", "p.yaml:4: providers.mine.client_secret_file: read /: is not a file"},
		{"both secrets", head + "client_secret_env: A\n    client_secret_file: b", "p.yaml:5: providers.mine: client_secret_env and client_secret_file exclude each other"},
		{"auth", head + "auth: post", "p.yaml:4: providers.mine.auth: want none, body or basic"},
		{"auth without secret", head + "client_id: c\n    auth: basic", "p.yaml:5: providers.mine.auth: basic needs client_secret_env or client_secret_file"},
		{"encoding", head + "encoding: xml", "p.yaml:4: providers.mine.encoding: want form or json"},
		{"params", head + "params: {refresh_token: x}", `p.yaml:4: providers.mine.params: "refresh_token" is not for params`},
		{"params no mapping", head + "params: x", "p.yaml:4: providers.mine.params: want a mapping"},
		{"headers authorization", head + "headers: {authorization: hush}", `p.yaml:4: providers.mine.headers: "authorization" can't be set`},
		{"headers host", head + "headers: {Host: x}", `p.yaml:4: providers.mine.headers: "Host" can't be set`},
		{"headers type", head + "headers: {Content-Type: x}", `p.yaml:4: providers.mine.headers: "Content-Type" can't be set`},
		{"headers name", head + "headers: {'a b': x}", `p.yaml:4: providers.mine.headers: "a b" is no header name`},
		{"headers value", head + `headers: {A: "x\ny"}`, `p.yaml:4: providers.mine.headers: "A" has a value that no header can have`},
		{"extra_fields", head + "extra_fields: email", "p.yaml:4: providers.mine.extra_fields: want a list such as [a, b]"},
		{"extra secret", head + "extra_fields: [refresh_token]", "p.yaml:4: providers.mine.extra_fields: refresh_token is no extra field"},
		{"dead_grant_errors", head + "dead_grant_errors: [[a]]", "p.yaml:4: providers.mine.dead_grant_errors: want a list of names"},
		{"duration", head + "timeout: 60", "p.yaml:4: providers.mine.timeout: want a duration such as 30s or 5m"},
		{"timeout 0", head + "timeout: 0s", "p.yaml:4: providers.mine.timeout: must be above 0"},
		{"negative", head + "reuse_grace: -1s", "p.yaml:4: providers.mine.reuse_grace: must not be negative"},
		{"bool", head + "serve_while_refreshing: maybe", "p.yaml:4: providers.mine.serve_while_refreshing: want true or false"},
		{"number", head + "max_concurrent: 1.5", "p.yaml:4: providers.mine.max_concurrent: want a whole number"},
		{"number 0", head + "max_concurrent: 0", "p.yaml:4: providers.mine.max_concurrent: want 1 to 100000"},
		{"proxy", head + "proxy_url: ftp://u:hush@p", "p.yaml:4: providers.mine.proxy_url: must be http, https, socks5 or socks5h"},
		{"proxy no URL", head + `proxy_url: "http://u:hush@p:port"`, "p.yaml:4: providers.mine.proxy_url: is not a proxy's URL"},
		{"null", head + "client_id:", "p.yaml:4: providers.mine.client_id: want text"},
		{"not YAML", head + "a: [hush", "p.yaml:3: is not YAML: did not find expected ',' or ']'"},
		{"unknown anchor", head + "client_id: *hush", "p.yaml: is not YAML"},
		{"two documents", "providers: {}\n---\nproviders: {}", "p.yaml: holds more than one YAML document"},
		{"all at once", head + "timeout: x\n    auth: y\n    z: 1\n  xai:\n    encoding: w",
			"p.yaml:4: providers.mine.timeout: want a duration such as 30s or 5m\n" +
				"p.yaml:5: providers.mine.auth: want none, body or basic\n" +
				"p.yaml:6: providers.mine: \"z\": unknown field\n" +
				"p.yaml:8: providers.xai.encoding: want form or json"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := oauth.ParseFile("p.yaml", []byte(tt.file), noEnv)
			if _, ok := errors.AsType[*oauth.FileError](err); !ok {
				t.Fatalf("got %v, want a FileError", err)
			}
			if err.Error() != tt.want {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
			if strings.Contains(err.Error(), "hush") {
				t.Error("the error quotes a secret")
			}
		})
	}
}

func TestLoadFileReadsTheSecretBesideIt(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("secret.txt", "hush\n")
	path := write("p.yaml", "providers:\n  gemini:\n    client_secret_file: secret.txt\n  xai:\n    client_secret_file: secret.txt\n")
	defs, err := oauth.LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := defs["gemini"]; d.ClientSecret.Reveal() != "hush" || d.ClientSecretEnv != "" {
		t.Errorf("gemini: %q, env %q", d.ClientSecret.Reveal(), d.ClientSecretEnv)
	}
	if d := defs["xai"]; d.Auth != oauth.AuthBody {
		t.Errorf("a secret without auth: %s, want body", d.Auth)
	}
	if _, err := oauth.LoadFile(filepath.Join(dir, "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add([]byte(everyField))
	f.Add([]byte("providers: &a\n  mine: {params: *a}\n"))
	f.Add([]byte("providers:\n  mine: {<<: {token_url: x}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		defs, err := oauth.ParseFile("p.yaml", data, func(string) string { return "hush-hush" })
		if err != nil {
			if fe, ok := errors.AsType[*oauth.FileError](err); !ok || len(fe.Problems) == 0 {
				t.Errorf("got %v", err)
			}
			return
		}
		if _, err := oauth.New(oauth.Config{Definitions: defs, Getenv: noEnv}); err != nil {
			t.Errorf("accepted and unusable: %v", err)
		}
	})
}
