package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/seal"
)

const demoPlatform = "demo"

// Bounds of the demo's options.
const (
	minTokenTTL    = 2 * time.Second
	maxTokenTTL    = time.Hour
	maxDemoWorkers = 16
)

// demoConfig is the configuration of the demo.
type demoConfig struct {
	Duration time.Duration // 0: until the context ends
	TokenTTL time.Duration
	Workers  int
	EnvFile  string // for other programs; "" for none
}

func readDemoConfig(flag lookupFunc) (demoConfig, error) {
	r := newReader(demoOptions(), flag, func(string) (string, bool) { return "", false })
	r.flagsOnly = true
	c := demoConfig{
		Duration: r.duration("duration", 0, 0),
		TokenTTL: r.duration("token-ttl", minTokenTTL, maxTokenTTL),
		EnvFile:  r.envFile(),
	}
	n, err := strconv.Atoi(r.get("workers"))
	if err != nil || n < 1 || n > maxDemoWorkers {
		r.wrong("workers", r.get("workers"), "want a number from 1 to "+strconv.Itoa(maxDemoWorkers))
	}
	c.Workers = n
	return c, errors.Join(r.problems...)
}

func (a app) demoCommand(ctx context.Context, cmd *cli.Command) error {
	for _, o := range runOptions() {
		if cmd.IsSet(o.name) {
			return usagef("worker demo takes no --%s; see worker demo --help", o.name)
		}
	}
	cfg, err := readDemoConfig(flagLookup(cmd))
	if err != nil {
		return &usageError{err}
	}
	ctx, stop := a.signals(ctx)
	defer stop()
	log := newLogger(a.stderr, slog.LevelWarn, auto, a.env)
	return runDemo(ctx, cfg, a.stdout, colored(a.stdout, a.env), log)
}

// demo is everything at once: an OAuth server, workers, a gateway.
type demo struct {
	cfg   demoConfig
	log   *slog.Logger
	story *story
	dir   string
	oauth *oauthtest.Server
	url   string // of the OAuth server
	keys  []account.Key

	workers []*demoWorker
	gateway *gateway
	watcher *demoWatcher
	final   []account.Account // as the last worker leaves them
}

// demoWorker is a worker that runs.
type demoWorker struct {
	*worker
	stop  context.CancelFunc
	ended chan struct{}
	err   error // once ended is closed
}

// runDemo runs the demo and tells its story to out. It returns an error if a
// look-up failed, if a refresh token was used twice, or if exchanges and
// versions don't match.
func runDemo(ctx context.Context, cfg demoConfig, out io.Writer, color bool, log *slog.Logger) (err error) {
	d := &demo{cfg: cfg, log: log, story: newStory(out, color)}
	if d.dir, err = os.MkdirTemp("", "tokenbus-demo-"); err != nil {
		return fmt.Errorf("make folder of the demo: %w", err)
	}
	defer os.RemoveAll(d.dir)
	for _, id := range []string{"alice", "bob", "carol"} {
		key, err := account.NewKey(demoPlatform, id)
		if err != nil {
			return err
		}
		d.keys = append(d.keys, key)
	}
	d.watcher = newDemoWatcher(d.story)
	d.gateway = newGateway(d.story)
	closeOAuth, err := d.startOAuth()
	if err != nil {
		return err
	}
	defer closeOAuth()

	limited := ctx
	if cfg.Duration > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, cfg.Duration)
		defer cancel()
	}
	err = d.play(limited)
	err = errors.Join(err, d.stopWorkers())
	return errors.Join(err, d.summary())
}

