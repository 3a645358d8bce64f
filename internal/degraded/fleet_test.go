//go:build unix

package degraded_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/memory"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/mongostore"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/rotation"
	"github.com/tokenbus/tokenbus/seal"
)

// The platforms. At the strict ones a refresh token that comes twice ends the
// grant; the lenient ones take a spent one again for a minute. The answers of
// the held ones wait until the fleet releases them.
const (
	strict      = "strict"
	lenient     = "lenient"
	heldStrict  = "held-strict"
	heldLenient = "held-lenient"
)

const (
	reuseGrace = time.Minute
	leaseTTL   = 2 * time.Second
	l1MaxAge   = 2 * time.Second
	living     = time.Hour         // what is left of a token that nobody refreshes
	uncached   = 290 * time.Second // of one that the shared cache doesn't keep any more, though nobody refreshes it yet
	ending     = 2 * time.Minute   // within the refresh skew
)

// config is what of a fleet depends on the row.
type config struct {
	workers  int
	patience time.Duration // with one exchange
	ttl      time.Duration // of access tokens; 0: an hour
}

// fleet is the workers, what they depend on, and the ways there.
type fleet struct {
	t   *testing.T
	cfg config
	dir string

	store, cache, token, nats *rig.Link // to MongoDB, Redis, the token endpoints, the NATS server
	server                    *bus.Server
	natsURL                   string // over the link
	endpoints                 map[string]*oauthtest.Server
	open                      chan struct{} // closed when held answers are released
	release                   func()
	documents                 *mongostore.Store // past the link
	login                     *provider.Provider
	subjects                  events.Subjects
	gateway                   *nats.Conn // past the link
	cutOff                    *nats.Conn // over it
	workers                   []*worker
	granted                   sync.Map // account.Key to its first refresh token
}

// worker is one of the fleet, through its restarts.
type worker struct {
	name string
	args []string

	mu      sync.Mutex // guards the rest
	lives   int
	program *rig.Program
}

// newFleet starts a fleet and waits until it answers requests.
func newFleet(t *testing.T, cfg config) *fleet {
	t.Helper()
	fl := &fleet{t: t, cfg: cfg, dir: t.TempDir(), endpoints: map[string]*oauthtest.Server{}, open: make(chan struct{})}
	fl.release = sync.OnceFunc(func() { close(fl.open) })
	t.Cleanup(fl.release)
	var err error
	if fl.subjects, err = events.NewSubjects(events.DefaultPrefix); err != nil {
		t.Fatal(err)
	}
	mongo, redis := rig.Mongo(t), rig.Redis(t)
	keyset := filepath.Join(fl.dir, "keyset.json")
	if _, err := seal.Create(keyset); err != nil {
		t.Fatal(err)
	}
	fl.openStore(mongo, keyset)
	fl.server, err = bus.StartServer(bus.ServerConfig{Listen: "127.0.0.1:0", DataDir: fl.dir, Subjects: fl.subjects, SyncInterval: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fl.server.Shutdown)
	fl.store, mongo = rig.LinkTo(t, mongo)
	fl.cache, redis = rig.LinkTo(t, redis)
	var url string
	fl.nats, url = rig.LinkTo(t, fl.server.URL())
	fl.natsURL = url
	fl.gateway, fl.cutOff = fl.connect(fl.server.URL()), fl.connect(url)
	providers := fl.startEndpoints()
	for i := range cfg.workers {
		name := fmt.Sprintf("w%d", i+1)
		w := &worker{name: name, args: []string{
			"--data-dir", filepath.Join(fl.dir, name), "--nats-url", url, "--nats-nkey", fl.server.KeyFile(bus.RoleWorker), "--keyset", keyset,
			"--store-url", mongo, "--cache-url", redis, "--providers", providers, "--http-addr", "127.0.0.1:0", "--log-format", "json",
			"--lease-ttl", leaseTTL.String(), "--l1-max-age", l1MaxAge.String(), "--min-ttl", "1s", "--refresh-ahead", "off",
		}}
		fl.workers = append(fl.workers, w)
		w.start(t)
	}
	for _, w := range fl.workers {
		w.process().Await(t, "worker answers requests")
	}
	return fl
}

// openStore opens the store past the link, and a way to put logins into it
// that no worker hears of: a login tool's.
func (fl *fleet) openStore(url, keyset string) {
	fl.t.Helper()
	var err error
	if fl.documents, err = mongostore.Open(fl.t.Context(), mongostore.Config{URL: url}); err != nil {
		fl.t.Fatal(err)
	}
	sealer, err := seal.Load(keyset)
	if err != nil {
		fl.t.Fatal(err)
	}
	endpoint, err := oauth.New(oauth.Config{})
	if err != nil {
		fl.t.Fatal(err)
	}
	timing := rotation.DefaultTiming()
	timing.RefreshAhead = rotation.RefreshAheadOff // as the workers', so that nothing is due before it is asked for
	fl.login, err = provider.New(provider.Config{
		Store: fl.documents, Cache: &memory.Cache{}, Publisher: &memory.Bus{}, Sealer: sealer, Locker: &memory.Locker{},
		Journal: &memory.Journal{}, Spool: &memory.Journal{}, Endpoint: endpoint, WorkerID: "login-tool", Host: "localhost",
		Timing: timing,
	})
	if err != nil {
		fl.t.Fatal(err)
	}
	fl.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = fl.login.Close(ctx)
		_ = fl.documents.Close(ctx)
	})
}

