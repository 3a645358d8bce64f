//go:build linux

package crash_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/seal"
)

// The platforms: what becomes of a lost answer differs.
const (
	strict = "strict" // a refresh token that comes twice ends the grant
	grace  = "grace"  // a spent one is taken again for a while
	third  = "third"  // oidc-provider, as strict
)

const (
	leaseTTL   = 2 * time.Second
	patience   = 3 * time.Second // with one exchange
	reuseGrace = time.Minute
	minTTL     = time.Second
)

// config is where a fleet keeps things.
type config struct {
	name      string
	databases bool          // MongoDB and Redis rather than NATS
	third     bool          // with oidc-provider
	ttl       time.Duration // of access tokens
	workers   int
}

// fleet is everything that a run is about.
type fleet struct {
	t        *testing.T
	cfg      config
	front    *front
	strict   *oauthtest.Server
	grace    *oauthtest.Server
	third    *rig.OIDCServer
	server   *bus.Server
	workers  []*worker
	natsOf   map[string]*rig.Proxy // each worker's own way to NATS
	mongo    *rig.Proxy            // nil if embedded
	redis    *rig.Proxy            // nil if embedded
	subjects events.Subjects
	operator *nats.Conn
	gateway  *nats.Conn
	asker    *client.Client
	accounts []*login
}

// login is an account of the run.
type login struct {
	key     account.Key
	grantID string // of third
}

// newFleet starts all but the workers.
func newFleet(t *testing.T, cfg config) *fleet {
	t.Helper()
	subjects, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	fl := &fleet{t: t, cfg: cfg, front: newFront(t, cfg.ttl), natsOf: map[string]*rig.Proxy{}, subjects: subjects}
	var databases []string
	if cfg.databases {
		mongo, redis := rig.Mongo(t), rig.Redis(t)
		fl.mongo, mongo = proxied(t, mongo)
		fl.redis, redis = proxied(t, redis)
		databases = []string{"--store-url", mongo, "--cache-url", redis}
	}
	fl.startEndpoints()
	fl.server, err = bus.StartServer(bus.ServerConfig{Listen: "127.0.0.1:0", DataDir: dir, Subjects: subjects})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fl.server.Shutdown)
	keyset := filepath.Join(dir, "keyset.json")
	if _, err := seal.Create(keyset); err != nil {
		t.Fatal(err)
	}
	for i := range cfg.workers {
		w := &worker{name: fmt.Sprintf("w%d", i+1)}
		w.dir = filepath.Join(dir, w.name)
		proxy, natsURL := proxied(t, fl.server.URL())
		fl.natsOf[w.name] = proxy
		w.args = append([]string{
			"--nats-url", natsURL, "--nats-nkey", fl.server.KeyFile(bus.RoleWorker), "--keyset", keyset,
			"--providers", fl.providersFor(w.name, dir), "--http-addr", "none", "--log-format", "json",
			"--lease-ttl", leaseTTL.String(), "--min-ttl", minTTL.String(),
		}, databases...)
		fl.front.processes[w.name] = w.now
		fl.workers = append(fl.workers, w)
	}
	fl.operator, fl.gateway = fl.connect(bus.RoleOperator), fl.connect(bus.RoleClient)
	fl.asker = fl.newAsker()
	return fl
}

// proxied puts a proxy in front of the server of a URL.
func proxied(t *testing.T, raw string) (*rig.Proxy, string) {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	p := rig.NewProxy(t, u.Host)
	u.Host = p.Addr()
	return p, u.String()
}

func (fl *fleet) startEndpoints() {
	fl.t.Helper()
	var err error
	if fl.strict, err = oauthtest.New(oauthtest.Config{TTL: fl.cfg.ttl}); err != nil {
		fl.t.Fatal(err)
	}
	if fl.grace, err = oauthtest.New(oauthtest.Config{TTL: fl.cfg.ttl, ReuseGrace: reuseGrace}); err != nil {
		fl.t.Fatal(err)
	}
	fl.front.endpoints[strict], fl.front.endpoints[grace] = fl.strict, fl.grace
	if fl.cfg.third {
		fl.third = rig.OIDC(fl.t, rig.OIDCConfig{AccessTokenTTL: fl.cfg.ttl})
		u, err := url.Parse(fl.third.URL)
		if err != nil {
			fl.t.Fatal(err)
		}
		fl.front.endpoints[third] = &httputil.ReverseProxy{
			Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(u) },
			Transport: &http.Transport{DisableKeepAlives: true},
		}
	}
}