// play starts everything and waits until ctx ends.
func (d *demo) play(ctx context.Context) error {
	d.story.say(bold, "tokenbus demo: %s, %s, access tokens live %s", plural(d.cfg.Workers, "worker"), plural(len(d.keys), "account"), brief(d.cfg.TokenTTL))
	d.story.say(dim, "an OAuth server that rotates refresh tokens and ends a grant when one is used twice; press Ctrl-C for the summary\n")
	d.story.tell(magenta, "oauth", "token endpoint at %s/token", d.url)
	for n := range d.cfg.Workers {
		if err := d.startWorker(ctx, n+1); err != nil {
			return ignoreEnd(ctx, err)
		}
	}
	if err := d.logIn(ctx); err != nil {
		return ignoreEnd(ctx, err)
	}
	first := d.workers[0]
	if err := d.gateway.connect(first.server.URL(), first.server.KeyFile(bus.RoleClient), d.url+"/userinfo"); err != nil {
		return err
	}
	defer d.gateway.close()
	if d.cfg.EnvFile != "" {
		if err := d.writeEnvFile(); err != nil {
			return err
		}
		defer os.Remove(d.cfg.EnvFile)
	}
	d.gateway.run(ctx, d.keys)
	return nil
}

// ignoreEnd returns nil if err is only that the demo was told to end.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (d *demo) startOAuth() (stop func(), err error) {
	if d.oauth, err = oauthtest.New(oauthtest.Config{TTL: d.cfg.TokenTTL}); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the demo's OAuth server: %w", err)
	}
	d.url = "http://" + l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() { serveHTTP(ctx, l, d.api(), d.log) })
	return func() { cancel(); tasks.Wait() }, nil
}

// workerConfig is the configuration of the nth worker, as its command line
// would give it. The first has the NATS server, the others join.
func (d *demo) workerConfig(n int) (config, error) {
	first := filepath.Join(d.dir, "worker-1")
	keyset, providers := filepath.Join(first, "keyset.json"), filepath.Join(d.dir, "providers.yaml")
	flags := map[string]string{
		"worker-id": fmt.Sprintf("worker-%d", n), "data-dir": filepath.Join(d.dir, fmt.Sprintf("worker-%d", n)),
		"keyset": keyset, "providers": providers, "http-addr": none, "nats-listen": "127.0.0.1:0",
	}
	if n == 1 {
		text := fmt.Sprintf("providers:\n  %s:\n    token_url: %s/token\n    client_id: demo\n", demoPlatform, d.url)
		if err := os.WriteFile(providers, []byte(text), 0o600); err != nil {
			return config{}, fmt.Errorf("write the demo's provider file: %w", err)
		}
		if err := os.MkdirAll(first, 0o700); err != nil {
			return config{}, fmt.Errorf("make the demo's folder: %w", err)
		}
		if _, err := seal.Create(keyset); err != nil {
			return config{}, err
		}
	} else {
		server := d.workers[0].server
		delete(flags, "nats-listen")
		flags["nats-url"], flags["nats-nkey"] = server.URL(), server.KeyFile(bus.RoleWorker)
	}
	get := func(name string) (string, bool) { v, ok := flags[name]; return v, ok }
	cfg, err := readConfig(get, func(string) (string, bool) { return "", false })
	if err != nil {
		return config{}, err
	}
	// What the defaults are to tokens of an hour, these are to the demo's.
	ttl := d.cfg.TokenTTL
	cfg.RefreshSkew, cfg.CacheSkew, cfg.MinTTL = ttl/3, ttl/3, ttl/8
	cfg.LeaseTTL, cfg.L1MaxAge = 5*time.Second, min(cfg.L1MaxAge, ttl/2)
	return cfg, nil
}

func (d *demo) startWorker(ctx context.Context, n int) error {
	cfg, err := d.workerConfig(n)
	if err != nil {
		return err
	}
	h := d.watcher.hooks(cfg.WorkerID)
	if n == 1 {
		h.drained = func(w *worker) { d.final = finalAccounts(w) }
	}
	w, err := openWorker(cfg, d.log, h)
	if err != nil {
		return fmt.Errorf("start %s: %s", cfg.WorkerID, err) // not the user's configuration
	}
	// It stops when the story is over, not before: ctx ends too early.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	dw := &demoWorker{worker: w, stop: stop, ended: make(chan struct{})}
	d.workers = append(d.workers, dw)
	go func() {
		defer close(dw.ended)
		dw.err = w.run(running)
	}()
	select {
	case <-w.serving:
	case <-dw.ended:
		return fmt.Errorf("start %s: %w", cfg.WorkerID, dw.err)
	case <-ctx.Done():
		return ctx.Err()
	}
	if n == 1 {
		d.story.tell(blue, cfg.WorkerID, "answers requests; its embedded NATS server listens at %s", w.server.URL())
		d.story.tell(blue, cfg.WorkerID, "listen in: tokenctl watch --nats-url %s --nats-nkey %s", w.server.URL(), w.server.KeyFile(bus.RoleOperator))
	} else {
		d.story.tell(blue, cfg.WorkerID, "answers requests too: it joined over NATS, with the same keyset")
	}
	return nil
}

