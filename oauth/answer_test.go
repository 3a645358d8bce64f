package oauth_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

// jwt returns an unsigned token with the claims.
func jwt(claims string) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(`{"alg":"RS256"}`)) + "." + enc([]byte(claims)) + "." + enc([]byte("signature"))
}

func TestJudgeGranted(t *testing.T) {
	c := newClient(t, oauth.Config{})
	at := func(d time.Duration) time.Time { return received.Add(d) }
	type want struct {
		access, refresh, id, tokenType, scope string
		expires, earliest                     time.Time
		lifetime                              time.Duration
		extra                                 map[string]string
	}
	exp := time.Date(2026, 3, 11, 0, 0, 0, 0, time.UTC)
	openaiAccess := jwt(`{"exp":1773187200,"https://api.openai.com/auth":{"chatgpt_account_id":"ws-1","chatgpt_user_id":"user-1","chatgpt_plan_type":"pro"},"https://api.openai.com/profile":{"email":"a@example.com"}}`)
	for _, tt := range []struct {
		name, platform, body, contentType string
		want                              want
	}{
		{"openai", "openai", `{"access_token":"` + openaiAccess + `","refresh_token":"rt-2","id_token":"` + jwt(`{"email":"a@example.com"}`) + `","token_type":"bearer","expires_in":864000,"scope":"openid"}`, "",
			want{openaiAccess, "rt-2", jwt(`{"email":"a@example.com"}`), "bearer", "openid", at(240 * time.Hour), time.Time{}, 240 * time.Hour,
				map[string]string{"chatgpt_account_id": "ws-1", "chatgpt_user_id": "user-1", "plan_type": "pro", "email": "a@example.com"}}},
		{"openai, expiry in the token alone", "openai", `{"access_token":"` + openaiAccess + `"}`, "",
			want{access: openaiAccess, expires: exp,
				extra: map[string]string{"chatgpt_account_id": "ws-1", "chatgpt_user_id": "user-1", "plan_type": "pro", "email": "a@example.com"}}},
		{"siwc", "openai", `{"access_token":"a","refresh_token":"r","expires_in":3600,"earliest_refresh_at":1772370000}`, "",
			want{access: "a", refresh: "r", expires: at(time.Hour), lifetime: time.Hour, earliest: time.Unix(1772370000, 0).UTC()}},
		{"siwc RFC 3339", "openai", `{"access_token":"a","earliest_refresh_at":"2026-03-01T13:00:00Z"}`, "",
			want{access: "a", earliest: time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC)}},
		{"siwc for ever", "openai", `{"access_token":"a","earliest_refresh_at":"9999-01-01T00:00:00Z"}`, "", want{access: "a", earliest: at(24 * time.Hour)}},
		{"siwc in a day", "openai", `{"access_token":"a","earliest_refresh_at":"2026-03-02T12:00:00Z"}`, "",
			want{access: "a", earliest: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)}},
		{"siwc null", "openai", `{"access_token":"a","earliest_refresh_at":null}`, "", want{access: "a"}},
		{"anthropic", "anthropic", `{"token_type":"Bearer","access_token":"sk-ant-oat01-EX","expires_in":28800,"refresh_token":"sk-ant-ort01-EX","scope":"user:inference","organization":{"uuid":"o-1","name":"n"},"account":{"uuid":"u-1","email_address":"a@example.com"}}`, "",
			want{"sk-ant-oat01-EX", "sk-ant-ort01-EX", "", "Bearer", "user:inference", at(8 * time.Hour), time.Time{}, 8 * time.Hour,
				map[string]string{"account_uuid": "u-1", "organization_uuid": "o-1", "email": "a@example.com"}}},
		{"google", "gemini", `{"access_token":"ya29.EX","expires_in":3599,"scope":"s","token_type":"Bearer","id_token":"` + jwt(`{"email":"g@example.com","exp":1}`) + `"}`, "",
			want{"ya29.EX", "", jwt(`{"email":"g@example.com","exp":1}`), "Bearer", "s", at(3599 * time.Second), time.Time{}, 3599 * time.Second,
				map[string]string{"email": "g@example.com"}}},
		{"kimi, fraction", "kimi", `{"access_token":"a","refresh_token":"r","expires_in":900.5}`, "",
			want{access: "a", refresh: "r", expires: at(900500 * time.Millisecond), lifetime: 900500 * time.Millisecond}},
		{"expires_in as text", "xai", `{"access_token":"a","expires_in":"21600"}`, "", want{access: "a", expires: at(6 * time.Hour), lifetime: 6 * time.Hour}},
		{"expires_in negative", "xai", `{"access_token":"a","expires_in":-1}`, "", want{access: "a"}},
		{"expires_in 0", "xai", `{"access_token":"a","expires_in":0}`, "", want{access: "a"}},
		{"expires_in NaN", "xai", `{"access_token":"a","expires_in":"NaN"}`, "", want{access: "a"}},
		{"expires_in hexadecimal", "xai", `{"access_token":"a","expires_in":"0x1p12"}`, "", want{access: "a"}},
		{"exp hexadecimal", "xai", `{"access_token":"` + jwt(`{"exp":"0x1p31"}`) + `"}`, "", want{access: jwt(`{"exp":"0x1p31"}`)}},
		{"expires_in 20 years", "xai", `{"access_token":"a","expires_in":630720000}`, "", want{access: "a"}},
		{"expires_in 1e400", "xai", `{"access_token":"a","expires_in":1e400}`, "", want{access: "a"}},
		{"expires_in object", "xai", `{"access_token":"a","refresh_token":"r","expires_in":{"s":1}}`, "", want{access: "a", refresh: "r"}},
		{"expires_at ms", "xai", `{"access_token":"a","expires_at":1772370000000}`, "", want{access: "a", expires: time.Unix(1772370000, 0).UTC()}},
		{"expires_at text", "xai", `{"access_token":"a","expires_at":"2026-03-01T13:00:00Z"}`, "", want{access: "a", expires: time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC)}},
		{"expires_at past", "xai", `{"access_token":"a","expires_at":1}`, "", want{access: "a"}},
		{"odd fields around", "xai", `{"scope":["a"],"token_type":5,"id_token":{},"refresh_token":"r","access_token":"a","earliest_refresh_at":"soon","account":"x","organization":[]}`, "",
			want{access: "a", refresh: "r"}},
		{"not Bearer", "xai", `{"access_token":"a","token_type":"DPoP"}`, "", want{access: "a", tokenType: "DPoP"}},
		{"no type that a header could have", "xai", `{"access_token":"a","token_type":"Bearer\r\nX: 1"}`, "", want{access: "a"}},
		{"twice: the last", "xai", `{"access_token":"old","refresh_token":"r1","access_token":"a","refresh_token":"r2"}`, "", want{access: "a", refresh: "r2"}},
		{"byte order mark", "xai", "\xef\xbb\xbf" + `{"access_token":"a"}`, "", want{access: "a"}},
		{"called a web page", "xai", `{"access_token":"a"}`, "text/html", want{access: "a"}},
		{"garbage behind", "xai", `{"access_token":"a"}<!-- x -->`, "", want{access: "a"}},
		{"form", "xai", `access_token=a&refresh_token=r%2B1&expires_in=60`, "application/x-www-form-urlencoded", want{access: "a", refresh: "r+1", expires: at(time.Minute), lifetime: time.Minute}},
		{"an error beside the token", "xai", `{"access_token":"a","error":"invalid_grant"}`, "", want{access: "a"}},
		{"extra fields that are named", "gemini", `{"access_token":"a","project_id":"p-1","secret_stuff":"x","plan_type":null}`, "", want{access: "a", extra: map[string]string{"project_id": "p-1"}}},
		{"both tokens, then cut", "xai", `{"access_token":"a","refresh_token":"r","expires_in":36`, "", want{access: "a", refresh: "r"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := c.Judge(tt.platform, refresh.RawAnswer{Status: 200, Body: []byte(tt.body), ReceivedAt: received,
				Header: map[string]string{"Content-Type": tt.contentType}})
			if v.Outcome != rotation.Granted {
				t.Fatalf("got %s %s", v.Outcome, v.Code)
			}
			cred := v.Credentials
			got := want{cred.AccessToken.Reveal(), cred.RefreshToken.Reveal(), cred.IDToken.Reveal(), cred.TokenType, cred.Scope,
				cred.ExpiresAt, v.EarliestRefreshAt, v.Lifetime, texts(t, cred.Extra)}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func texts(t *testing.T, e account.Extra) map[string]string {
	t.Helper()
	var out map[string]string
	for name, raw := range e {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			t.Errorf("extra %s: %v", name, err)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = s
	}
	return out
}

// What parses of an answer that makes no sense is kept: a new refresh token is
// the only one that works now.
func TestP2JudgeKeepsWhatParses(t *testing.T) {
	c := newClient(t, oauth.Config{})
	for _, tt := range []struct {
		name, body      string
		truncated       bool
		code            string
		access, refresh string
	}{
		{"refresh token alone", `{"refresh_token":"r2"}`, false, "no_access_token", "", "r2"},
		{"access token null", `{"access_token":null,"refresh_token":"r2","expires_in":60}`, false, "no_access_token", "", "r2"},
		{"cut after the refresh token", `{"refresh_token":"r2","access_token":"a`, true, "truncated", "", "r2"},
		{"cut after the access token", `{"access_token":"a2","refresh_token":"r`, true, "truncated", "a2", ""},
		{"cut unmarked", `{"access_token":"a2","refresh_token":"r`, false, "truncated", "a2", ""},
		{"refresh token with an error", `{"error":"invalid_grant","refresh_token":"r2"}`, false, "no_access_token", "", "r2"},
		{"line break in the access token", `{"access_token":"a2\r\nX-Evil: 1","refresh_token":"r2","expires_in":60}`, false, "bad_access_token", "", "r2"},
		{"line break, and nothing else", `{"access_token":"a2\n"}`, false, "bad_access_token", "", ""},
		{"escape in the access token", `{"access_token":"a\u001b2","refresh_token":"r2"}`, false, "bad_access_token", "", "r2"},
		{"line break in a form", "access_token=a2%0Ab&refresh_token=r2", false, "bad_access_token", "", "r2"},
		{"too long", `{"refresh_token":"r2","padding":"` + strings.Repeat("x", 1<<20), true, "truncated", "", "r2"},
		{"form cut", `refresh_token=r2&access_token=a`, true, "truncated", "", "r2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := c.Judge("xai", refresh.RawAnswer{Status: 200, Body: []byte(tt.body), Truncated: tt.truncated, ReceivedAt: received,
				Header: map[string]string{"Content-Type": "text/plain"}})
			if v.Outcome != rotation.Unknown || v.Code != tt.code ||
				v.Credentials.AccessToken.Reveal() != tt.access || v.Credentials.RefreshToken.Reveal() != tt.refresh {
				t.Errorf("got %s %s access=%q refresh=%q", v.Outcome, v.Code,
					v.Credentials.AccessToken.Reveal(), v.Credentials.RefreshToken.Reveal())
			}
		})
	}
	// Complete, although the connection broke behind it.
	v := c.Judge("xai", refresh.RawAnswer{Status: 200, Body: []byte(`{"access_token":"a2"}`), Truncated: true, ReceivedAt: received})
	if v.Outcome != rotation.Granted {
		t.Errorf("whole object: got %s %s", v.Outcome, v.Code)
	}
}

