package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/mongostore"
	"github.com/tokenbus/tokenbus/natskv"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/rediskv"
	"github.com/tokenbus/tokenbus/seal"
	"github.com/tokenbus/tokenbus/spool"
)

// patience is longer than anything here takes unless it is lost.
const patience = time.Minute

// tokenSize is what an access token of a large provider has, in bytes.
const tokenSize = 1200

// fleet is what workers share.
type fleet struct {
	b        *testing.B
	server   *bus.Server      // nil where there is a cluster
	cluster  *rig.NATSCluster // nil where there is one server
	subjects events.Subjects
	sealer   *seal.Sealer
	endpoint *oauthtest.Server
	url      string // of the token endpoint
	cfg      fleetConfig
	workers  int
}

type fleetConfig struct {
	mongo, redis string        // URLs; "": JetStream
	servers      int           // of NATS, each with a replica of everything; 0: the embedded one alone
	durable      bool          // servers sync each write, as the embedded one does by default
	exchange     time.Duration // how long the token endpoint takes
	concurrent   int           // exchanges at once; 0: 32
}

func newFleet(b *testing.B, cfg fleetConfig) *fleet {
	b.Helper()
	f := &fleet{b: b, subjects: subjects(b), cfg: cfg}
	if cfg.servers > 0 {
		f.cluster = rig.NewNATSCluster(b, cfg.servers, func(_ int, o *server.Options) { o.SyncAlways = cfg.durable })
	} else {
		f.server = startServer(b, cfg.durable)
	}
	var err error
	f.sealer, err = seal.New()
	check(b, err)
	f.endpoint, err = oauthtest.New(oauthtest.Config{})
	check(b, err)
	if cfg.exchange > 0 {
		f.endpoint, err = oauthtest.New(oauthtest.Config{OnRequest: slow(cfg.exchange)})
		check(b, err)
	}
	web := httptest.NewServer(f.endpoint)
	b.Cleanup(web.Close)
	f.url = web.URL + "/token"
	return f
}

func startServer(b *testing.B, durable bool) *bus.Server {
	b.Helper()
	cfg := bus.ServerConfig{Listen: "127.0.0.1:0", DataDir: b.TempDir(), Subjects: subjects(b)}
	if !durable {
		cfg.SyncInterval = time.Minute
	}
	s, err := bus.StartServer(cfg)
	check(b, err)
	b.Cleanup(s.Shutdown)
	return s
}

func subjects(b *testing.B) events.Subjects {
	b.Helper()
	s, err := events.NewSubjects(events.DefaultPrefix)
	check(b, err)
	return s
}

// connect returns a connection of its own, over TCP.
func connect(b *testing.B, s *bus.Server, role bus.Role) *nats.Conn {
	b.Helper()
	nc, err := bus.Connect(bus.Config{URLs: []string{s.URL()}, NKey: s.KeyFile(role), InboxPrefix: bus.InboxPrefix(role)})
	check(b, err)
	b.Cleanup(nc.Close)
	return nc
}

// connect returns a connection of its own to the fleet's server, or to the last
// of a cluster, in the role of a worker.
func (f *fleet) connect() *nats.Conn {
	f.b.Helper()
	if f.cluster == nil {
		return connect(f.b, f.server, bus.RoleWorker)
	}
	nc, err := bus.Connect(bus.Config{URLs: []string{f.cluster.Server(f.cluster.Size() - 1).ClientURL()}})
	check(f.b, err)
	f.b.Cleanup(nc.Close)
	return nc
}

// worker is a worker as cmd/worker puts it together, but that it does not look
// for due accounts by itself.
type worker struct {
	*provider.Provider
	conn  *nats.Conn
	js    jetstream.JetStream
	store ledger.Store
	onBus *bus.Worker // nil until it serves
	b     *testing.B
	stops []func()
	once  sync.Once
}

