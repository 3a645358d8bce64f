package oauthtest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/oauth/oauthtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a clock that stands until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fixture is a server on loopback with a client that makes one connection per
// request.
type fixture struct {
	*oauthtest.Server
	t      *testing.T
	url    string
	clock  *clock
	client *http.Client
}

func start(t *testing.T, cfg oauthtest.Config) *fixture {
	t.Helper()
	c := &clock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	cfg.Now = c.Now
	s, err := oauthtest.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	return &fixture{s, t, web.URL, c, &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

type answer struct {
	status int
	header http.Header
	body   string
	fields map[string]any
	err    error
}

func (f *fixture) do(r *http.Request) answer {
	f.t.Helper()
	resp, err := f.client.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(body), err: err}
	_ = json.Unmarshal(body, &a.fields)
	return a
}

func (f *fixture) post(contentType, body string, more ...func(*http.Request)) answer {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, f.url+"/token", strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	for _, m := range more {
		m(r)
	}
	return f.do(r)
}

func (f *fixture) refresh(token string) answer {
	f.t.Helper()
	return f.post("application/x-www-form-urlencoded",
		url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {"c"}}.Encode())
}

func (f *fixture) userinfo(access string) int {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, f.url+"/userinfo", nil)
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+access)
	return f.do(r).status
}

func TestRotation(t *testing.T) {
	f := start(t, oauthtest.Config{TTL: time.Minute, Deterministic: true})
	access, refresh := f.NewGrant("alice")
	if !f.Valid(access) || f.userinfo(access) != 200 || f.userinfo("forged") != 401 {
		t.Error("a first token must be good, a forged one not")
	}
	a := f.refresh(refresh)
	if a.status != 200 || a.fields["access_token"] != "access-4" || a.fields["refresh_token"] != "refresh-3" || a.fields["expires_in"] != 60.0 || a.fields["token_type"] != "Bearer" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if who, ok := f.Introspect("access-4"); who != "alice" || !ok || !f.Valid(access) {
		t.Errorf("%q %v", who, ok)
	}
	if ac, re := f.Current("alice"); ac != "access-4" || re != "refresh-3" {
		t.Errorf("current %s %s", ac, re)
	}
	f.clock.add(time.Minute)
	if f.Valid("access-4") || f.userinfo("access-4") != 401 {
		t.Error("the token outlived its time")
	}
	if s := f.Stats(); s != (oauthtest.Stats{Requests: 1, Exchanges: 1}) || f.Sent(refresh) != 1 || f.Sent("refresh-3") != 0 {
		t.Errorf("%+v", s)
	}
}

func TestReuseEndsTheGrant(t *testing.T) {
	f := start(t, oauthtest.Config{})
	_, refresh := f.NewGrant("alice")
	bob, bobRefresh := f.NewGrant("bob")
	a := f.refresh(refresh)
	access, next := a.fields["access_token"].(string), a.fields["refresh_token"].(string)
	again := f.refresh(refresh)
	if again.status != 400 || again.fields["error"] != "invalid_grant" || f.Reused() != 1 || !f.Revoked("alice") || f.Sent(refresh) != 2 {
		t.Errorf("%d %s %+v", again.status, again.body, f.Stats())
	}
	if f.Valid(access) {
		t.Error("the access token outlived its grant")
	}
	if a := f.refresh(next); a.status != 400 || f.Reused() != 1 {
		t.Errorf("the newest token of a dead grant: %d %s", a.status, a.body)
	}
	if !f.Valid(bob) || f.refresh(bobRefresh).status != 200 {
		t.Error("another grant ended too")
	}
}