func TestDescribe(t *testing.T) {
	c := newClient(t, oauth.Config{})
	id := jwt(`{"email":"id@example.com","https://api.openai.com/auth":{"chatgpt_account_id":"ws-old","chatgpt_plan_type":"plus","user_id":"user-1"}}`)
	access := jwt(`{"exp":1773187200.9,"https://api.openai.com/auth":{"chatgpt_account_id":"ws-new"}}`)
	cred := account.Credentials{
		AccessToken: account.NewSecret(access), IDToken: account.NewSecret(id),
		Extra: account.Extra{"project_id": json.RawMessage(`"p"`), "plan_type": json.RawMessage(`"free"`), "n": json.RawMessage(`1`)},
	}
	got := c.Describe("openai", cred)
	if want := time.UnixMilli(1773187200900).UTC(); !got.ExpiresAt.Equal(want) {
		t.Errorf("expires %v, want %v", got.ExpiresAt, want)
	}
	for name, want := range map[string]string{"email": "id@example.com", "chatgpt_account_id": "ws-new", "plan_type": "plus",
		"chatgpt_user_id": "user-1", "project_id": "p"} {
		if s := got.Extra.Text(name); s != want {
			t.Errorf("%s = %q, want %q", name, s, want)
		}
	}
	if cred.Extra.Text("plan_type") != "free" {
		t.Error("the argument was changed")
	}
	if got.AccessToken.Reveal() != access || got.IDToken.Reveal() != id {
		t.Error("a token was changed")
	}

	known := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	cred.ExpiresAt = known
	if got := c.Describe("openai", cred); !got.ExpiresAt.Equal(known) {
		t.Errorf("a known expiry was replaced: %v", got.ExpiresAt)
	}
	opaque := account.Credentials{AccessToken: account.NewSecret("opaque"), Extra: account.Extra{"plan_type": json.RawMessage(`"free"`)}}
	if got := c.Describe("openai", opaque); !got.Equal(opaque) {
		t.Error("an opaque token was described")
	}
}