// worker starts a worker that answers no requests yet.
func (f *fleet) worker() *worker {
	b := f.b
	b.Helper()
	f.workers++
	id := fmt.Sprint("w", f.workers)
	ctx := b.Context()
	w := &worker{b: b, conn: f.connect()}
	b.Cleanup(w.stop)
	var err error
	w.js, err = jetstream.New(w.conn)
	check(b, err)
	check(b, bus.EnsureStreams(ctx, w.js, bus.StreamsConfig{Subjects: f.subjects}))
	buckets := natskv.Config{JetStream: w.js}
	journal, err := natskv.NewJournal(ctx, buckets)
	check(b, err)
	var cache ledger.Cache
	var leases lease.Backend
	if f.cfg.redis != "" {
		client, err := rediskv.Open(ctx, rediskv.Config{URL: f.cfg.redis})
		check(b, err)
		w.stops = append(w.stops, func() { _ = client.Close() })
		cache, leases = client.Cache(), client.Leases()
	} else {
		cache, err = natskv.NewCache(ctx, buckets)
		check(b, err)
		leases, err = natskv.NewLeases(ctx, buckets)
		check(b, err)
	}
	if f.cfg.mongo != "" {
		s, err := mongostore.Open(ctx, mongostore.Config{URL: f.cfg.mongo})
		check(b, err)
		check(b, s.EnsureIndexes(ctx))
		w.stops = append(w.stops, func() { _ = s.Close(context.Background()) })
		w.store = s
	} else {
		s, err := natskv.NewStore(ctx, buckets)
		check(b, err)
		w.stops = append(w.stops, s.Close)
		w.store = s
	}
	publisher, err := bus.NewPublisher(bus.PublisherConfig{Conn: w.conn, Subjects: f.subjects, Source: id})
	check(b, err)
	locker, err := lease.New(lease.Config{Backend: leases, Owner: id})
	check(b, err)
	disk, err := spool.Open(spool.Config{Dir: filepath.Join(b.TempDir(), "spool")})
	check(b, err)
	endpoint, err := oauth.New(oauth.Config{Definitions: oauth.Definitions{platform: {
		TokenURL: f.url, ClientID: "c", Auth: oauth.AuthNone, Encoding: oauth.EncodingForm, Timeout: patience,
		DeadGrantErrors: []string{"invalid_grant"}, MaxConcurrent: cmp.Or(f.cfg.concurrent, 32), ServeWhileRefreshing: true,
	}}})
	check(b, err)
	w.Provider, err = provider.New(provider.Config{
		Store: w.store, Cache: cache, Publisher: publisher, Sealer: f.sealer, Locker: locker, Journal: journal, Spool: disk,
		Endpoint: endpoint, WorkerID: id, Host: "bench",
	})
	check(b, err)
	return w
}

// serves starts a worker that answers requests.
func (f *fleet) serves() *worker {
	f.b.Helper()
	w := f.worker()
	var err error
	w.onBus, err = bus.StartWorker(f.b.Context(), bus.WorkerConfig{
		Conn: w.conn, Subjects: f.subjects, Tokens: w, Accounts: w, Observer: w, ID: fmt.Sprint("w", f.workers),
	})
	check(f.b, err)
	check(f.b, w.conn.Flush())
	return w
}

// caughtUp returns when the worker knows the store's index (which Start
// measures), and all workers have worked off what events there were.
func (w *worker) caughtUp() {
	b := w.b
	b.Helper()
	_, err := w.store.Pending(b.Context(), 1)
	check(b, err)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for late := time.Now().Add(patience); ; <-tick.C {
		consumer, err := w.js.Consumer(b.Context(), events.StreamEvents, "tokenbus-workers")
		if err == nil && consumer.CachedInfo().NumPending == 0 && consumer.CachedInfo().NumAckPending == 0 {
			return
		}
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) { // it is about to be made
			b.Fatal(err)
		}
		if time.Now().After(late) {
			b.Fatalf("events are not worked off: %v", err)
		}
	}
}

