package oauth_test

import (
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/oauth"
)

func TestBuiltin(t *testing.T) {
	c := newClient(t, oauth.Config{})
	for _, tt := range []struct {
		platform, url string
		encoding      oauth.Encoding
		auth          oauth.Auth
	}{
		{"openai", "https://auth.openai.com/oauth/token", oauth.EncodingForm, oauth.AuthNone},
		{"anthropic", "https://platform.claude.com/v1/oauth/token", oauth.EncodingJSON, oauth.AuthNone},
		{"gemini", "https://oauth2.googleapis.com/token", oauth.EncodingForm, oauth.AuthBody},
		{"antigravity", "https://oauth2.googleapis.com/token", oauth.EncodingForm, oauth.AuthBody},
		{"xai", "https://auth.x.ai/oauth2/token", oauth.EncodingForm, oauth.AuthNone},
		{"kimi", "https://auth.kimi.com/api/oauth/token", oauth.EncodingForm, oauth.AuthNone},
	} {
		d := oauth.Builtin()[tt.platform]
		if d.TokenURL != tt.url || d.Encoding != tt.encoding || d.Auth != tt.auth || d.ClientID == "" || d.ReuseGrace != 0 {
			t.Errorf("%s: %+v", tt.platform, d)
		}
		if err := d.Check(); err != nil {
			t.Errorf("%s: %v", tt.platform, err)
		}
		p, ok := c.Policy(tt.platform)
		if !ok || p.Timeout != time.Minute || p.MaxConcurrent != 32 || len(p.ExtraFields) < 7 {
			t.Errorf("%s: policy %+v", tt.platform, p)
		}
	}
	if _, ok := c.Policy("nobody"); ok {
		t.Error("a policy for nobody")
	}
	oauth.Builtin()["openai"].Params["scope"] = "changed"
	if oauth.Builtin()["openai"].Params["scope"] == "changed" {
		t.Error("definitions are shared")
	}
}

func TestNewReportsAllProblems(t *testing.T) {
	_, err := oauth.New(oauth.Config{
		Definitions: oauth.Definitions{"BAD": {}, "x": {TokenURL: "http://a.example"}},
		DialTimeout: -1, UserAgent: "a\nb",
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"BAD", "definition of x", "token_url", "timeout", "DialTimeout", "UserAgent"} {
		if !contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
}
