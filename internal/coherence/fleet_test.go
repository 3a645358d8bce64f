package coherence_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/memory"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/rotation"
	"github.com/tokenbus/tokenbus/seal"
)

// The platforms, by how long their tokens live.
const (
	steady = "steady" // an hour
	brief  = "brief"  // briefTTL
)

const briefTTL = 8 * time.Second

// forever is a max age that no test outlasts: what is seen then, is not because
// somebody looked in time.
const forever = time.Hour

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok says so.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !within(time.Minute, ok) {
		t.Fatalf("never: %s", what)
	}
}

func within(d time.Duration, ok func() bool) bool {
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for late := time.Now().Add(d); !ok(); <-again.C {
		if time.Now().After(late) {
			return false
		}
	}
	return true
}

// config is what of a fleet depends on the test.
type config struct {
	workers, clients int
	workerAge        time.Duration // L1MaxAge
	clientAge        time.Duration // MaxAge
}

// fleet is a NATS server, workers and clients, each behind a link of its own.
// What the workers share is in this process and does not fail.
type fleet struct {
	t         *testing.T
	cfg       config
	record    *record
	server    *bus.Server
	subjects  events.Subjects
	endpoints map[string]*oauthtest.Server
	store     *memory.Store
	tool      *provider.Provider // puts logins into the store, and tells nobody
	publisher *bus.Publisher     // of the tool
	workers   []*worker
	clients   []*gateway
	found     int // violations
}

func newFleet(t *testing.T, cfg config) *fleet {
	t.Helper()
	fl := &fleet{t: t, cfg: cfg, record: newRecord(), endpoints: map[string]*oauthtest.Server{}, store: &memory.Store{}}
	var err error
	fl.subjects, err = events.NewSubjects(events.DefaultPrefix)
	check(t, err)
	fl.server, err = bus.StartServer(bus.ServerConfig{Listen: "127.0.0.1:0", DataDir: t.TempDir(), Subjects: fl.subjects, SyncInterval: time.Minute})
	check(t, err)
	t.Cleanup(fl.server.Shutdown)
	direct, err := bus.Connect(bus.Config{Server: fl.server, Name: "test"})
	check(t, err)
	t.Cleanup(direct.Close)
	js, err := jetstream.New(direct)
	check(t, err)
	check(t, bus.EnsureStreams(t.Context(), js, bus.StreamsConfig{Subjects: fl.subjects}))
	_, err = direct.Subscribe(fl.subjects.AllBumps(), func(m *nats.Msg) {
		if b, err := events.DecodeBump(m.Data); err == nil {
			fl.record.bumpSent(b.Key, b.Version)
		}
	})
	check(t, err)
	fl.publisher, err = bus.NewPublisher(bus.PublisherConfig{Conn: direct, Subjects: fl.subjects, Source: "tool"})
	check(t, err)
	shared := fl.core()
	fl.startTool(shared)
	for i := range cfg.workers {
		fl.startWorker(shared, fmt.Sprintf("w%d", i+1))
	}
	for i := range cfg.clients {
		fl.startClient(fmt.Sprintf("c%d", i+1))
	}
	return fl
}

// core returns what all workers share.
func (fl *fleet) core() provider.Config {
	definitions := oauth.Definitions{}
	for platform, ttl := range map[string]time.Duration{steady: time.Hour, brief: briefTTL} {
		s, err := oauthtest.New(oauthtest.Config{TTL: ttl})
		check(fl.t, err)
		web := httptest.NewServer(s)
		fl.t.Cleanup(web.Close)
		fl.endpoints[platform] = s
		definitions[platform] = oauth.Definition{
			TokenURL: web.URL + "/token", ClientID: "test", Auth: oauth.AuthNone, Encoding: oauth.EncodingForm, Timeout: 10 * time.Second,
			DeadGrantErrors: []string{"invalid_grant"}, MaxConcurrent: 32, ServeWhileRefreshing: true,
		}
	}
	endpoint, err := oauth.New(oauth.Config{Definitions: definitions})
	check(fl.t, err)
	sealer, err := seal.New()
	check(fl.t, err)
	timing := rotation.DefaultTiming()
	timing.L1MaxAge, timing.LeaseTTL = fl.cfg.workerAge, 5*time.Second
	return provider.Config{
		Store: fl.store, Cache: &memory.Cache{}, Locker: &memory.Locker{}, Journal: &memory.Journal{}, Endpoint: endpoint, Sealer: sealer,
		Host: "host", Timing: timing,
	}
}

// startTool makes what changes accounts in the store without a word to anybody.
func (fl *fleet) startTool(cfg provider.Config) {
	cfg.Cache, cfg.Publisher, cfg.Spool, cfg.WorkerID = &memory.Cache{}, &memory.Bus{}, &memory.Journal{}, "tool"
	var err error
	fl.tool, err = provider.New(cfg)
	check(fl.t, err)
	fl.t.Cleanup(func() { _ = fl.tool.Close(context.Background()) })
}

