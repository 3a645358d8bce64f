package oauth

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"time"

	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

// rule is one row of the table that judges answers.
type rule struct {
	status  func(int) bool
	when    func(facts) bool // nil: always
	outcome rotation.Outcome
	code    string // where the answer has none; "": http_<status>
	why     string
}

// facts are what a verdict rests on besides the status.
type facts struct {
	body
	codes         []string // the error codes, the most telling first
	dead          string   // the one that means that the grant is dead, or ""
	access, token bool     // there is an access token; any token
	refresh       bool     // there is a refresh token
	unusable      bool     // what is called the access token can be none
	cut           bool     // the body lacks its end
}

// rules judge an answer: the first that fits.
//
// What decides is what became of the refresh token. A 4xx is a refusal: the
// token is not spent, and unless a code says that the grant is dead, the
// request or the client is what is wrong. 429, 500, 503 and 529 come from an
// endpoint that says it did nothing. Everything else (a gateway's 502 and 504,
// a 2xx without a token) leaves open whether the token was spent.
var rules = []rule{
	{is2xx, whole, rotation.Granted, "", "the endpoint granted new tokens"},
	{is2xx, partly, rotation.Unknown, "truncated", "the answer with new tokens was cut short"},
	{is2xx, unusable, rotation.Unknown, "bad_access_token", "the answer's access token can't stand in a header"},
	{is2xx, noAccess, rotation.Unknown, "no_access_token", "the answer holds no access token"},
	{is2xx, codeIn(throttleCodes), rotation.Throttled, "", "the endpoint asks to slow down"},
	{is2xx, codeIn(busyCodes), rotation.Transient, "", "the endpoint failed"},
	{is2xx, codeIn(clientCodes), rotation.Misconfigured, "", "the endpoint refuses this client or request"},
	{is2xx, isPage, rotation.Misconfigured, "html", "a web page came instead of an answer: is token_url right, is something in between?"},
	{is2xx, isEmpty, rotation.Unknown, "empty", "the answer is empty"},
	{is2xx, isCut, rotation.Unknown, "truncated", "the answer was cut short"},
	{is2xx, notJSON, rotation.Unknown, "not_json", "the answer is no JSON object"},
	{is2xx, nil, rotation.Unknown, "no_access_token", "the answer holds no access token"},

	{is3xx, nil, rotation.Misconfigured, "redirect", "the endpoint redirects, which is not followed: is token_url right?"},

	{is(429), nil, rotation.Throttled, "", "the endpoint asks to slow down"},
	{is(408), nil, rotation.Unknown, "", "the endpoint gave up waiting"},
	{is(400, 401, 403), isDead, rotation.Rejected, "", "the endpoint refuses this grant"},
	{is4xx, codeIn(throttleCodes), rotation.Throttled, "", "the endpoint asks to slow down"},
	{is4xx, codeIn(busyCodes), rotation.Transient, "", "the endpoint failed"},
	{is4xx, isPage, rotation.Misconfigured, "html", "a web page came instead of an answer: is token_url right, is something in between?"},
	{is4xx, cutBeforeCode, rotation.Transient, "truncated", "the refusal was cut short before it said why"},
	{is4xx, codeIn(clientCodes), rotation.Misconfigured, "", "the endpoint refuses this client or request"},
	{is(404, 405), nil, rotation.Misconfigured, "", "there is no token endpoint at this address"},
	// Nobody knows what this is about: perhaps this account alone. It backs off,
	// and the circuit opens if others run into it too.
	{is4xx, nil, rotation.Transient, "", "the endpoint refuses this request"},

	{is(500, 503, 529), nil, rotation.Transient, "", "the endpoint failed"},
	{anyStatus, nil, rotation.Unknown, "", "nobody can say what became of the request"},
}

// Codes that mean the same in every dialect.
var (
	throttleCodes = []string{"rate_limit_error", "rate_limit_exceeded", "slow_down", "too_many_requests"}
	busyCodes     = []string{"server_error", "temporarily_unavailable", "overloaded_error", "api_error"}
	clientCodes   = []string{"invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
		"invalid_target", "invalid_request", "invalid_request_error"}
)

func anyStatus(int) bool { return true }
func is2xx(s int) bool   { return s/100 == 2 }
func is3xx(s int) bool   { return s/100 == 3 }
func is4xx(s int) bool   { return s/100 == 4 }

func is(statuses ...int) func(int) bool {
	return func(s int) bool { return slices.Contains(statuses, s) }
}

// whole: there is an access token, and no new refresh token can have been lost.
func whole(f facts) bool         { return f.access && (!f.cut || f.refresh) }
func partly(f facts) bool        { return f.token && f.cut }
func unusable(f facts) bool      { return f.unusable }
func noAccess(f facts) bool      { return f.token }
func isDead(f facts) bool        { return f.dead != "" }
func isPage(f facts) bool        { return f.page }
func isEmpty(f facts) bool       { return f.empty }
func isCut(f facts) bool         { return f.cut }
func notJSON(f facts) bool       { return f.fields == nil }
func cutBeforeCode(f facts) bool { return f.cut && len(f.codes) == 0 }

