package oauth

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/rotation"
)

// Auth is how the client authenticates at the token endpoint.
type Auth string

// The ways of client authentication (RFC 6749 §2.3).
const (
	AuthNone  Auth = "none"  // a public client: client_id in the body, never a secret
	AuthBody  Auth = "body"  // client_id and client_secret in the body
	AuthBasic Auth = "basic" // both in the Authorization header
)

// Encoding is the form of the request's body.
type Encoding string

// The forms of a request's body.
const (
	EncodingForm Encoding = "form"
	EncodingJSON Encoding = "json"
)

// Definition is what is known of one platform's token endpoint. The fields are
// those of the provider file.
type Definition struct {
	// TokenURL is https, or http on a loopback address.
	TokenURL string
	// ClientID is sent unless the account has one of its own. Empty: each
	// account must bring its own.
	ClientID string
	// ClientSecret is the provider's, for AuthBody and AuthBasic. It is not
	// sent with an account's own, different client id.
	ClientSecret account.Secret
	// ClientSecretEnv names the environment variable that [New] takes
	// ClientSecret from where that is empty. Missing there is no error: the
	// platform may not be in use. An exchange then fails unsent with
	// [refresh.ErrMisconfigured].
	ClientSecretEnv string
	Auth            Auth
	Encoding        Encoding
	Params          map[string]string // added to the request's body: scope, resource, …
	Headers         map[string]string // added to the request
	// AccountHeaders are headers that take their value from an extra field of
	// the account (header name to field name); absent where the account lacks
	// it. Not part of the provider file.
	AccountHeaders       map[string]string
	ExtraFields          []string // extra fields that replies may carry
	Timeout              time.Duration
	ReuseGrace           time.Duration
	DeadGrantErrors      []string // codes that mean: this grant is dead
	MinRefreshAge        time.Duration
	RefreshAtLeastEvery  time.Duration
	ServeWhileRefreshing bool
	MaxConcurrent        int
	ProxyURL             account.Secret // http, https, socks5 or socks5h; may hold a password
}

// Definitions are definitions by platform.
type Definitions map[string]Definition

// defaults returns the definition of a platform of which nothing is known yet: all
// defaults, no TokenURL.
func defaults() Definition {
	return Definition{
		Auth:     AuthNone,
		Encoding: EncodingForm,
		ExtraFields: []string{"chatgpt_account_id", "chatgpt_user_id", "plan_type", "project_id",
			"account_uuid", "organization_uuid", "email"},
		Timeout:              time.Minute,
		DeadGrantErrors:      []string{"invalid_grant"},
		ServeWhileRefreshing: true,
		MaxConcurrent:        32,
	}
}

// clone returns d with nothing shared.
func (d Definition) clone() Definition {
	d.Params, d.Headers, d.AccountHeaders = maps.Clone(d.Params), maps.Clone(d.Headers), maps.Clone(d.AccountHeaders)
	d.ExtraFields, d.DeadGrantErrors = slices.Clone(d.ExtraFields), slices.Clone(d.DeadGrantErrors)
	return d
}

// Policy returns the part of the definition that the provider goes by.
func (d Definition) Policy() rotation.Policy {
	return rotation.Policy{
		Timeout:              d.Timeout,
		ReuseGrace:           d.ReuseGrace,
		MinRefreshAge:        d.MinRefreshAge,
		RefreshAtLeastEvery:  d.RefreshAtLeastEvery,
		ServeWhileRefreshing: d.ServeWhileRefreshing,
		MaxConcurrent:        d.MaxConcurrent,
		ExtraFields:          slices.Clone(d.ExtraFields),
	}
}

// problem is one thing that is wrong with a definition. The text never quotes
// what may be a secret.
type problem struct{ field, text string }

// Check reports everything that is wrong with the definition.
func (d Definition) Check() error {
	var errs []error
	for _, p := range d.problems() {
		errs = append(errs, fmt.Errorf("%s: %s", p.field, p.text))
	}
	return errors.Join(errs...)
}