// startEndpoints starts the token endpoints and returns the provider file.
func (fl *fleet) startEndpoints() string {
	fl.t.Helper()
	held := func(*http.Request) oauthtest.Fault { return oauthtest.HoldAfter(fl.open) }
	mux := http.NewServeMux()
	for platform, cfg := range map[string]oauthtest.Config{
		strict: {}, heldStrict: {}, lenient: {ReuseGrace: reuseGrace}, heldLenient: {ReuseGrace: reuseGrace},
	} {
		cfg.TTL = fl.cfg.ttl
		s, err := oauthtest.New(cfg)
		if err != nil {
			fl.t.Fatal(err)
		}
		if strings.HasPrefix(platform, "held") {
			s.InjectFunc(held)
		}
		fl.endpoints[platform] = s
		mux.Handle("/"+platform+"/", http.StripPrefix("/"+platform, s))
	}
	web := httptest.NewServer(mux)
	fl.t.Cleanup(func() {
		web.CloseClientConnections()
		web.Close()
	})
	link, url := rig.LinkTo(fl.t, web.URL)
	fl.token = link
	var b strings.Builder
	b.WriteString("providers:\n")
	for platform := range fl.endpoints {
		fmt.Fprintf(&b, "  %s:\n    token_url: %s/%s/token\n    client_id: test\n    timeout: %s\n", platform, url, platform, fl.cfg.patience)
		if strings.HasSuffix(platform, lenient) {
			fmt.Fprintf(&b, "    reuse_grace: %s\n", reuseGrace)
		}
	}
	path := filepath.Join(fl.dir, "providers.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		fl.t.Fatal(err)
	}
	return path
}

func (fl *fleet) connect(url string) *nats.Conn {
	fl.t.Helper()
	conn, err := bus.Connect(bus.Config{
		URLs: []string{url}, NKey: fl.server.KeyFile(bus.RoleClient), InboxPrefix: bus.InboxPrefix(bus.RoleClient), Name: fl.t.Name(),
	})
	if err != nil {
		fl.t.Fatal(err)
	}
	fl.t.Cleanup(conn.Close)
	return conn
}

// start starts the worker. It must not be running.
func (w *worker) start(t *testing.T) {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lives++
	cmd := exec.Command(path, append([]string{"run", "--worker-id", w.idLocked()}, w.args...)...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	w.program = rig.StartProgram(t, cmd)
}

// id is the worker's name in records, in its present life.
func (w *worker) id() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.idLocked()
}

func (w *worker) idLocked() string { return fmt.Sprintf("%s-%d", w.name, w.lives) }

// process is the one that runs, or ran last.
func (w *worker) process() *rig.Program {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.program
}