// worker is the real core behind the real bus. What it answers and hears is
// recorded.
type worker struct {
	*provider.Provider
	record *workerRecord
	link   *rig.Link
	conn   *nats.Conn
	// holds, if not nil, is called before an answer is given, and may give another.
	holds atomic.Pointer[func(account.Key, events.TokenRequest) *events.Error]
}

func (fl *fleet) startWorker(cfg provider.Config, id string) {
	fl.t.Helper()
	link, url := rig.LinkTo(fl.t, fl.server.URL())
	conn, err := bus.Connect(bus.Config{
		URLs: []string{url}, NKey: fl.server.KeyFile(bus.RoleWorker), InboxPrefix: bus.InboxPrefix(bus.RoleWorker), Name: id,
	})
	check(fl.t, err)
	cfg.Publisher, err = bus.NewPublisher(bus.PublisherConfig{Conn: conn, Subjects: fl.subjects, Source: id})
	check(fl.t, err)
	cfg.Spool, cfg.WorkerID = &memory.Journal{}, id
	w := &worker{record: fl.record.addWorker(id), link: link, conn: conn}
	w.Provider, err = provider.New(cfg)
	check(fl.t, err)
	served, err := bus.StartWorker(fl.t.Context(), bus.WorkerConfig{Conn: conn, Subjects: fl.subjects, Tokens: w, Accounts: w, Observer: w, ID: id})
	check(fl.t, err)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.Run(ctx) })
	fl.workers = append(fl.workers, w)
	fl.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = served.Drain(ctx)
		stop()
		running.Wait()
		_ = w.Close(ctx)
		served.Close()
		conn.Close()
	})
}

// Cached implements [bus.Tokens].
func (w *worker) Cached(key account.Key, req events.TokenRequest) ([]byte, bool) {
	if w.holds.Load() != nil {
		return nil, false
	}
	began := w.record.now()
	body, ok := w.Provider.Cached(key, req)
	if ok {
		reply, err := events.DecodeTokenReply(key, body)
		w.answered(began, key, req, reply, err)
	}
	return body, ok
}

// Ask implements [bus.Tokens].
func (w *worker) Ask(ctx context.Context, key account.Key, req events.TokenRequest, answer func([]byte, error)) {
	began := w.record.now()
	w.Provider.Ask(ctx, key, req, func(body []byte, err error) {
		if err == nil {
			var reply events.TokenReply
			reply, err = events.DecodeTokenReply(key, body)
			w.answered(began, key, req, reply, err)
		}
		hold := w.holds.Load()
		if hold == nil {
			answer(body, err)
			return
		}
		go func() { // the others don't wait for it
			if e := (*hold)(key, req); e != nil {
				body, err = nil, e
			}
			answer(body, err)
		}()
	})
}

// Token is Ask for one that waits.
func (w *worker) Token(ctx context.Context, key account.Key, req events.TokenRequest) (events.TokenReply, error) {
	began := w.record.now()
	reply, err := w.Provider.Token(ctx, key, req)
	w.answered(began, key, req, reply, err)
	return reply, err
}

func (w *worker) answered(began moment, key account.Key, req events.TokenRequest, reply events.TokenReply, err error) {
	if err == nil {
		w.record.answer(answered{event{w.record.now(), key, reply.Version}, began, req.MinVersion, req.RejectedVersion})
	}
}

// ask asks this worker and no other.
func (w *worker) ask(t *testing.T, key account.Key, req events.TokenRequest) account.Version {
	t.Helper()
	if body, ok := w.Cached(key, req); ok {
		reply, err := events.DecodeTokenReply(key, body)
		check(t, err)
		return reply.Version
	}
	reply, err := w.Token(t.Context(), key, req)
	check(t, err)
	return reply.Version
}

// ObserveBump implements [bus.Observer].
func (w *worker) ObserveBump(b events.Bump) {
	w.Provider.ObserveBump(b)
	w.record.hear(b.Key, b.Version)
}

// Resync implements [bus.Observer].
func (w *worker) Resync() {
	w.Provider.Resync()
	w.record.resync()
}

// gateway is a client, and what was seen of it.
type gateway struct {
	*client.Client
	tap    *tap
	link   *rig.Link
	conn   *nats.Conn
	record *clientRecord
}

func (fl *fleet) startClient(name string) {
	fl.t.Helper()
	link, url := rig.LinkTo(fl.t, fl.server.URL())
	r := fl.record.addClient(name)
	g := &gateway{tap: &tap{record: r, subjects: fl.subjects}, link: link, record: r}
	nkey, err := nats.NkeyOptionFromSeed(fl.server.KeyFile(bus.RoleClient))
	check(fl.t, err)
	conn, err := nats.Connect(url, nkey,
		nats.CustomInboxPrefix(client.InboxPrefix), nats.SetCustomDialer(g.tap), nats.Name(name), nats.MaxReconnects(-1),
		nats.ReconnectWait(50*time.Millisecond), nats.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond),
		nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2), nats.Timeout(2*time.Second),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	check(fl.t, err)
	fl.t.Cleanup(conn.Close)
	g.conn = conn
	g.Client, err = client.New(client.Config{
		Conn: conn, MaxAge: fl.cfg.clientAge, MinTTL: time.Second, Logger: slog.New(g.tap), Hooks: client.Hooks{Missed: g.missed},
	})
	check(fl.t, err)
	fl.t.Cleanup(func() { _ = g.Close() })
	fl.clients = append(fl.clients, g)
}

