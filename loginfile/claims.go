package loginfile

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// claimsOf returns what a JWT says, an empty object where a token is none. Its
// signature isn't checked: the claims name an account and grant nothing.
func claimsOf(token account.Secret) object {
	o := object{first: new(string)}
	parts := strings.Split(token.Reveal(), ".")
	if len(parts) != 3 {
		return o
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return o
	}
	_ = json.Unmarshal(payload, &o.fields) // nil where it is no object
	return o
}

// expiry returns exp, or zero where there is none.
func (o object) expiry() time.Time {
	t, _ := account.ParseTime(o.fields["exp"])
	return t
}

// openaiOwner is what the tokens of an OpenAI login say about whose it is.
type openaiOwner struct{ user, workspace, plan, email string }

// openaiOwnerOf reads id and access token; the access token, which may be
// newer, counts more.
func openaiOwnerOf(c account.Credentials) openaiOwner {
	var who openaiOwner
	set := func(to *string, texts ...string) {
		for _, s := range texts {
			if s != "" {
				*to = s
				return
			}
		}
	}
	for _, token := range []account.Secret{c.IDToken, c.AccessToken} {
		claims := claimsOf(token)
		auth, profile := claims.object("https://api.openai.com/auth"), claims.object("https://api.openai.com/profile")
		set(&who.user, auth.peek("chatgpt_user_id"), auth.peek("user_id"))
		set(&who.workspace, auth.peek("chatgpt_account_id"))
		set(&who.plan, auth.peek("chatgpt_plan_type"))
		set(&who.email, claims.peek("email"), profile.peek("email"))
	}
	return who
}

// describeOpenAI sets id, label, expiry and extra fields of an OpenAI login.
// workspace and user are what the file itself says; they win.
func (l *Login) describeOpenAI(user, workspace string) {
	who := openaiOwnerOf(l.Credentials)
	if user != "" {
		who.user = user
	}
	if workspace != "" {
		who.workspace = workspace
	}
	c := &l.Credentials
	if c.ExpiresAt.IsZero() {
		c.ExpiresAt = claimsOf(c.AccessToken).expiry()
	}
	setExtra(c, "chatgpt_account_id", who.workspace)
	setExtra(c, "chatgpt_user_id", who.user)
	setExtra(c, "plan_type", who.plan)
	setExtra(c, "email", who.email)
	if l.Label == "" {
		l.Label = who.email
	}
	l.identify(who.user, who.workspace)
}

// describeGoogle sets id and label of a Google login by its id token.
func (l *Login) describeGoogle() {
	claims := claimsOf(l.Credentials.IDToken)
	if l.Label == "" {
		l.Label = claims.peek("email")
	}
	l.identify(claims.peek("sub"))
}
