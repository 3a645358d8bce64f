package loginfile

import "github.com/tokenbus/tokenbus/account"

// Codex keeps its login in auth.json:
//
//	{"auth_mode":"chatgpt","OPENAI_API_KEY":null,"tokens":{"id_token":"…","access_token":"…","refresh_token":"…","account_id":"…"},"last_refresh":"…"}
//
// The expiry is the access token's own. account_id is the workspace, which a
// team shares: the user comes from the tokens.
func isCodex(o object) bool {
	return o.isObject("tokens") || o.has("OPENAI_API_KEY") || o.has("auth_mode")
}

func readCodex(o object, l *Login) *Error {
	if !o.has("tokens") {
		if o.has("OPENAI_API_KEY") {
			return &Error{Reason: "it holds an API key alone, which needs no tokenbus", kind: ErrNoLogin}
		}
		return &Error{Reason: `log in with ChatGPT first ("codex login")`, kind: ErrNoLogin}
	}
	t := o.object("tokens")
	l.Platform = openai
	l.Credentials = account.Credentials{
		AccessToken: t.secret("access_token"), RefreshToken: t.secret("refresh_token"), IDToken: t.secret("id_token"),
	}
	l.describeOpenAI("", t.text("account_id"))
	if !l.Credentials.RefreshToken.IsZero() {
		l.note(NoteTwoWriters, "Codex goes on refreshing this login too, and the one that comes second ends it: give tokenbus a login of its own (CODEX_HOME=… codex login), "+
			"or stop using this one in Codex (delete its file; codex logout may revoke it)")
	}
	return usable(l)
}
