package loginfile

import (
	"encoding/json"
	"strings"

	"github.com/tokenbus/tokenbus/account"
)

// Claude Code keeps its login in .credentials.json:
//
//	{"claudeAiOauth":{"accessToken":"…","refreshToken":"…","expiresAt":1800000000000,"scopes":["user:inference"]}}
//
// Whose it is stands in .claude.json:
//
//	{"oauthAccount":{"accountUuid":"…","organizationUuid":"…","emailAddress":"…"}}
//
// One without refreshToken is a setup token, which lives for about a year.
func isClaudeCode(o object) bool { return o.has("claudeAiOauth") }

func readClaudeCode(f File, o object) ([]Login, []*Error) {
	t := o.object("claudeAiOauth")
	l := Login{Platform: anthropic, Credentials: account.Credentials{
		AccessToken: t.secret("accessToken"), RefreshToken: t.secret("refreshToken"), ExpiresAt: t.time("expiresAt"),
		Scope: scopes(t),
	}}
	l.NeedsID = true
	if f.ClaudeAccount != nil {
		if e := l.claudeOwner(f.ClaudeAccount); e != nil {
			return nil, []*Error{e}
		}
	}
	if l.Credentials.RefreshToken.IsZero() {
		l.note(NoteSetupToken, "a setup token, without refresh token: it is served until it ends, then a new login is needed")
	} else {
		l.note(NoteTwoWriters, "Claude Code goes on refreshing this login too, and the one that comes second ends it: give tokenbus a login of its own (CLAUDE_CONFIG_DIR=… claude), "+
			"or stop using this one in Claude Code (delete its file)")
	}
	if e := usable(&l); e != nil {
		return nil, []*Error{e}
	}
	return []Login{l}, nil
}

// claudeOwner sets id and label by the content of .claude.json.
func (l *Login) claudeOwner(data []byte) *Error {
	account, err := parse(data)
	if err != nil {
		return &Error{Reason: "the account file (.claude.json): " + err.Error()}
	}
	who := account.object("oauthAccount")
	user, organization := who.text("accountUuid"), who.text("organizationUuid")
	email := who.text("emailAddress")
	if wrong := account.problem(); wrong != "" {
		return &Error{Reason: "the account file (.claude.json): " + wrong}
	}
	l.identify(user, organization)
	if l.NeedsID {
		return nil
	}
	l.Label = email
	setExtra(&l.Credentials, "account_uuid", user)
	setExtra(&l.Credentials, "organization_uuid", organization)
	setExtra(&l.Credentials, "email", email)
	l.note(NoteAccountFile, "whose login it is comes from Claude Code's .claude.json")
	return nil
}

// scopes returns the field scopes, an array or a text, as one text.
func scopes(o object) string {
	if !o.isArray("scopes") {
		return o.text("scopes")
	}
	var list []string
	if json.Unmarshal(o.fields["scopes"], &list) != nil {
		o.wrong("scopes", "want an array of strings")
	}
	return strings.Join(list, " ")
}
