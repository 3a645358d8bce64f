package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The clients that the authorization server knows, by how they authenticate.
// All but the public one have the secret [OIDCSecret].
const (
	OIDCPublic = "rig-public"
	OIDCPost   = "rig-post"
	OIDCBasic  = "rig-basic"
	OIDCSecret = "rig-client-secret"
)

// OIDCConfig configures [OIDC].
type OIDCConfig struct {
	AccessTokenTTL  time.Duration // default 1 h; whole seconds
	RefreshTokenTTL time.Duration // default 24 h; whole seconds
}

// OIDCServer is an authorization server of a third party: npm's
// oidc-provider. It rotates refresh tokens and revokes the whole grant at the
// first reuse of a spent one.
type OIDCServer struct {
	URL         string // the issuer
	TokenURL    string
	UserinfoURL string
	http        *http.Client
}

// OIDCLogin is an account that has logged in.
type OIDCLogin struct {
	GrantID      string `json:"grant_id"`
	RefreshToken string `json:"refresh_token"`
}

// OIDCGrant is what became of a login.
type OIDCGrant struct {
	Revoked   bool     `json:"revoked"`
	Refreshes int      `json:"refreshes"` // exchanges that were granted
	Errors    []string `json:"errors"`    // what was refused
}

// OIDC starts an authorization server.
func OIDC(t testing.TB, cfg OIDCConfig) *OIDCServer {
	t.Helper()
	p, port, err := startOIDC(cfg)
	check(t, err)
	t.Cleanup(p.stop)
	issuer := "http://127.0.0.1:" + port
	return &OIDCServer{
		URL:         issuer,
		TokenURL:    issuer + "/token",
		UserinfoURL: issuer + "/me",
		http: &http.Client{
			Timeout:   startTimeout,
			Transport: &http.Transport{DisableKeepAlives: true},
		},
	}
}

func startOIDC(cfg OIDCConfig) (p *process, port string, err error) {
	dir, err := built("oidc", "package-lock.json")
	if err != nil {
		return nil, "", err
	}
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, "", fmt.Errorf("node is missing: %w", errMissing)
	}
	top, err := root()
	if err != nil {
		return nil, "", err
	}
	seconds := func(d, fallback time.Duration) int {
		if d == 0 {
			d = fallback
		}
		return int(d / time.Second)
	}
	config, err := json.Marshal(map[string]int{
		"access_token_ttl":  seconds(cfg.AccessTokenTTL, time.Hour),
		"refresh_token_ttl": seconds(cfg.RefreshTokenTTL, 24*time.Hour),
	})
	if err != nil {
		return nil, "", err
	}
	script := filepath.Join(top, "internal", "rig", "oidc", "server.mjs")
	p, line, err := start(exec.Command(node, script, filepath.Join(dir, "node_modules"), string(config)), "ready ")
	if err != nil {
		return nil, "", err
	}
	return p, strings.TrimPrefix(line, "ready "), nil
}

// Login logs the account in as a user of the client would in a browser, and
// returns its first refresh token.
func (s *OIDCServer) Login(t testing.TB, accountID, clientID string) OIDCLogin {
	t.Helper()
	var login OIDCLogin
	query := url.Values{"account": {accountID}, "client": {clientID}}
	s.call(t, http.MethodPost, "/rig/login?"+query.Encode(), &login)
	return login
}

// Grant tells what became of a login.
func (s *OIDCServer) Grant(t testing.TB, grantID string) OIDCGrant {
	t.Helper()
	var grant OIDCGrant
	s.call(t, http.MethodGet, "/rig/grants/"+url.PathEscape(grantID), &grant)
	return grant
}

func (s *OIDCServer) call(t testing.TB, method, path string, answer any) {
	t.Helper()
	resp := s.do(t, method, s.URL+path, "")
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
}

// Userinfo asks the userinfo endpoint whose access token this is. The answer
// is false if the token isn't accepted.
func (s *OIDCServer) Userinfo(t testing.TB, accessToken string) (accountID string, ok bool) {
	t.Helper()
	resp := s.do(t, http.MethodGet, s.UserinfoURL, accessToken)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", false
	}
	var info struct {
		Sub string `json:"sub"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&info); err != nil {
		t.Fatalf("decode userinfo: %v", err)
	}
	return info.Sub, true
}

func (s *OIDCServer) do(t testing.TB, method, url, accessToken string) *http.Response {
	t.Helper()
	// Not the test's context: cleanups ask too.
	req, err := http.NewRequestWithContext(context.Background(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if accessToken != "" {
		req.Header.Set("Authorization", "Bearer "+accessToken)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}