func codeIn(codes []string) func(facts) bool {
	return func(f facts) bool {
		return slices.ContainsFunc(f.codes, func(c string) bool { return slices.Contains(codes, c) })
	}
}

// Judge implements [refresh.Endpoint]. A platform that is not defined any
// more is judged by the defaults.
func (c *Client) Judge(platform string, raw refresh.RawAnswer) rotation.Verdict {
	d, ok := c.definitions[platform]
	if !ok {
		d = defaults()
	}
	v := rotation.Verdict{RetryAfter: retryAfter(raw)}
	b := readBody(raw)
	if is2xx(raw.Status) {
		d.read(b, issued(raw), &v)
	}
	f := d.facts(b, raw, v)
	i := slices.IndexFunc(rules, func(r rule) bool {
		return r.status(raw.Status) && (r.when == nil || r.when(f))
	})
	r := rules[i] // the last one always fits
	v.Outcome = r.outcome
	v.Code, v.Message = r.tell(f, raw)
	if r.outcome == rotation.Rejected {
		v.Reused = f.reused()
	}
	return v
}

// Bounds on how far our clock may be ahead of an endpoint's for its Date to
// count: less is the granularity of the header, more is an endpoint whose own
// clock is wrong.
const (
	minSkew = 2 * time.Second
	maxSkew = 5 * time.Minute
)

// issued is when the answer's tokens came about: when the request was about to
// leave or, if our clock is plainly ahead, what the endpoint's own says. So a
// worker with a fast clock makes no token live longer for the others.
func issued(raw refresh.RawAnswer) time.Time {
	sent := cmp.Or(raw.SentAt, raw.ReceivedAt)
	date, err := http.ParseTime(raw.Header["Date"])
	if ahead := sent.Sub(date); err != nil || ahead < minSkew || ahead > maxSkew {
		return sent
	}
	return date.UTC()
}

func (d Definition) facts(b body, raw refresh.RawAnswer, v rotation.Verdict) facts {
	f := facts{
		body:    b,
		codes:   b.codes(),
		access:  !v.Credentials.AccessToken.IsZero(),
		refresh: !v.Credentials.RefreshToken.IsZero(),
		cut:     raw.Truncated && !b.whole || b.fields != nil && !b.whole,
	}
	f.unusable = is2xx(raw.Status) && !f.access && b.text("access_token") != ""
	f.token = f.access || f.refresh || !v.Credentials.IDToken.IsZero()
	for _, code := range f.codes {
		if slices.Contains(d.DeadGrantErrors, code) && (f.dead == "" || code == reusedCode) {
			f.dead = code
		}
	}
	return f
}

// codes returns the error codes that stand where a protocol puts them: in
// error.code, code, error and error.type.
func (b body) codes() []string {
	object := b.object("error")
	all := []string{object.Text("code"), b.text("code"), b.text("error"), object.Text("type")}
	return slices.DeleteFunc(all, func(c string) bool { return c == "" })
}

// reusedCode is the code that says reuse by itself.
const reusedCode = "refresh_token_reused"

// reuseWords find reuse in the description that stands beside a dead grant's
// code.
var reuseWords = regexp.MustCompile(`(?i)\b(re-?used?|already (been )?used)\b`)

func (f facts) reused() bool {
	return slices.Contains(f.codes, reusedCode) ||
		reuseWords.MatchString(f.text("error_description")) ||
		reuseWords.MatchString(f.object("error").Text("message"))
}

// safeCode is what a code from outside must look like to be shown: an endpoint
// might echo a token there.
var safeCode = regexp.MustCompile(`^[a-z][a-z_.-]{0,47}$`)

// tell returns the verdict's code and its line for people.
func (r rule) tell(f facts, raw refresh.RawAnswer) (code, message string) {
	if r.outcome == rotation.Granted {
		return "", r.why
	}
	code = r.code
	shown := slices.IndexFunc(f.codes, safeCode.MatchString)
	switch {
	case r.outcome == rotation.Rejected:
		code = f.dead
	case shown >= 0 && code == "":
		code = f.codes[shown]
	case code == "":
		code = fmt.Sprintf("http_%d", raw.Status)
	}
	message = fmt.Sprintf("%s (%s, HTTP %d)", r.why, code, raw.Status)
	if host := redirectHost(raw); r.code == "redirect" && host != "" {
		message += " to " + host
	}
	return code, message
}

// redirectHost returns where a redirect leads, without what may be a secret.
func redirectHost(raw refresh.RawAnswer) string {
	u, err := url.Parse(raw.Header["Location"])
	if err != nil || !hostName.MatchString(u.Hostname()) {
		return ""
	}
	return u.Hostname()
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9.:-]{1,253}$`)
