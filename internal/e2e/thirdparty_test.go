package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/rig"
)

// oidcProviders is a provider file with a platform for each way of client
// authentication: oidc, oidc-post and oidc-basic.
func oidcProviders(t *testing.T, dir, tokenURL string) string {
	t.Helper()
	secret := write(t, dir, "client-secret", rig.OIDCSecret+"\n")
	return write(t, dir, "providers.yaml", fmt.Sprintf(`providers:
  oidc:
    token_url: %[1]s
    client_id: %[2]s
  oidc-post:
    token_url: %[1]s
    client_id: %[3]s
    client_secret_file: %[5]s
    auth: body
  oidc-basic:
    token_url: %[1]s
    client_id: %[4]s
    client_secret_file: %[5]s
    auth: basic
`, tokenURL, rig.OIDCPublic, rig.OIDCPost, rig.OIDCBasic, secret))
}

// login is an account at the third party's server.
type login struct {
	rig.OIDCLogin
	key  account.Key
	file string // to import
}

func newLogin(t *testing.T, server *rig.OIDCServer, dir, platform, id, clientID string) login {
	t.Helper()
	l := login{OIDCLogin: server.Login(t, id, clientID), key: newKey(t, platform, id)}
	l.file = write(t, dir, l.key.String()+".json", loginFile(l.key, l.RefreshToken))
	return l
}

// An account at a third party's server, which revokes the whole grant at the
// first reuse of a refresh token, from its login file through many refreshes
// under many askers and two workers.
func TestThirdPartyGrantSurvivesAskers(t *testing.T) {
	server := rig.OIDC(t, rig.OIDCConfig{AccessTokenTTL: 6 * time.Second})
	dir := t.TempDir()
	providers := oidcProviders(t, dir, server.TokenURL)
	first, f := startFirst(t, filepath.Join(dir, "first"), "--http-addr", "none", "--providers", providers, "--worker-id", "first")
	second := startWorker(t, filepath.Join(dir, "second"), "--http-addr", "none", "--providers", providers, "--worker-id", "second",
		"--nats-url", f.url, "--nats-nkey", f.key("worker"), "--keyset", filepath.Join(dir, "first", "keyset.json"))
	second.logs(t, "worker answers requests")

	alice := newLogin(t, server, dir, "oidc", "alice", rig.OIDCPublic)
	bob := newLogin(t, server, dir, "oidc-post", "bob", rig.OIDCPost)
	carol := newLogin(t, server, dir, "oidc-basic", "carol", rig.OIDCBasic)
	for _, l := range []login{alice, bob, carol} {
		if out := f.must(t, "accounts", "import", l.file); !strings.Contains(out, l.key.String()+": created as version 1") || !strings.HasSuffix(out, "\n1 created\n") {
			t.Errorf("import says\n%s", out)
		}
	}

	ask(t, f, server, alice, 7)
	for _, l := range []login{alice, bob, carol} {
		printsToken(t, f, server, l)
		if doc := f.accounts(t, l.key)[0]; doc.Status != account.Active || doc.Version < 2 || !doc.HasRefreshToken || doc.Failures != 0 || doc.LastError != nil {
			t.Errorf("accounts get %s: %+v", l.key, doc)
		}
	}
	operate(t, f, server, alice, bob)
	for _, l := range []login{bob, carol} {
		settled(t, f, server, l)
	}
	second.stop(t)
	first.stop(t)
}

// ask lets fifty askers ask, until each has been given a version that
// enough refreshes have brought.
func ask(t *testing.T, f fleet, server *rig.OIDCServer, l login, enough account.Version) {
	t.Helper()
	const clients, askersEach = 5, 10
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	samples := make(chan client.Token)
	var askers sync.WaitGroup
	for range clients {
		c := f.gateway(t)
		for range askersEach {
			askers.Go(func() {
				if err := askUntil(ctx, c, l.key, enough, samples); err != nil {
					t.Error(err)
				}
			})
		}
	}
	go func() { askers.Wait(); close(samples) }()
	accepted := map[account.Version]int{}
	for token := range samples {
		if time.Until(token.ExpiresAt) < time.Second {
			continue // it may end while we look
		}
		who, ok := server.Userinfo(t, token.AccessToken())
		switch {
		case ok && who == l.key.ID():
			accepted[token.Version]++
		case time.Until(token.ExpiresAt) > 0:
			t.Errorf("the server takes the token of version %d for %q, %v", token.Version, who, ok)
		}
	}
	for v := account.Version(2); v <= enough; v++ {
		if accepted[v] == 0 {
			t.Errorf("no token of version %d was tried at the server", v)
		}
	}
	if g := server.Grant(t, l.GrantID); g.Revoked || len(g.Errors) > 0 || g.Refreshes < int(enough)-1 {
		t.Errorf("the grant after the askers: %+v", g)
	}
}

