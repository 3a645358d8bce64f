package loginfile

import "github.com/tokenbus/tokenbus/account"

// Gemini CLI keeps its login in oauth_creds.json:
//
//	{"access_token":"…","refresh_token":"…","id_token":"…","scope":"…","token_type":"Bearer","expiry_date":1800000000000}
func isGeminiCLI(o object) bool {
	return o.has("expiry_date") && (o.has("access_token") || o.has("refresh_token"))
}

func readGeminiCLI(o object, l *Login) *Error {
	l.Platform = gemini
	l.Credentials = account.Credentials{
		AccessToken: o.secret("access_token"), RefreshToken: o.secret("refresh_token"), IDToken: o.secret("id_token"),
		TokenType: o.text("token_type"), Scope: o.text("scope"), ExpiresAt: o.time("expiry_date"),
	}
	o.copyTo(&l.Credentials, "project_id")
	l.describeGoogle()
	if !l.Credentials.RefreshToken.IsZero() {
		l.note(NoteShared, "Gemini CLI goes on refreshing this login too; Google's refresh tokens don't change with use, so both can")
		l.note(NoteClientSecret, "Google wants the client secret of Gemini CLI at a refresh: the worker needs it in TOKENBUS_GEMINI_CLIENT_SECRET")
	}
	return usable(l)
}