func FuzzJudge(f *testing.F) {
	f.Add(200, `{"access_token":"a","refresh_token":"r","expires_in":60}`, "application/json", "5")
	f.Add(400, `{"error":{"code":"refresh_token_reused"}}`, "", "")
	f.Add(200, `access_token=a`, "text/plain", "Wed, 21 Oct 2015 07:28:00 GMT")
	c := newClient(f, oauth.Config{})
	f.Fuzz(func(t *testing.T, status int, body, contentType, retryAfter string) {
		raw := refresh.RawAnswer{Status: status, Body: []byte(body), ReceivedAt: received,
			Header: map[string]string{"Content-Type": contentType, "Retry-After": retryAfter}}
		v := c.Judge("openai", raw)
		if v.Outcome == "" || v.Message == "" || v.RetryAfter < 0 || v.Lifetime < 0 {
			t.Errorf("%+v", v)
		}
		if (v.Outcome == rotation.Granted) && v.Credentials.AccessToken.IsZero() {
			t.Error("granted without an access token")
		}
		if v.Outcome == rotation.Rejected && status != 400 && status != 401 && status != 403 && status/100 != 2 {
			t.Errorf("rejected at %d", status)
		}
		v.Credentials.Encode() // panics if an extra field is no JSON
		if again := c.Judge("openai", raw); again.Outcome != v.Outcome || !again.Credentials.Equal(v.Credentials) {
			t.Error("not the same verdict twice")
		}
	})
}