// providersFor writes the worker's provider file: each has its own URLs, so
// that the front knows who sends.
func (fl *fleet) providersFor(name, dir string) string {
	fl.t.Helper()
	var b strings.Builder
	b.WriteString("providers:\n")
	for _, platform := range []string{strict, grace, third} {
		fmt.Fprintf(&b, "  %s:\n    token_url: %s\n    client_id: %s\n    timeout: %s\n", platform, fl.front.tokenURL(name, platform), rig.OIDCPublic, patience)
		if platform == grace {
			fmt.Fprintf(&b, "    reuse_grace: %s\n", reuseGrace)
		}
	}
	path := filepath.Join(dir, name+".yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		fl.t.Fatal(err)
	}
	return path
}

func (fl *fleet) connect(role bus.Role) *nats.Conn {
	fl.t.Helper()
	conn, err := bus.Connect(bus.Config{
		URLs: []string{fl.server.URL()}, NKey: fl.server.KeyFile(role), InboxPrefix: bus.InboxPrefix(role), Name: fl.t.Name(),
	})
	if err != nil {
		fl.t.Fatal(err)
	}
	fl.t.Cleanup(conn.Close)
	return conn
}

// newAsker returns a client as a gateway has it.
func (fl *fleet) newAsker() *client.Client {
	fl.t.Helper()
	c, err := client.New(client.Config{URL: fl.server.URL(), NKey: fl.server.KeyFile(bus.RoleClient), MaxAge: -1})
	if err != nil {
		fl.t.Fatal(err)
	}
	fl.t.Cleanup(func() { _ = c.Close() })
	return c
}

// login makes an account whose token has so much left.
func (fl *fleet) login(platform, id string, left time.Duration) *login {
	fl.t.Helper()
	key, err := account.NewKey(platform, id)
	if err != nil {
		fl.t.Fatal(err)
	}
	l := &login{key: key}
	var c account.Credentials
	switch platform {
	case third:
		granted := fl.third.Login(fl.t, id, rig.OIDCPublic)
		l.grantID = granted.GrantID
		c.RefreshToken = account.NewSecret(granted.RefreshToken)
	default:
		access, refresh := fl.endpoint(platform).NewGrant(id)
		c.AccessToken, c.RefreshToken = account.NewSecret(access), account.NewSecret(refresh)
		c.ExpiresAt = time.Now().Add(left)
	}
	fl.front.owns(key.String(), c.RefreshToken.Reveal(), c.AccessToken.Reveal(), c.ExpiresAt)
	var a events.Account
	eventually(fl.t, 20*time.Second, func() error {
		return fl.admin(events.VerbPut, events.PutRequest{Platform: platform, ID: id, Type: "oauth", Credentials: c.Encode()}, &a)
	})
	fl.accounts = append(fl.accounts, l)
	return l
}

func (fl *fleet) endpoint(platform string) *oauthtest.Server {
	if platform == grace {
		return fl.grace
	}
	return fl.strict
}

// admin asks for an operator's verb. The answer goes into reply.
func (fl *fleet) admin(verb string, req, reply any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	m, err := fl.operator.Request(fl.subjects.Admin(verb), body, 5*time.Second)
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	if text := m.Header.Get(events.HeaderError); text != "" {
		return fmt.Errorf("%s: %s", verb, text)
	}
	return json.Unmarshal(m.Data, reply)
}

// account is the account as an operator sees it.
func (fl *fleet) account(key account.Key) (a events.Account, err error) {
	err = fl.admin(events.VerbGet, events.KeyRequest{Platform: key.Platform(), ID: key.ID()}, &a)
	return a, err
}

// accepted reports whether the access token is good at its endpoint now.
func (fl *fleet) accepted(l *login, access string) bool {
	if l.key.Platform() == third {
		_, ok := fl.third.Userinfo(fl.t, access)
		return ok
	}
	return fl.endpoint(l.key.Platform()).Valid(access)
}

// revoked reports whether the endpoint has ended the grant.
func (fl *fleet) revoked(l *login) bool {
	if l.key.Platform() == third {
		return fl.third.Grant(fl.t, l.grantID).Revoked
	}
	return fl.endpoint(l.key.Platform()).Revoked(l.key.ID())
}