// logIn puts the accounts by the operators' API. Their tokens are about to
// expire, so that there is something to see soon.
func (d *demo) logIn(ctx context.Context) error {
	server := d.workers[0].server
	conn, err := bus.Connect(bus.Config{
		URLs: []string{server.URL()}, NKey: server.KeyFile(bus.RoleOperator), InboxPrefix: bus.InboxPrefix(bus.RoleOperator), Name: "tokenbus demo operator",
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	for i, key := range d.keys {
		access, refresh := d.oauth.NewGrant(key.ID())
		wait := time.Duration(i+1) * min(2*time.Second, d.cfg.TokenTTL/8)
		c := account.Credentials{
			AccessToken: account.NewSecret(access), RefreshToken: account.NewSecret(refresh),
			ExpiresAt: time.Now().Add(d.cfg.TokenTTL/3 + wait),
		}
		if err := putAccount(ctx, conn, d.workers[0].subjects, key, c); err != nil {
			return fmt.Errorf("put %s: %w", key, err)
		}
		d.story.tell(yellow, "operator", "accounts.put %s: logged in, version 1, due for refresh in %.1fs", key, wait.Seconds())
	}
	return nil
}

// stopWorkers stops them one after the other, the one with the server last.
func (d *demo) stopWorkers() error {
	var errs []error
	for i := len(d.workers) - 1; i >= 0; i-- {
		w := d.workers[i]
		w.stop()
		<-w.ended
		if w.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", w.id, w.err))
		}
	}
	return errors.Join(errs...)
}

// finalAccounts reads what a drained worker leaves in the store.
func finalAccounts(w *worker) []account.Account {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	accounts, err := w.store.List(ctx, ledger.ListQuery{Platform: demoPlatform, Limit: events.MaxListLimit})
	if err != nil {
		w.log.Error("accounts could not be read for the summary", "error", err)
	}
	return accounts
}

// summary says what the demo proves, and returns what it doesn't.
func (d *demo) summary() error {
	versions := 0
	for _, a := range d.final {
		versions += int(a.Version) - 1 // the login made the first
	}
	lookups, failed := d.gateway.totals()
	stats := d.oauth.Stats()
	d.story.say(bold, "\nSummary after %.1fs", time.Since(d.story.start).Seconds())
	d.story.say(plainText, "  %s, each token used at the OAuth server's userinfo: %d failed", plural(lookups, "look-up"), failed)
	d.story.say(plainText, "  %s, %s of %s", plural(stats.Exchanges, "exchange"), plural(versions, "new version"), plural(len(d.final), "account"))
	d.story.say(plainText, "  %s reused, %s revoked", plural(stats.Reused, "refresh token"), plural(stats.Revoked, "grant"))
	d.story.say(plainText, "  %s dropped by peers that heard a bump", plural(d.watcher.drops(), "stale entry"))
	d.story.say(plainText, "demo: lookups=%d failed=%d exchanges=%d reused=%d versions=%d", lookups, failed, stats.Exchanges, stats.Reused, versions)
	var problems []string
	if failed > 0 {
		problems = append(problems, plural(failed, "look-up")+" failed")
	}
	if stats.Reused > 0 {
		problems = append(problems, plural(stats.Reused, "refresh token")+" used twice")
	}
	if stats.Exchanges != versions {
		problems = append(problems, fmt.Sprintf("%s but %s", plural(stats.Exchanges, "exchange"), plural(versions, "version")))
	}
	if len(problems) > 0 {
		return errors.New("demo: " + strings.Join(problems, ", "))
	}
	return nil
}