func TestVariants(t *testing.T) {
	t.Run("grace", func(t *testing.T) {
		f := start(t, oauthtest.Config{ReuseGrace: 10 * time.Second})
		_, refresh := f.NewGrant("alice")
		first := f.refresh(refresh)
		f.clock.add(10 * time.Second)
		second := f.refresh(refresh)
		if second.status != 200 || second.fields["refresh_token"] != first.fields["refresh_token"] || f.Stats().InGrace != 1 || f.Reused() != 0 {
			t.Errorf("in the grace: %d %s", second.status, second.body)
		}
		f.clock.add(time.Millisecond)
		if a := f.refresh(refresh); a.status != 400 || f.Reused() != 1 || !f.Revoked("alice") {
			t.Errorf("after it: %d", a.status)
		}
	})
	t.Run("no detection", func(t *testing.T) {
		f := start(t, oauthtest.Config{NoReuseDetection: true})
		_, refresh := f.NewGrant("alice")
		f.refresh(refresh)
		if a := f.refresh(refresh); a.status != 400 || f.Revoked("alice") || f.Reused() != 1 {
			t.Errorf("%d", a.status)
		}
	})
	t.Run("no rotation", func(t *testing.T) {
		f := start(t, oauthtest.Config{NoRotation: true})
		_, refresh := f.NewGrant("alice")
		for range 3 {
			if a := f.refresh(refresh); a.status != 200 || a.fields["refresh_token"] != nil {
				t.Errorf("%d %s", a.status, a.body)
			}
		}
	})
	t.Run("too early", func(t *testing.T) {
		f := start(t, oauthtest.Config{MinRefreshAge: time.Minute})
		_, refresh := f.NewGrant("alice")
		if a := f.refresh(refresh); a.status != 400 || a.fields["error"] != "invalid_request" {
			t.Errorf("%d %s", a.status, a.body)
		}
		f.clock.add(time.Minute)
		if a := f.refresh(refresh); a.status != 200 || a.fields["earliest_refresh_at"] != "2026-01-01T00:02:00Z" {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
	t.Run("openai errors", func(t *testing.T) {
		f := start(t, oauthtest.Config{OpenAIErrors: true})
		_, refresh := f.NewGrant("alice")
		f.refresh(refresh)
		a := f.refresh(refresh)
		object, _ := a.fields["error"].(map[string]any)
		if a.status != 401 || object["code"] != "refresh_token_reused" {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
	t.Run("jwt", func(t *testing.T) {
		f := start(t, oauthtest.Config{JWT: true, Extra: map[string]any{"project_id": "p"}})
		access, refresh := f.NewGrant("alice")
		a := f.refresh(refresh)
		if strings.Count(access, ".") != 2 || !f.Valid(access) || a.fields["project_id"] != "p" {
			t.Errorf("%s, %s", access, a.body)
		}
	})
	t.Run("operator", func(t *testing.T) {
		f := start(t, oauthtest.Config{})
		access, refresh := f.NewGrant("alice")
		f.EndAccess("alice")
		if f.Valid(access) || f.refresh(refresh).status != 200 {
			t.Error("EndAccess must end access tokens alone")
		}
		f.Revoke("alice")
		if _, refresh = f.Current("alice"); f.refresh(refresh).status != 400 || f.Stats().Revoked != 1 {
			t.Error("Revoke must end the grant")
		}
	})
}

func TestClientChecks(t *testing.T) {
	const form, jsonType = "application/x-www-form-urlencoded", "application/json"
	basic := func(user, password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(url.QueryEscape(user), url.QueryEscape(password)) }
	}
	for _, tt := range []struct {
		name        string
		cfg         oauthtest.Config
		contentType string
		body        string // + refresh token
		more        []func(*http.Request)
		want        string // error; "": granted
	}{
		{"form", oauthtest.Config{}, form, "grant_type=refresh_token&refresh_token=%s", nil, ""},
		{"json", oauthtest.Config{}, jsonType, `{"grant_type":"refresh_token","refresh_token":"%s"}`, nil, ""},
		{"form where json is", oauthtest.Config{Encoding: "json"}, form, "grant_type=refresh_token&refresh_token=%s", nil, "invalid_request"},
		{"json where form is", oauthtest.Config{Encoding: "form"}, jsonType, `{"grant_type":"refresh_token","refresh_token":"%s"}`, nil, "invalid_request"},
		{"twice", oauthtest.Config{}, form, "grant_type=refresh_token&refresh_token=%s&scope=a&scope=b", nil, "invalid_request"},
		{"other grant", oauthtest.Config{}, form, "grant_type=password&refresh_token=%s", nil, "unsupported_grant_type"},
		{"client id", oauthtest.Config{ClientID: "c"}, form, "grant_type=refresh_token&client_id=c&refresh_token=%s", nil, ""},
		{"wrong client id", oauthtest.Config{ClientID: "c"}, form, "grant_type=refresh_token&client_id=d&refresh_token=%s", nil, "invalid_client"},
		{"body", oauthtest.Config{ClientID: "c", ClientSecret: "s", Auth: "body"}, form, "grant_type=refresh_token&client_id=c&client_secret=s&refresh_token=%s", nil, ""},
		{"body wrong", oauthtest.Config{ClientID: "c", ClientSecret: "s", Auth: "body"}, form, "grant_type=refresh_token&client_id=c&client_secret=t&refresh_token=%s", nil, "invalid_client"},
		{"body where basic is", oauthtest.Config{ClientID: "c", ClientSecret: "s", Auth: "basic"}, form, "grant_type=refresh_token&client_id=c&client_secret=s&refresh_token=%s", nil, "invalid_client"},
		{"basic", oauthtest.Config{ClientID: "c:1", ClientSecret: "s +/", Auth: "basic"}, form, "grant_type=refresh_token&refresh_token=%s", []func(*http.Request){basic("c:1", "s +/")}, ""},
		{"basic where none is", oauthtest.Config{ClientID: "c", Auth: "none"}, form, "grant_type=refresh_token&client_id=c&refresh_token=%s", []func(*http.Request){basic("c", "s")}, "invalid_client"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, tt.cfg)
			_, refresh := f.NewGrant("alice")
			a := f.post(tt.contentType, fmt.Sprintf(tt.body, refresh), tt.more...)
			if got, _ := a.fields["error"].(string); got != tt.want || (tt.want == "") != (f.Exchanges() == 1) {
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	if _, err := oauthtest.New(oauthtest.Config{TTL: -1, Auth: "x", Encoding: "y"}); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("want three problems: %v", err)
	}
}

func TestFaults(t *testing.T) {
	closed := make(chan struct{})
	close(closed)
	for _, tt := range []struct {
		name  string
		fault oauthtest.Fault
		spent bool
		check func(answer) bool
	}{
		{"refuse", oauthtest.Refuse(503, `{"error":"x"}`, "Retry-After", "3"), false, func(a answer) bool { return a.status == 503 && a.header.Get("Retry-After") == "3" }},
		{"hang up", oauthtest.HangUp(), false, func(a answer) bool { return a.err != nil }},
		{"redirect", oauthtest.Redirect(307, "/x"), false, func(a answer) bool { return a.status == 307 && a.header.Get("Location") == "/x" }},
		{"web page", oauthtest.WebPage(403), false, func(a answer) bool {
			return a.status == 403 && strings.HasPrefix(a.header.Get("Content-Type"), "text/html")
		}},
		{"lose", oauthtest.Lose(), true, func(a answer) bool { return a.err != nil && a.status == 0 }},
		{"lose with", oauthtest.LoseWith(502, "<html>"), true, func(a answer) bool { return a.status == 502 }},
		{"empty", oauthtest.LoseWith(200, ""), true, func(a answer) bool { return a.status == 200 && a.body == "" }},
		{"truncate", oauthtest.Truncate(9), true, func(a answer) bool { return errors.Is(a.err, io.ErrUnexpectedEOF) && len(a.body) == 9 }},
		{"hold", oauthtest.Hold(closed), true, func(a answer) bool { return a.status == 200 }},
		{"hold after", oauthtest.HoldAfter(closed), true, func(a answer) bool { return a.status == 200 }},
		{"without", oauthtest.Without("refresh_token", "access_token"), true, func(a answer) bool {
			return a.status == 200 && a.fields["refresh_token"] == nil && a.fields["access_token"] == nil && a.fields["expires_in"] != nil
		}},
		{"with", oauthtest.With("expires_in", "soon"), true, func(a answer) bool { return a.fields["expires_in"] == "soon" }},
		{"keep", oauthtest.KeepRefreshToken(), false, func(a answer) bool { return a.status == 200 && a.fields["refresh_token"] == nil }},
		{"padded", oauthtest.Padded(10 << 20), true, func(a answer) bool { return len(a.body) > 10<<20 && strings.HasPrefix(a.body, `{"access_token"`) }},
		{"raw", oauthtest.Fault{Raw: func(w http.ResponseWriter) { w.WriteHeader(418) }}, true, func(a answer) bool { return a.status == 418 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, oauthtest.Config{})
			_, refresh := f.NewGrant("alice")
			f.Inject(tt.fault)
			if a := f.refresh(refresh); !tt.check(a) {
				t.Errorf("%d %.200s %v", a.status, a.body, a.err)
			}
			if _, now := f.Current("alice"); (now != refresh) != tt.spent {
				t.Errorf("spent: %v", now != refresh)
			}
			if f.Sent(refresh) != 1 || f.Stats().Requests != 1 {
				t.Errorf("sent %d times", f.Sent(refresh))
			}
			// The fault is gone with its request.
			if _, now := f.Current("alice"); f.refresh(now).status != 200 {
				t.Error("the next request failed too")
			}
		})
	}
}

// A held request can be watched from outside, and one whose client has left
// still spends.
func TestHooks(t *testing.T) {
	arrived := make(chan struct{})
	f := start(t, oauthtest.Config{OnRequest: func(*http.Request) { arrived <- struct{}{} }})
	_, refresh := f.NewGrant("alice")
	gate := make(chan struct{})
	f.InjectFunc(func(r *http.Request) oauthtest.Fault { return oauthtest.HoldAfter(gate) })
	var wg sync.WaitGroup
	var got answer
	wg.Go(func() { got = f.refresh(refresh) })
	<-arrived
	close(gate)
	wg.Wait()
	if got.status != 200 || f.Exchanges() != 1 {
		t.Errorf("%d %s %v", got.status, got.body, got.err)
	}
}

func TestConcurrentUseOfOneToken(t *testing.T) {
	f := start(t, oauthtest.Config{})
	_, refresh := f.NewGrant("alice")
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() { f.refresh(refresh) })
	}
	wg.Wait()
	if s := f.Stats(); s.Exchanges != 1 || s.Reused != 15 || s.Revoked != 1 || f.Sent(refresh) != 16 {
		t.Errorf("%+v", s)
	}
}

func Example() {
	s, err := oauthtest.New(oauthtest.Config{TTL: time.Minute, Deterministic: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	web := httptest.NewServer(s) // POST /token, GET /userinfo
	defer web.Close()
	access, refresh := s.NewGrant("alice")
	s.Inject(oauthtest.Lose()) // spends the next refresh token, and hangs up
	fmt.Println(access, refresh, s.Valid(access))
	// Output: access-2 refresh-1 true
}
