package loginfile

import "github.com/tokenbus/tokenbus/account"

// Google's application default credentials of a person:
//
//	{"type":"authorized_user","client_id":"…","client_secret":"…","refresh_token":"…"}
//
// There is no access token in them, and nothing says whose they are.
func isADC(o object) bool { return o.peek("type") == "authorized_user" }

func readADC(o object, l *Login) *Error {
	l.Platform, l.NeedsID = gemini, true
	l.Label = o.text("account")
	l.Credentials = account.Credentials{
		RefreshToken: o.secret("refresh_token"), ClientID: o.text("client_id"), ClientSecret: o.secret("client_secret"),
	}
	o.copyTo(&l.Credentials, "quota_project_id")
	if !l.Credentials.RefreshToken.IsZero() {
		l.note(NoteShared, "programs that use these credentials can go on; Google's refresh tokens don't change with use")
	}
	return usable(l)
}