// stop stops the worker, with all that it began at its end.
func (w *worker) stop() {
	w.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if w.onBus != nil {
			if err := w.onBus.Drain(ctx); err != nil {
				w.b.Error(err)
			}
		}
		if w.Provider != nil {
			if err := w.Close(ctx); err != nil {
				w.b.Error(err)
			}
		}
		if w.onBus != nil {
			w.onBus.Close()
		}
		for _, stop := range w.stops {
			stop()
		}
		w.conn.Close()
	})
}

const platform = "demo"

// keys returns accounts whose names are of the same length.
func keys(b *testing.B, from, n int) []account.Key {
	b.Helper()
	list := make([]account.Key, n)
	for i := range list {
		var err error
		list[i], err = account.NewKey(platform, fmt.Sprintf("user-%06d", from+i))
		check(b, err)
	}
	return list
}

// logins puts accounts that live for long, and returns when everybody has been
// told.
func (f *fleet) logins(keys []account.Key) {
	f.b.Helper()
	w := f.worker()
	var sweeping sync.WaitGroup // for announcements that a busy machine left open
	ctx, cancel := context.WithCancel(f.b.Context())
	sweeping.Go(func() { _ = w.Run(ctx) })
	for part := range slices.Chunk(keys, 64) { // more at once outlast the cache's patience
		var g errgroup.Group
		for _, key := range part {
			g.Go(func() error {
				return w.put(key, fmt.Sprintf("%0*d", tokenSize, 1), "r-"+key.ID(), time.Now().Add(24*time.Hour))
			})
		}
		check(f.b, g.Wait())
		w.announced()
	}
	cancel()
	sweeping.Wait()
	w.stop()
}

// announced returns when everybody was told of all that was put.
func (w *worker) announced() {
	b := w.b
	b.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for late := time.Now().Add(patience); ; <-tick.C {
		pending, err := w.store.Pending(b.Context(), 1)
		check(b, err)
		if len(pending) == 0 {
			return
		}
		if time.Now().After(late) {
			b.Fatalf("%s is not announced", pending[0])
		}
	}
}

func (w *worker) put(key account.Key, access, refresh string, expires time.Time) error {
	req, err := events.DecodeRequest[events.PutRequest](fmt.Appendf(nil,
		`{"platform":%q,"id":%q,"type":"oauth","credentials":{"access_token":%q,"refresh_token":%q,"expires_at":%d}}`,
		key.Platform(), key.ID(), access, refresh, expires.Unix()))
	if err != nil {
		return err
	}
	_, err = w.Put(w.b.Context(), req)
	return err
}

// warm has the worker look each account up once.
func (w *worker) warm(keys []account.Key) {
	w.b.Helper()
	for _, key := range keys {
		_, err := w.Token(w.b.Context(), key, events.TokenRequest{})
		check(w.b, err)
	}
}

// requests are the subjects on which the accounts' tokens are asked for.
func (f *fleet) requests(keys []account.Key) []string {
	list := make([]string, len(keys))
	for i, key := range keys {
		list[i] = f.subjects.Request(key)
	}
	return list
}

// reply is one that the fleet gives to such a request.
func (f *fleet) reply(subject string, body []byte) []byte {
	f.b.Helper()
	m, err := connect(f.b, f.server, bus.RoleClient).Request(subject, body, patience)
	check(f.b, err)
	if !right(m) {
		f.b.Fatalf("the worker answers %s", m.Data)
	}
	return m.Data
}

// answer has the connection answer token requests as a worker's does.
func answer(b *testing.B, nc *nats.Conn, f func(m *nats.Msg)) *nats.Subscription {
	b.Helper()
	sub, err := nc.QueueSubscribe(subjects(b).AllRequests(), events.QueueGroup, f)
	check(b, err)
	check(b, nc.Flush())
	return sub
}

// echoes starts a server on which so many connections answer each request with
// the body.
func echoes(b *testing.B, n int, body []byte) *bus.Server {
	b.Helper()
	s := startServer(b, false)
	for range n {
		answer(b, connect(b, s, bus.RoleWorker), func(m *nats.Msg) { _ = m.Respond(body) })
	}
	return s
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