func FuzzDescribe(f *testing.F) {
	f.Add(jwt(`{"exp":1773187200,"email":"a@example.com"}`), jwt(`{"https://api.openai.com/auth":{"user_id":"u"}}`))
	f.Add("a.b.c", "..")
	c := newClient(f, oauth.Config{})
	f.Fuzz(func(t *testing.T, access, id string) {
		cred := account.Credentials{AccessToken: account.NewSecret(access), IDToken: account.NewSecret(id)}
		got := c.Describe("openai", cred)
		if got.AccessToken.Reveal() != access || got.IDToken.Reveal() != id {
			t.Error("a token was changed")
		}
		got.Encode()
	})
}

// A process that was frozen reads an answer long after it came: the lifetime
// counts from when the request left.
func TestP5LifetimeCountsFromTheRequest(t *testing.T) {
	c := newClient(t, oauth.Config{})
	raw := refresh.RawAnswer{Status: 200, Body: []byte(`{"access_token":"a","expires_in":600}`), SentAt: received, ReceivedAt: received.Add(time.Hour)}
	if got := c.Judge("xai", raw).Credentials.ExpiresAt; !got.Equal(received.Add(10 * time.Minute)) {
		t.Errorf("expires at %s, sent at %s", got, received)
	}
}

// A worker whose clock is ahead of the endpoint's must not make the others
// believe that a token lives longer than it does.
func TestP5AFastClockMakesNoTokenLiveLonger(t *testing.T) {
	sent := time.Date(2027, 1, 15, 8, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		date time.Time
		want time.Time // when a token of ten minutes ends
	}{
		"our clock is 90 s ahead":                  {sent.Add(-90 * time.Second), sent.Add(-90 * time.Second).Add(10 * time.Minute)},
		"our clock is 90 s behind":                 {sent.Add(90 * time.Second), sent.Add(10 * time.Minute)},
		"the header is cut to whole seconds":       {sent.Add(-time.Second), sent.Add(10 * time.Minute)},
		"the endpoint's own clock is an hour slow": {sent.Add(-time.Hour), sent.Add(10 * time.Minute)},
		"no Date": {time.Time{}, sent.Add(10 * time.Minute)},
	} {
		t.Run(name, func(t *testing.T) {
			raw := refresh.RawAnswer{Status: 200, Body: []byte(`{"access_token":"a","expires_in":600}`), SentAt: sent, ReceivedAt: sent.Add(time.Second), Header: map[string]string{}}
			if !c.date.IsZero() {
				raw.Header["Date"] = c.date.Format(http.TimeFormat)
			}
			client, err := oauth.New(oauth.Config{})
			if err != nil {
				t.Fatal(err)
			}
			if v := client.Judge("openai", raw); !v.Credentials.ExpiresAt.Equal(c.want) || v.Lifetime != 10*time.Minute {
				t.Errorf("it ends %v and lives %v, want %v and 10m", v.Credentials.ExpiresAt, v.Lifetime, c.want)
			}
		})
	}
}