func (d Definition) problems() []problem {
	var out []problem
	add := func(field, format string, args ...any) {
		out = append(out, problem{field, fmt.Sprintf(format, args...)})
	}
	if _, err := parseTokenURL(d.TokenURL); err != nil {
		add("token_url", "%v", err)
	}
	if d.Auth != AuthNone && d.Auth != AuthBody && d.Auth != AuthBasic {
		add("auth", "want none, body or basic")
	}
	if d.Encoding != EncodingForm && d.Encoding != EncodingJSON {
		add("encoding", "want form or json")
	}
	if d.Auth != AuthNone && d.ClientID != "" && d.ClientSecret.IsZero() && d.ClientSecretEnv == "" {
		add("auth", "%s needs client_secret_env or client_secret_file", d.Auth)
	}
	for name := range sorted(d.Params) {
		if slices.Contains([]string{"", "grant_type", "refresh_token", "client_id", "client_secret"}, name) {
			add("params", "%q is not for params", name)
		}
	}
	for name, value := range sorted(d.Headers) {
		if why := headerProblem(name, value); why != "" {
			add("headers", "%q %s", name, why)
		}
	}
	for _, f := range d.ExtraFields {
		if !fieldName.MatchString(f) {
			add("extra_fields", "want names of letters, digits, _, - and .")
		} else if slices.Contains(notExtra, f) {
			add("extra_fields", "%s is no extra field", f)
		}
	}
	for _, c := range d.DeadGrantErrors {
		if c == "" || len(c) > 128 {
			add("dead_grant_errors", "want codes of 1 to 128 characters")
		}
	}
	out = append(out, d.numberProblems()...)
	if !d.ProxyURL.IsZero() {
		if _, err := parseProxyURL(d.ProxyURL); err != nil {
			add("proxy_url", "%v", err)
		}
	}
	return out
}

func (d Definition) numberProblems() []problem {
	var out []problem
	for _, f := range []struct {
		name  string
		value time.Duration
	}{
		{"reuse_grace", d.ReuseGrace},
		{"min_refresh_age", d.MinRefreshAge},
		{"refresh_at_least_every", d.RefreshAtLeastEvery},
	} {
		if f.value < 0 {
			out = append(out, problem{f.name, "must not be negative"})
		}
	}
	if d.Timeout <= 0 {
		out = append(out, problem{"timeout", "must be above 0"})
	}
	if d.MaxConcurrent < 1 || d.MaxConcurrent > 100_000 {
		out = append(out, problem{"max_concurrent", "want 1 to 100000"})
	}
	return out
}

// fieldName is what an extra field may be called.
var fieldName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)

// notExtra are fields of the credentials that no reply carries as extra.
var notExtra = []string{"access_token", "refresh_token", "id_token", "token_type", "scope",
	"expires_at", "client_id", "client_secret", "proxy_url"}

// ownHeaders are headers that the request or the connection sets itself.
var ownHeaders = []string{"Authorization", "Host", "Content-Type", "Content-Length", "Content-Encoding",
	"Transfer-Encoding", "Accept-Encoding", "Connection", "Proxy-Authorization", "Proxy-Connection",
	"Expect", "Keep-Alive", "Te", "Trailer", "Upgrade"}

func headerProblem(name, value string) string {
	own := func(h string) bool { return strings.EqualFold(h, name) }
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return "is no header name"
	case slices.ContainsFunc(ownHeaders, own):
		return "can't be set"
	case !httpguts.ValidHeaderFieldValue(value):
		return "has a value that no header can have"
	}
	return ""
}

// parseTokenURL checks a token URL. Its errors don't quote it.
func parseTokenURL(s string) (*url.URL, error) {
	if s == "" {
		return nil, errors.New("is missing")
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "" || !validPort(u.Port()) || strings.ContainsAny(s, " \t"):
		return nil, errors.New("is not a URL")
	case u.User != nil:
		return nil, errors.New("must not hold a user or password")
	case u.Fragment != "":
		return nil, errors.New("must not have a fragment")
	case u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname()):
		return u, nil
	case u.Scheme == "http":
		return nil, errors.New("must be https (http is for loopback addresses only)")
	}
	return nil, errors.New("must be https")
}

// parseProxyURL checks a proxy's URL. Its errors don't quote it.
func parseProxyURL(s account.Secret) (*url.URL, error) {
	u, err := url.Parse(s.Reveal())
	if err != nil || u.Hostname() == "" || !validPort(u.Port()) || u.Path != "" && u.Path != "/" || u.RawQuery != "" {
		return nil, errors.New("is not a proxy's URL")
	}
	if _, ok := proxyPorts[u.Scheme]; !ok {
		return nil, errors.New("must be http, https, socks5 or socks5h")
	}
	return u, nil
}

func validPort(port string) bool {
	if port == "" {
		return true
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// hostPort returns the address to dial for u.
func hostPort(u *url.URL, defaultPort string) string {
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// sorted ranges over m in the order of its keys.
func sorted(m map[string]string) func(yield func(string, string) bool) {
	return func(yield func(string, string) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}