func (g *gateway) missed(reason string) {
	n := notice{at: g.record.now(), why: lost}
	switch reason {
	case "connected again":
		n.why = back
	case "bumps came too fast":
		n.why = tooFast
	}
	add(g.record, &g.record.noticed, n)
}

var seed = maphash.MakeSeed()

// Token is a look-up that is recorded.
func (g *gateway) Token(ctx context.Context, key account.Key, opts ...client.Option) (client.Token, error) {
	began := g.record.now()
	token, err := g.Client.Token(ctx, key, opts...)
	if err != nil {
		return token, err
	}
	s := served{
		event: event{g.record.now(), key, token.Version}, began: began,
		token: maphash.String(seed, token.AccessToken()), fromMemory: token.Source == client.SourceClient,
	}
	if !token.ExpiresAt.IsZero() {
		s.expires = token.ExpiresAt.Sub(g.record.base)
	}
	add(g.record, &g.record.served, s)
	return token, nil
}

// login logs an account in by a worker, and waits until that is announced: who
// begins to listen then, hears nothing of it.
func (fl *fleet) login(platform, id string) account.Key {
	fl.t.Helper()
	key, err := account.NewKey(platform, id)
	check(fl.t, err)
	_, err = fl.workers[0].Put(fl.t.Context(), fl.grant(key))
	check(fl.t, err)
	eventually(fl.t, "announced", func() bool {
		fl.record.mu.Lock()
		defer fl.record.mu.Unlock()
		return highest(fl.record.sent).before(key, forever).version == 1
	})
	return key
}

// loginUnheard is a login tool that writes the store.
func (fl *fleet) loginUnheard(ctx context.Context, key account.Key) (events.Account, error) {
	return fl.tool.Put(ctx, fl.grant(key))
}

// loginTold is one that says so, to the workers, however long that takes: what
// nobody is told of, nobody need find.
func (fl *fleet) loginTold(key account.Key) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a, err := fl.loginUnheard(ctx, key)
	if err != nil {
		fl.t.Errorf("log %s in: %v", key, err)
		return
	}
	// Our tool is a worker without a bus, which marks what it writes until it has
	// told nobody.
	within(time.Minute, func() bool {
		d, err := fl.store.Get(ctx, key)
		return err != nil || !d.AnnouncePending || d.Version > a.Version
	})
	err = fl.publisher.Refreshed(ctx, events.Refreshed{Key: key, Version: a.Version, Reason: events.ReasonExternal, By: "tool", At: time.Now()})
	if err != nil {
		fl.t.Errorf("tell of the login of %s: %v", key, err)
	}
}

// grant logs the account in anew at its endpoint.
func (fl *fleet) grant(key account.Key) events.PutRequest {
	endpoint, ttl := fl.endpoints[key.Platform()], time.Hour
	if key.Platform() == brief {
		ttl = briefTTL
	}
	access, refresh := endpoint.NewGrant(key.ID())
	credentials, _ := json.Marshal(map[string]any{"access_token": access, "refresh_token": refresh, "expires_at": time.Now().Add(ttl)})
	return events.PutRequest{Platform: key.Platform(), ID: key.ID(), Type: "oauth", Credentials: credentials}
}

// rotate forces a refresh, by this worker.
func (w *worker) rotate(ctx context.Context, key account.Key) error {
	_, err := w.Refresh(ctx, events.KeyRequest{Platform: key.Platform(), ID: key.ID()})
	return err
}

// newest returns the account's version in the store.
func (fl *fleet) newest(key account.Key) account.Version {
	fl.t.Helper()
	a, err := fl.store.Get(fl.t.Context(), key)
	check(fl.t, err)
	return a.Version
}

// settle expects each client to come to the newest version of each account, and
// returns how long the last took. Nothing is out of order any more.
func (fl *fleet) settle(patience time.Duration, keys ...account.Key) time.Duration {
	fl.t.Helper()
	began := fl.record.now()
	var all sync.WaitGroup
	for _, g := range fl.clients {
		all.Go(func() {
			for _, key := range keys {
				var got client.Token
				var err error
				ok := within(patience-(fl.record.now()-began), func() bool {
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					got, err = g.Token(ctx, key)
					return err == nil && got.Version >= fl.newest(key)
				})
				if !ok {
					err = errors.Join(err, fmt.Errorf("%s after %s: %s has version %d of %s, the newest is %d", "newest", patience, g.record.name, got.Version, key, fl.newest(key)))
					fl.record.mu.Lock()
					fl.record.late = append(fl.record.late, violation{"newest", err.Error()})
					fl.record.mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	return fl.record.now() - began
}
