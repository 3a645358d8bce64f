package loginfile

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"strconv"

	"github.com/tokenbus/tokenbus/account"
)

// A sub2api export, perhaps inside "data":
//
//	{"type":"sub2api-data","version":1,"proxies":[…],"accounts":[{"name":"…","platform":"openai","type":"oauth","credentials":{…},"extra":{…},"proxy_key":"…"}]}
//
// An account's own expires_at is its paid period and no expiry of a token.
func isSub2API(o object) bool {
	o = sub2apiBody(o)
	switch o.peek("type") {
	case "sub2api-data", "sub2api-bundle":
		return o.isArray("accounts")
	}
	return !o.has("type") && o.isArray("accounts")
}

func sub2apiBody(o object) object {
	if !o.has("accounts") && o.isObject("data") {
		return o.object("data")
	}
	return o
}

func readSub2API(_ File, o object) ([]Login, []*Error) {
	o = sub2apiBody(o)
	if o.has("version") && string(o.fields["version"]) != "0" && string(o.fields["version"]) != "1" {
		o.wrong("version", "want 1")
		return nil, nil
	}
	proxies := sub2apiProxies(o)
	var logins []Login
	var problems []*Error
	o.each("accounts", func(i int, raw json.RawMessage) {
		var l Login
		if e := readSub2APIAccount(raw, proxies, &l); e != nil {
			e.Entry = fmt.Sprintf("%saccounts[%d]", o.path, i)
			problems = append(problems, e)
			return
		}
		logins = append(logins, l)
	})
	return logins, problems
}

func readSub2APIAccount(raw json.RawMessage, proxies map[string]account.Secret, l *Login) *Error {
	o, err := parse(raw)
	if err != nil {
		return &Error{Reason: err.Error()}
	}
	switch o.text("type") {
	case "oauth", "setup-token":
	default:
		return &Error{Reason: "an API key or another kind of access", kind: ErrNoLogin}
	}
	if l.Platform = o.text("platform"); l.Platform == "grok" {
		l.Platform = xai
	}
	checkKey(o, "platform", l.Platform, "x")
	c := o.object("credentials")
	l.Label = o.text("name")
	l.Credentials = account.Credentials{
		AccessToken: c.secret("access_token"), RefreshToken: c.secret("refresh_token"), IDToken: c.secret("id_token"),
		TokenType: c.text("token_type"), Scope: c.text("scope"), ExpiresAt: c.time("expires_at"), ClientID: c.text("client_id"),
	}
	c.copyTo(&l.Credentials, "project_id", "email")
	l.ofSub2API(o, c)
	if key := o.text("proxy_key"); key != "" {
		proxy, ok := proxies[key]
		if !ok {
			return &Error{Reason: "proxy_key: names none of the proxies in the file; export them too, or take the key out"}
		}
		l.Credentials.ProxyURL = proxy
	}
	if wrong := o.problem(); wrong != "" {
		return &Error{Reason: wrong}
	}
	l.writerNote("sub2api", "remove the account there")
	return usable(l)
}

// ofSub2API sets what depends on the platform. c are the credentials in o.
func (l *Login) ofSub2API(o, c object) {
	switch l.Platform {
	case openai:
		l.describeOpenAI(c.text("chatgpt_user_id"), c.text("chatgpt_account_id"))
	case anthropic:
		extra := o.object("extra")
		user, organization := extra.text("account_uuid"), extra.text("org_uuid")
		setExtra(&l.Credentials, "account_uuid", user)
		setExtra(&l.Credentials, "organization_uuid", organization)
		l.identify(user, organization)
		if l.Credentials.RefreshToken.IsZero() {
			l.note(NoteSetupToken, "a setup token, without refresh token: it is served until it ends, then a new login is needed")
		}
	case gemini, antigravity:
		l.describeGoogle()
	default:
		l.identifyBySubject("")
	}
	if l.NeedsID {
		l.identify(o.text("name"))
	}
}

// sub2apiProxies returns the URLs of the proxies in the file by their keys.
func sub2apiProxies(o object) map[string]account.Secret {
	proxies := map[string]account.Secret{}
	o.each("proxies", func(_ int, raw json.RawMessage) {
		p, err := parse(raw)
		if err != nil {
			return // whoever names it is told
		}
		port, err := strconv.ParseUint(string(p.fields["port"]), 10, 16)
		if p.peek("proxy_key") == "" || p.peek("host") == "" || err != nil {
			return
		}
		u := url.URL{Scheme: p.peek("protocol"), Host: net.JoinHostPort(p.peek("host"), strconv.FormatUint(port, 10))}
		if user := p.peek("username"); user != "" {
			u.User = url.UserPassword(user, p.peek("password"))
		}
		proxies[p.peek("proxy_key")] = account.NewSecret(u.String())
	})
	return proxies
}