// ready asks /readyz, and returns what is wrong, by dependency.
func (w *worker) ready(ctx context.Context) (wrong map[string]string, err error) {
	said := w.process().Logged("http endpoints listen")
	if said == nil {
		return nil, fmt.Errorf("%s does not listen", w.name)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/readyz", said["address"]), nil)
	if err != nil {
		return nil, err
	}
	resp, err := web.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Checks []struct{ Name, Reason string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	wrong = map[string]string{}
	for _, c := range answer.Checks {
		if c.Reason != "" {
			wrong[c.Name] = c.Reason
		}
	}
	if (resp.StatusCode == http.StatusOK) != (len(wrong) == 0) {
		return nil, fmt.Errorf("%s: /readyz is %s and says %v", w.name, resp.Status, wrong)
	}
	return wrong, nil
}

// web keeps no connection: nothing is left when a test ends.
var web = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// put logs an account in that no worker has heard of. left is what is left of
// its access token; 0: it has none.
func (fl *fleet) put(platform, id string, left time.Duration) account.Key {
	fl.t.Helper()
	key, err := account.NewKey(platform, id)
	if err != nil {
		fl.t.Fatal(err)
	}
	access, refresh := fl.endpoints[platform].NewGrant(id)
	fl.granted.Store(key, refresh)
	c := account.Credentials{RefreshToken: account.NewSecret(refresh)}
	if left > 0 {
		c.AccessToken, c.ExpiresAt = account.NewSecret(access), time.Now().Add(left)
	}
	// Again if need be: the stand-in for MongoDB stumbles over a write beside
	// the making of an index.
	err = await(fl.t.Context(), healed, func() error {
		_, err := fl.login.Put(fl.t.Context(), events.PutRequest{Platform: platform, ID: id, Type: "oauth", Credentials: c.Encode()})
		return err
	})
	if err != nil {
		fl.t.Fatal(err)
	}
	return key
}

// puts logs n accounts in.
func (fl *fleet) puts(n int, platform, id string, left time.Duration) (keys []account.Key) {
	fl.t.Helper()
	for i := range n {
		keys = append(keys, fl.put(platform, fmt.Sprintf("%s%d", id, i+1), left))
	}
	return keys
}

// inHand logs in the accounts whose tokens will be in hand.
func (fl *fleet) inHand(platform string) []account.Key {
	fl.t.Helper()
	return append(fl.puts(2, platform, "hot", living), fl.puts(2, platform, "warm", uncached)...)
}

// sent returns how often the account's first refresh token came to its
// endpoint.
func (fl *fleet) sent(key account.Key) int {
	refresh, _ := fl.granted.Load(key)
	return fl.endpoints[key.Platform()].Sent(refresh.(string))
}

// sentOnce reports accounts whose refresh token did not come to its endpoint
// exactly once, and grants that have ended.
func (fl *fleet) sentOnce(keys ...account.Key) error {
	var errs []error
	for _, key := range keys {
		if n := fl.sent(key); n != 1 {
			errs = append(errs, fmt.Errorf("the refresh token of %s was sent %d times", key, n))
		}
		if fl.endpoints[key.Platform()].Revoked(key.ID()) {
			errs = append(errs, fmt.Errorf("the grant of %s has ended", key))
		}
	}
	return errors.Join(errs...)
}

// ask makes one request, as a gateway does: what it gets is a token that the
// endpoint takes, or an error.
func (fl *fleet) ask(conn *nats.Conn, key account.Key, req events.TokenRequest, within time.Duration) (events.TokenReply, error) {
	m, err := conn.Request(fl.subjects.Request(key), req.Encode(), within)
	if err != nil {
		return events.TokenReply{}, fmt.Errorf("ask for %s: %w", key, err)
	}
	reply, err := events.DecodeTokenReply(key, m.Data)
	if err != nil {
		return reply, fmt.Errorf("ask for %s: %w", key, err)
	}
	if !fl.endpoints[key.Platform()].Valid(reply.AccessToken.Reveal()) {
		return reply, fmt.Errorf("ask for %s: the endpoint does not take the token of version %d", key, reply.Version)
	}
	return reply, nil
}

// get asks and expects a token of at least this version.
func (fl *fleet) get(key account.Key, version account.Version) error {
	reply, err := fl.ask(fl.gateway, key, events.TokenRequest{}, answered)
	if err == nil && reply.Version < version {
		err = fmt.Errorf("ask for %s: version %d, want %d", key, reply.Version, version)
	}
	return err
}

// comes asks until there is a token of at least this version.
func (fl *fleet) comes(key account.Key, version account.Version, within time.Duration) error {
	return await(fl.t.Context(), within, func() error { return fl.get(key, version) })
}

// each calls f for all keys at once.
func each(keys []account.Key, f func(account.Key) error) error {
	errs := make([]error, len(keys))
	var wg sync.WaitGroup
	for i, key := range keys {
		wg.Go(func() { errs[i] = f(key) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// await calls check until it has no objection.
func await(ctx context.Context, within time.Duration, check func() error) error {
	late := time.After(within)
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-late:
			return fmt.Errorf("after %s still: %w", within, err)
		}
	}
}
