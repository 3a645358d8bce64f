package loginfile

import (
	"cmp"

	"github.com/tokenbus/tokenbus/account"
)

// CLIProxyAPI keeps one login a file:
//
//	{"type":"claude","access_token":"…","refresh_token":"…","email":"…","account_uuid":"…","organization_uuid":"…","expired":"2026-01-02T03:04:05Z"}
//
// The type is codex, claude, antigravity, xai, kimi, or gemini, whose tokens
// are one level down in "token"; a vertex file holds a service account.
func isCLIProxy(o object) bool {
	switch o.peek("type") {
	case "codex", "claude", "antigravity", "xai", "kimi", "gemini", "vertex":
		return true
	}
	return false
}

func readCLIProxy(o object, l *Login) *Error {
	t := o
	if o.peek("type") == "gemini" && o.has("token") {
		t = o.object("token")
	}
	l.Label = o.text("email")
	l.Credentials = account.Credentials{
		AccessToken: t.secret("access_token"), RefreshToken: t.secret("refresh_token"), IDToken: t.secret("id_token"),
		TokenType: t.text("token_type"), Scope: t.text("scope"), ExpiresAt: o.time("expired"), ProxyURL: o.secret("proxy_url"),
	}
	if e := l.ofCLIProxy(o, t); e != nil {
		return e
	}
	if o.flag("disabled") {
		l.note(NotePaused, "CLIProxyAPI has it switched off")
	}
	l.writerNote("CLIProxyAPI", "remove its file there")
	return usable(l)
}

// ofCLIProxy sets what depends on the file's type. t is where the tokens are.
func (l *Login) ofCLIProxy(o, t object) *Error {
	c := &l.Credentials
	switch o.peek("type") {
	case "codex":
		l.Platform = openai
		l.describeOpenAI("", o.text("account_id"))
	case "claude":
		l.Platform = anthropic
		o.copyTo(c, "account_uuid", "organization_uuid", "email")
		l.identify(o.text("account_uuid"), o.text("organization_uuid"))
	case "antigravity", "gemini":
		l.Platform = o.peek("type")
		o.copyTo(c, "project_id", "email")
		if c.ExpiresAt.IsZero() {
			c.ExpiresAt = t.time("expiry")
		}
		c.ClientID, c.ClientSecret = t.text("client_id"), t.secret("client_secret")
		if l.describeGoogle(); l.NeedsID {
			l.identify(o.text("email")) // Google's own name of the user
		}
	case "xai":
		l.Platform = xai
		l.identifyBySubject(o.text("sub"))
	case "kimi":
		l.Platform = kimi
		o.copyTo(c, "device_id")
		l.identifyBySubject("")
	default:
		return &Error{Reason: "it holds a service account", kind: ErrNoLogin}
	}
	return nil
}

// identifyBySubject sets the id to the subject that the file or else its
// tokens name.
func (l *Login) identifyBySubject(subject string) {
	c := &l.Credentials
	id, access := claimsOf(c.IDToken), claimsOf(c.AccessToken)
	if c.ExpiresAt.IsZero() {
		c.ExpiresAt = access.expiry()
	}
	l.identify(cmp.Or(subject, id.peek("sub"), access.peek("sub")))
}

// writerNote says that program goes on refreshing the login, and how to end
// that.
func (l *Login) writerNote(program, remedy string) {
	switch {
	case l.Credentials.RefreshToken.IsZero():
	case l.Platform == gemini || l.Platform == antigravity:
		l.note(NoteShared, program+" goes on refreshing this login too; Google's refresh tokens don't change with use, so both can")
	default:
		l.note(NoteTwoWriters, program+" goes on refreshing this login too, and the one that comes second ends it: "+remedy+", or give tokenbus a login of its own")
	}
}
