package oauth

import "time"

// Builtin returns the definitions of the well-known platforms: openai,
// anthropic, gemini, antigravity, xai, kimi. The result is the caller's own.
//
// The client ids are those of the platforms' own public programs. Google's
// endpoints want a client secret too; it comes from the environment:
// TOKENBUS_GEMINI_CLIENT_SECRET and TOKENBUS_ANTIGRAVITY_CLIENT_SECRET.
func Builtin() Definitions {
	const google = "https://oauth2.googleapis.com/token"
	define := func(tokenURL, clientID string, more func(*Definition)) Definition {
		d := defaults()
		d.TokenURL, d.ClientID = tokenURL, clientID
		more(&d)
		return d
	}
	return Definitions{
		"openai": define("https://auth.openai.com/oauth/token", "app_EMoamEEZ73f0CkXaXp7hrann", func(d *Definition) {
			d.Params = map[string]string{"scope": "openid profile email"}
			d.DeadGrantErrors = []string{"invalid_grant", "refresh_token_expired", "refresh_token_reused",
				"refresh_token_invalidated", "invalid_refresh_token", "app_session_terminated", "token_expired"}
			// It has been seen to call a refresh token that is seconds old
			// invalidated, which reads like the end of the grant.
			d.MinRefreshAge = 10 * time.Second
		}),
		"anthropic": define("https://platform.claude.com/v1/oauth/token", "9d1c250a-e61b-44d9-88ed-5944d1962f5e", func(d *Definition) {
			d.Encoding = EncodingJSON
			// The endpoint answers 404 or 429 to user agents that it doesn't
			// like. Which ones changes; override it in the provider file.
			d.Headers = map[string]string{"User-Agent": "axios/1.8.4"}
			// It has been seen to end the old access token with the refresh.
			d.ServeWhileRefreshing = false
		}),
		"gemini": define(google, "681255809395-oo8ft2oprdrnp9e3aqf6av3hmdib135j.apps.googleusercontent.com", func(d *Definition) {
			d.Auth, d.ClientSecretEnv = AuthBody, "TOKENBUS_GEMINI_CLIENT_SECRET"
		}),
		"antigravity": define(google, "1071006060591-tmhssin2h21lcre235vtolojh4g403ep.apps.googleusercontent.com", func(d *Definition) {
			d.Auth, d.ClientSecretEnv = AuthBody, "TOKENBUS_ANTIGRAVITY_CLIENT_SECRET"
			d.Headers = map[string]string{"User-Agent": "Go-http-client/2.0"}
		}),
		"xai": define("https://auth.x.ai/oauth2/token", "b1a00492-073a-47ea-816f-4c329264a828", func(*Definition) {}),
		"kimi": define("https://auth.kimi.com/api/oauth/token", "17e5f671-d194-4dfb-9706-5516cb48c098", func(d *Definition) {
			d.Headers = map[string]string{"X-Msh-Platform": "tokenbus", "X-Msh-Version": "1.0.0",
				"X-Msh-Device-Name": "tokenbus", "X-Msh-Device-Model": "server"}
			d.AccountHeaders = map[string]string{"X-Msh-Device-Id": "device_id"}
			d.ExtraFields = append(d.ExtraFields, "device_id")
		}),
	}
}
