package oauth_test

import (
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/refresh"
)

var _ refresh.Endpoint = (*oauth.Client)(nil)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newClient(t testing.TB, cfg oauth.Config) *oauth.Client {
	t.Helper()
	if cfg.Getenv == nil {
		cfg.Getenv = func(string) string { return "" }
	}
	c, err := oauth.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func contains(s, sub string) bool { return strings.Contains(s, sub) }
