package oauth_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

var received = time.Date(2026, 3, 1, 12, 0, 0, 123_000_000, time.UTC)

const page = "<!DOCTYPE html><html><head><title>Just a moment…</title></head></html>"

// openaiError is the shape of OpenAI's errors.
func openaiError(code string) string {
	return `{"error":{"message":"Please log in again.","type":"invalid_request_error","param":null,"code":"` + code + `"}}`
}

func TestP9JudgeFailures(t *testing.T) {
	c := newClient(t, oauth.Config{})
	html := map[string]string{"Content-Type": "text/html; charset=UTF-8"}
	for _, tt := range []struct {
		name     string
		platform string
		status   int
		header   map[string]string
		body     string
		want     rotation.Outcome
		code     string
		reused   bool
		retry    time.Duration
	}{
		// The grant is dead.
		{name: "openai reused 401", platform: "openai", status: 401, body: openaiError("refresh_token_reused"), want: rotation.Rejected, code: "refresh_token_reused", reused: true},
		{name: "openai reused 400", platform: "openai", status: 400, body: openaiError("refresh_token_reused"), want: rotation.Rejected, code: "refresh_token_reused", reused: true},
		{name: "openai expired", platform: "openai", status: 401, body: openaiError("refresh_token_expired"), want: rotation.Rejected, code: "refresh_token_expired"},
		{name: "openai invalidated", platform: "openai", status: 401, body: openaiError("refresh_token_invalidated"), want: rotation.Rejected, code: "refresh_token_invalidated"},
		{name: "openai invalid", platform: "openai", status: 401, body: openaiError("invalid_refresh_token"), want: rotation.Rejected, code: "invalid_refresh_token"},
		{name: "openai session terminated", platform: "openai", status: 401, body: openaiError("app_session_terminated"), want: rotation.Rejected, code: "app_session_terminated"},
		{name: "openai token expired", platform: "openai", status: 401, body: openaiError("token_expired"), want: rotation.Rejected, code: "token_expired"},
		{name: "openai both shapes", platform: "openai", status: 400, body: `{"error":"invalid_grant","code":"refresh_token_reused"}`, want: rotation.Rejected, code: "refresh_token_reused", reused: true},
		{name: "openai code beside dead error", platform: "openai", status: 400, body: `{"error":"invalid_grant","code":"refresh_token_expired"}`, want: rotation.Rejected, code: "refresh_token_expired"},
		{name: "openai reuse behind another dead code", platform: "openai", status: 400, body: `{"error":{"code":"invalid_grant","type":"refresh_token_reused"}}`, want: rotation.Rejected, code: "refresh_token_reused", reused: true},
		{name: "openai type", platform: "openai", status: 403, body: `{"error":{"type":"invalid_grant"}}`, want: rotation.Rejected, code: "invalid_grant"},
		{name: "anthropic", platform: "anthropic", status: 400, body: `{"error":"invalid_grant","error_description":"Refresh token not found or invalid"}`, want: rotation.Rejected, code: "invalid_grant"},
		{name: "google", platform: "gemini", status: 400, body: `{"error":"invalid_grant","error_description":"Bad Request"}`, want: rotation.Rejected, code: "invalid_grant"},
		{name: "google expired or revoked", platform: "antigravity", status: 400, body: `{"error":"invalid_grant","error_description":"Token has been expired or revoked."}`, want: rotation.Rejected, code: "invalid_grant"},
		{name: "xai", platform: "xai", status: 400, body: `{"error":"invalid_grant"}`, want: rotation.Rejected, code: "invalid_grant"},
		{name: "auth0 403", platform: "kimi", status: 403, body: `{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}`, want: rotation.Rejected, code: "invalid_grant"},
		{name: "reuse told by the description", platform: "xai", status: 400, body: `{"error":"invalid_grant","error_description":"refresh token already used"}`, want: rotation.Rejected, code: "invalid_grant", reused: true},
		{name: "dead although cut", platform: "xai", status: 400, body: `{"error":"invalid_grant","error_descr`, want: rotation.Rejected, code: "invalid_grant"},
		{name: "platform gone", platform: "nobody", status: 400, body: `{"error":"invalid_grant"}`, want: rotation.Rejected, code: "invalid_grant"},

		// Our request, our client, the way there.
		{name: "anthropic invalid request", platform: "anthropic", status: 400, body: `{"type":"error","error":{"type":"invalid_request_error","message":"refresh_token_reused? invalid_grant?"}}`, want: rotation.Misconfigured, code: "invalid_request_error"},
		{name: "google client secret missing", platform: "gemini", status: 400, body: `{"error":"invalid_request","error_description":"client_secret is missing."}`, want: rotation.Misconfigured, code: "invalid_request"},
		{name: "google invalid client", platform: "gemini", status: 401, body: `{"error":"invalid_client","error_description":"The OAuth client was not found."}`, want: rotation.Misconfigured, code: "invalid_client"},
		{name: "invalid client 400", platform: "xai", status: 400, body: `{"error":"invalid_client"}`, want: rotation.Misconfigured, code: "invalid_client"},
		{name: "unauthorized client", platform: "xai", status: 400, body: `{"error":"unauthorized_client"}`, want: rotation.Misconfigured, code: "unauthorized_client"},
		{name: "unsupported grant type", platform: "xai", status: 400, body: `{"error":"unsupported_grant_type"}`, want: rotation.Misconfigured, code: "unsupported_grant_type"},
		{name: "invalid scope", platform: "xai", status: 400, body: `{"error":"invalid_scope"}`, want: rotation.Misconfigured, code: "invalid_scope"},
		{name: "openai code elsewhere", platform: "xai", status: 401, body: openaiError("refresh_token_reused"), want: rotation.Misconfigured, code: "refresh_token_reused"},
		{name: "dead code in the wrong place", platform: "xai", status: 400, body: `{"message":"invalid_grant","detail":{"error":"invalid_grant"}}`, want: rotation.Transient, code: "http_400"},
		{name: "dead code that is no string", platform: "xai", status: 400, body: `{"error":["invalid_grant"],"code":400}`, want: rotation.Transient, code: "http_400"},
		{name: "dead code at another status", platform: "xai", status: 404, body: `{"error":"invalid_grant"}`, want: rotation.Misconfigured, code: "invalid_grant"},
		{name: "redirect 302", platform: "xai", status: 302, header: map[string]string{"Location": "https://login.example/?t=s3cr3t"}, want: rotation.Misconfigured, code: "redirect"},
		{name: "redirect 307", platform: "xai", status: 307, body: `{"error":"invalid_grant"}`, want: rotation.Misconfigured, code: "redirect"},
		{name: "404", platform: "anthropic", status: 404, body: `{"type":"error","error":{"type":"not_found_error"}}`, want: rotation.Misconfigured, code: "not_found_error"},
		{name: "405", platform: "xai", status: 405, want: rotation.Misconfigured, code: "http_405"},
		{name: "401 of nothing", platform: "xai", status: 401, want: rotation.Transient, code: "http_401"},
		{name: "403 web page", platform: "openai", status: 403, header: html, body: page, want: rotation.Misconfigured, code: "html"},
		{name: "403 web page that says invalid_grant", platform: "openai", status: 403, header: html, body: "<html>invalid_grant</html>", want: rotation.Misconfigured, code: "html"},
		{name: "200 web page", platform: "openai", status: 200, header: html, body: page, want: rotation.Misconfigured, code: "html"},
		{name: "200 web page without type", platform: "openai", status: 200, body: "\n " + page, want: rotation.Misconfigured, code: "html"},
		{name: "200 with a client's error", platform: "xai", status: 200, body: `{"error":"invalid_client"}`, want: rotation.Misconfigured, code: "invalid_client"},

		// Not now.
		{name: "anthropic 429", platform: "anthropic", status: 429, header: map[string]string{"Retry-After": "17"}, body: `{"type":"error","error":{"type":"rate_limit_error","message":"…"}}`, want: rotation.Throttled, code: "rate_limit_error", retry: 17 * time.Second},
		{name: "429 ms", platform: "anthropic", status: 429, header: map[string]string{"Retry-After": "17", "Retry-After-Ms": "1500"}, want: rotation.Throttled, code: "http_429", retry: 1500 * time.Millisecond},
		{name: "429 date by its own clock", platform: "xai", status: 429, header: map[string]string{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT", "Date": "Wed, 21 Oct 2015 07:27:15 GMT"}, want: rotation.Throttled, code: "http_429", retry: 45 * time.Second},
		{name: "429 date by ours", platform: "xai", status: 429, header: map[string]string{"Retry-After": "Sun, 01 Mar 2026 12:01:00 GMT"}, want: rotation.Throttled, code: "http_429", retry: 59*time.Second + 877*time.Millisecond},
		{name: "429 date past", platform: "xai", status: 429, header: map[string]string{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, want: rotation.Throttled, code: "http_429"},
		{name: "429 nonsense", platform: "xai", status: 429, header: map[string]string{"Retry-After": "soon", "Retry-After-Ms": "NaN"}, want: rotation.Throttled, code: "http_429"},
		{name: "429 for ever", platform: "xai", status: 429, header: map[string]string{"Retry-After": "99999999999999999999"}, want: rotation.Throttled, code: "http_429", retry: 24 * time.Hour},
		{name: "429 page", platform: "xai", status: 429, header: html, body: page, want: rotation.Throttled, code: "http_429"},
		{name: "400 rate limit", platform: "anthropic", status: 400, body: `{"error":{"type":"rate_limit_error"}}`, want: rotation.Throttled, code: "rate_limit_error"},

		// The endpoint failed and says so.
		{name: "500", platform: "xai", status: 500, body: `{"error":"invalid_grant"}`, want: rotation.Transient, code: "invalid_grant"},
		{name: "503", platform: "xai", status: 503, header: map[string]string{"Retry-After": "120"}, want: rotation.Transient, code: "http_503", retry: 2 * time.Minute},
		{name: "503 page", platform: "xai", status: 503, header: html, body: page, want: rotation.Transient, code: "http_503"},
		{name: "529", platform: "anthropic", status: 529, body: `{"error":{"type":"overloaded_error"}}`, want: rotation.Transient, code: "overloaded_error"},
		{name: "400 temporarily unavailable", platform: "xai", status: 400, body: `{"error":"temporarily_unavailable"}`, want: rotation.Transient, code: "temporarily_unavailable"},
		{name: "400 cut before the code", platform: "xai", status: 400, body: `{"err`, want: rotation.Transient, code: "truncated"},

		// Nobody can say.
		{name: "502", platform: "xai", status: 502, header: html, body: page, want: rotation.Unknown, code: "http_502"},
		{name: "504", platform: "xai", status: 504, want: rotation.Unknown, code: "http_504"},
		{name: "408", platform: "xai", status: 408, want: rotation.Unknown, code: "http_408"},
		{name: "520", platform: "xai", status: 520, want: rotation.Unknown, code: "http_520"},
		{name: "524", platform: "xai", status: 524, want: rotation.Unknown, code: "http_524"},
		{name: "501", platform: "xai", status: 501, want: rotation.Unknown, code: "http_501"},
		{name: "101", platform: "xai", status: 101, want: rotation.Unknown, code: "http_101"},
		{name: "nothing at all", platform: "xai", want: rotation.Unknown, code: "http_0"},
		{name: "200 empty", platform: "xai", status: 200, want: rotation.Unknown, code: "empty"},
		{name: "200 blank", platform: "xai", status: 200, header: html, body: " \n", want: rotation.Unknown, code: "empty"},
		{name: "204", platform: "xai", status: 204, want: rotation.Unknown, code: "empty"},
		{name: "200 nonsense", platform: "xai", status: 200, body: "OK", want: rotation.Unknown, code: "not_json"},
		{name: "200 array", platform: "xai", status: 200, body: `["access_token","x"]`, want: rotation.Unknown, code: "not_json"},
		{name: "200 object of nothing", platform: "xai", status: 200, body: `{}`, want: rotation.Unknown, code: "no_access_token"},
		{name: "200 null token", platform: "xai", status: 200, body: `{"access_token":null}`, want: rotation.Unknown, code: "no_access_token"},
		{name: "200 odd token", platform: "xai", status: 200, body: `{"access_token":7}`, want: rotation.Unknown, code: "no_access_token"},
		{name: "200 cut", platform: "xai", status: 200, body: `{"access_tok`, want: rotation.Unknown, code: "truncated"},
		{name: "200 with an error nobody knows", platform: "xai", status: 200, body: `{"error":"try_the_moon"}`, want: rotation.Unknown, code: "no_access_token"},
		{name: "200 with a dead grant: only a refusal is a proof", platform: "xai", status: 200, body: `{"error":"invalid_grant"}`, want: rotation.Unknown, code: "no_access_token"},
		{name: "a code of one endpoint's own", platform: "xai", status: 400, body: `{"error":"account_suspended"}`, want: rotation.Transient, code: "account_suspended"},
		{name: "200 slow down", platform: "kimi", status: 200, body: `{"error":"slow_down"}`, want: rotation.Throttled, code: "slow_down"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			raw := refresh.RawAnswer{Status: tt.status, Header: tt.header, Body: []byte(tt.body), ReceivedAt: received}
			v := c.Judge(tt.platform, raw)
			if v.Outcome != tt.want || v.Code != tt.code || v.Reused != tt.reused || v.RetryAfter != tt.retry {
				t.Errorf("got %s %q reused=%v retry=%v\nwant %s %q reused=%v retry=%v",
					v.Outcome, v.Code, v.Reused, v.RetryAfter, tt.want, tt.code, tt.reused, tt.retry)
			}
			if v.Message == "" || strings.ContainsAny(v.Message, "\r\n") || strings.Contains(v.Message, "s3cr3t") {
				t.Errorf("message %q", v.Message)
			}
			if !v.Credentials.AccessToken.IsZero() || !v.Credentials.RefreshToken.IsZero() {
				t.Error("a failure brought a token")
			}
		})
	}
}

// An endpoint that echoes a token where a code belongs doesn't get it into
// the verdict's text.
func TestP8VerdictQuotesNothing(t *testing.T) {
	c := newClient(t, oauth.Config{})
	const secret = "rt-8Zk2QmPq7x"
	for _, body := range []string{
		`{"error":"` + secret + `"}`,
		`{"error":{"code":"` + secret + `","type":"` + secret + `","message":"` + secret + `"},"code":"` + secret + `"}`,
		`{"error":"invalid_grant","error_description":"` + secret + `"}`,
		`{"error":"invalid grant ` + secret + `"}`,
		secret,
		"<html>" + secret + "</html>",
	} {
		for _, status := range []int{200, 302, 400, 401, 403, 404, 429, 500, 502, 503} {
			v := c.Judge("openai", refresh.RawAnswer{Status: status, Body: []byte(body), ReceivedAt: received,
				Header: map[string]string{"Location": "https://x.example/" + secret, "Retry-After": secret, "Content-Type": secret}})
			if strings.Contains(v.Code+v.Message, secret) {
				t.Errorf("HTTP %d %s: %q %q", status, body, v.Code, v.Message)
			}
		}
	}
}

func TestJudgeUsesTheDefinitionsCodes(t *testing.T) {
	d := oauth.Builtin()
	mine := d["xai"]
	mine.DeadGrantErrors = []string{"AADSTS70008"}
	d["mine"] = mine
	c := newClient(t, oauth.Config{Definitions: d})
	raw := refresh.RawAnswer{Status: 400, Body: []byte(`{"error":"invalid_grant","code":"AADSTS70008"}`)}
	if v := c.Judge("mine", raw); v.Outcome != rotation.Rejected || v.Code != "AADSTS70008" {
		t.Errorf("got %s %q", v.Outcome, v.Code)
	}
	raw.Body = []byte(`{"error":"invalid_grant"}`)
	if v := c.Judge("mine", raw); v.Outcome != rotation.Transient {
		t.Errorf("invalid_grant is not in the list: got %s", v.Outcome)
	}
}