// askUntil asks again and again until the version is there. Every new version
// and some of the others are samples, where somebody takes them.
func askUntil(ctx context.Context, c *client.Client, key account.Key, enough account.Version, samples chan<- client.Token) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var seen account.Version
	for i := 0; seen < enough; i++ {
		token, err := c.Token(ctx, key)
		switch {
		case err != nil:
			return fmt.Errorf("after version %d: %w", seen, err)
		case token.Version < seen:
			return fmt.Errorf("version %d after version %d", token.Version, seen)
		case !token.ExpiresAt.After(time.Now()):
			return fmt.Errorf("version %d came when it had ended: %s", token.Version, token.ExpiresAt)
		}
		if token.Version > seen || i%20 == 0 {
			select {
			case samples <- token:
			case <-tick.C:
			}
		}
		seen = token.Version
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// printsToken checks that tokenctl prints the token and nothing else.
func printsToken(t *testing.T, f fleet, server *rig.OIDCServer, l login) {
	t.Helper()
	gw := f.gateway(t)
	var asked []string // before and after: it may be replaced in between
	for i := range 2 {
		token, err := gw.Token(t.Context(), l.key)
		if err != nil {
			t.Fatal(err)
		}
		asked = append(asked, token.AccessToken()+"\n")
		if i > 0 {
			break
		}
		out := f.must(t, "token", l.key.String())
		asked = append(asked, out)
		if who, ok := server.Userinfo(t, strings.TrimSuffix(out, "\n")); !ok || who != l.key.ID() {
			t.Errorf("the server takes what tokenctl prints for the token of %s for %q, %v", l.key, who, ok)
		}
	}
	if !slices.Contains([]string{asked[0], asked[2]}, asked[1]) {
		t.Errorf("tokenctl token %s prints %d bytes that are not the token and a newline", l.key, len(asked[1]))
	}
	if g := server.Grant(t, l.GrantID); g.Revoked || g.Refreshes == 0 {
		t.Errorf("the grant of %s: %+v", l.key, g)
	}
}

// operate tries the operator's commands.
func operate(t *testing.T, f fleet, server *rig.OIDCServer, alice, bob login) {
	t.Helper()
	var list events.ListReply
	if err := json.Unmarshal([]byte(f.must(t, "accounts", "list", "--output", "json")), &list); err != nil || len(list.Accounts) != 3 {
		t.Errorf("accounts list: %d accounts, %v", len(list.Accounts), err)
	}
	if out := f.must(t, "accounts", "list"); strings.Count(out, "\n") != 4 || !strings.Contains(out, alice.key.String()) {
		t.Errorf("accounts list says\n%s", out)
	}
	if out := f.must(t, "accounts", "get", alice.key.String()); !strings.Contains(out, "active") || strings.Contains(out, alice.RefreshToken) {
		t.Errorf("accounts get says\n%s", out)
	}
	before := f.accounts(t, bob.key)[0].Version
	f.must(t, "accounts", "refresh", bob.key.String())
	if after := f.accounts(t, bob.key)[0].Version; after <= before {
		t.Errorf("accounts refresh: version %d, then %d", before, after)
	}

	f.must(t, "accounts", "disable", alice.key.String())
	fails(t, f.tokenctl(t, "token", alice.key.String()), "disabled by an operator")
	settled(t, f, server, alice)
	f.must(t, "accounts", "enable", alice.key.String())
	printsToken(t, f, server, alice)

	// The file's refresh token was spent by the first refresh.
	version := f.accounts(t, alice.key)[0].Version
	fails(t, f.tokenctl(t, "accounts", "import", alice.file), "this fleet has spent it already")
	if doc := f.accounts(t, alice.key)[0]; doc.Version < version || doc.Status != account.Active {
		t.Errorf("after a refused import: %+v", doc)
	}
	printsToken(t, f, server, alice)
	f.must(t, "accounts", "disable", alice.key.String())
	settled(t, f, server, alice)

	f.must(t, "accounts", "delete", "--yes", alice.key.String())
	fails(t, f.tokenctl(t, "accounts", "get", alice.key.String()), "no account "+alice.key.String())
}

// fails expects an exit code of 1 and one line that says why.
func fails(t *testing.T, r result, why string) {
	t.Helper()
	if r.code != 1 || !strings.HasPrefix(r.stderr, "tokenctl: ") || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, why) {
		t.Errorf("code %d, said %q; want 1 and a line with %q", r.code, r.stderr, why)
	}
}

// settled waits until the account and the server agree on how often it was
// refreshed.
func settled(t *testing.T, f fleet, server *rig.OIDCServer, l login) {
	t.Helper()
	eventually(t, patience, func() error {
		before := server.Grant(t, l.GrantID).Refreshes
		doc := f.accounts(t, l.key)[0]
		g := server.Grant(t, l.GrantID)
		if g.Revoked || len(g.Errors) > 0 || doc.Rotation != nil || before != g.Refreshes || account.Version(g.Refreshes) != doc.Version-1 {
			return fmt.Errorf("%s has version %d, rotation %v; its grant %+v, and %d refreshes before", l.key, doc.Version, doc.Rotation, g, before)
		}
		return nil
	})
}
