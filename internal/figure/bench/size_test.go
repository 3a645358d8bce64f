package bench

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/connstring"
	"golang.org/x/sync/errgroup"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/figure"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/natskv"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
)

// spentKept is how many fingerprints of spent refresh tokens a document keeps:
// after so many refreshes it grows no more.
const spentKept = 16

// BenchmarkSize tells what an account takes up, with an access token of
// tokenSize: in each stream as JetStream counts it, and as its files are on
// disk; in MongoDB by the encoding of the document; in Redis as it says itself.
// An account has been refreshed more often than its document grows.
func BenchmarkSize(b *testing.B) {
	refreshes := figure.Size(2, spentKept+1)
	b.Run("nats", func(b *testing.B) {
		f := newFleet(b, fleetConfig{})
		accounts := keys(b, 0, figure.Size(40, 1000))
		w, grow := f.sized(accounts)
		imported := f.events(w, len(accounts))
		b.ReportMetric(f.perAccount(w, "KV_TOKENBUS_ACCOUNTS", len(accounts)), "accounts:imported:B/account")
		grow(refreshes)
		for _, stream := range []string{"KV_TOKENBUS_ACCOUNTS", "KV_TOKENBUS_CACHE", events.StreamBumps} {
			name := strings.ToLower(stream[strings.LastIndexByte(stream, '_')+1:])
			b.ReportMetric(f.perAccount(w, stream, len(accounts)), name+":B/account")
			b.ReportMetric(onDisk(b, f.server, stream)/float64(len(accounts)), name+":disk-B/account")
		}
		all := f.events(w, len(accounts)*(1+refreshes))
		b.ReportMetric((all-imported)/float64(len(accounts)*refreshes), "events:B/refresh")
		b.ReportMetric(onDisk(b, f.server, events.StreamEvents)/float64(len(accounts)*(1+refreshes)), "events:disk-B/refresh")
		b.ReportMetric(0, "ns/op")
	})
	b.Run("databases", func(b *testing.B) {
		url, cache := rig.Mongo(b), rig.Redis(b)
		f := newFleet(b, fleetConfig{mongo: url, redis: cache})
		accounts := keys(b, 0, figure.Size(10, 100))
		_, grow := f.sized(accounts)
		grow(refreshes)
		parsed, err := connstring.Parse(url)
		check(b, err)
		db, err := mongo.Connect(options.Client().ApplyURI(url))
		check(b, err)
		b.Cleanup(func() { _ = db.Disconnect(context.Background()) })
		client := bareRedis(b, cache)
		var document, entry int64
		for _, key := range accounts {
			raw, err := db.Database(parsed.Database).Collection("accounts").FindOne(b.Context(), bson.M{"_id": key.String()}).Raw()
			check(b, err)
			document += int64(len(raw))
			size, err := client.MemoryUsage(b.Context(), "tokenbus:cache:{"+key.String()+"}").Result()
			check(b, err)
			entry += size
		}
		b.ReportMetric(float64(document)/float64(len(accounts)), "mongo:B/account")
		b.ReportMetric(float64(entry)/float64(len(accounts)), "redis:B/account")
		b.ReportMetric(0, "ns/op")
	})
}

// sized puts accounts and returns a worker, and a function that refreshes each
// of them n times. All of their tokens are of tokenSize.
func (f *fleet) sized(accounts []account.Key) (w *worker, grow func(n int)) {
	b := f.b
	b.Helper()
	var err error
	f.endpoint, err = oauthtest.New(oauthtest.Config{JWT: true}) // a token is as long as the name in it
	check(b, err)
	web := httptest.NewServer(f.endpoint)
	b.Cleanup(web.Close)
	f.url = web.URL + "/token"
	bare, _ := f.endpoint.NewGrant("")
	name := strings.Repeat("n", (tokenSize-len(bare))*3/4-len(accounts[0].ID()))
	w = f.worker()
	ran := make(chan struct{}) // repeats an announcement that a busy machine was too slow for
	go func() { defer close(ran); _ = w.Run(b.Context()) }()
	w.stops = append(w.stops, func() { <-ran })
	each := func(do func(key account.Key) error) {
		var g errgroup.Group
		g.SetLimit(16)
		for _, key := range accounts {
			g.Go(func() error { return do(key) })
		}
		check(b, g.Wait())
		w.announced()
	}
	each(func(key account.Key) error {
		access, refresh := f.endpoint.NewGrant(key.ID() + name)
		if d := len(access) - tokenSize; d < -8 || d > 8 {
			return fmt.Errorf("the token has %d bytes", len(access))
		}
		return w.put(key, access, refresh, time.Now().Add(time.Hour))
	})
	return w, func(n int) {
		for range n {
			each(func(key account.Key) error {
				_, err := w.Refresh(b.Context(), events.KeyRequest{Platform: key.Platform(), ID: key.ID()})
				return err
			})
		}
		if got := f.endpoint.Exchanges(); got != n*len(accounts) || f.endpoint.Reused() > 0 {
			b.Fatalf("%d exchanges for %d refreshes of %d accounts", got, n, len(accounts))
		}
		a, err := w.store.Get(b.Context(), accounts[0])
		check(b, err)
		if a.Version != account.Version(1+n) || len(a.Fingerprints.Spent) != min(n, spentKept) {
			b.Fatalf("version %d with %d spent refresh tokens after %d refreshes", a.Version, len(a.Fingerprints.Spent), n)
		}
	}
}

func (f *fleet) state(w *worker, stream string, messages int) jetstream.StreamState {
	f.b.Helper()
	s, err := w.js.Stream(f.b.Context(), stream)
	check(f.b, err)
	state := s.CachedInfo().State
	if state.Msgs != uint64(messages) {
		f.b.Fatalf("stream %s has %d messages, not %d", stream, state.Msgs, messages)
	}
	return state
}

// perAccount returns the bytes of a stream that has one message of each account.
func (f *fleet) perAccount(w *worker, stream string, accounts int) float64 {
	f.b.Helper()
	return float64(f.state(w, stream, accounts).Bytes) / float64(accounts)
}

// events returns the bytes of so many events.
func (f *fleet) events(w *worker, n int) float64 {
	f.b.Helper()
	return float64(f.state(w, events.StreamEvents, n).Bytes)
}

// onDisk returns the bytes of a stream's files.
func onDisk(b *testing.B, s *bus.Server, stream string) (bytes float64) {
	b.Helper()
	found := false
	check(b, filepath.WalkDir(filepath.Dir(s.KeyFile(bus.RoleWorker)), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, string(filepath.Separator)+stream+string(filepath.Separator)) {
			return err
		}
		info, err := d.Info()
		if err == nil {
			bytes, found = bytes+float64(info.Size()), true
		}
		return err
	}))
	if !found {
		b.Fatalf("stream %s has no files", stream)
	}
	return bytes
}

// BenchmarkServerMemory tells what a subject takes of a JetStream server's heap,
// and of its disk, in a stream with one message of each. Each was replaced a few
// times, in no order,
// as bumps and the entries of buckets are; then the server starts anew. Events
// have an id, which the server remembers for the stream's duplicate window, and
// entries of the cache a time to live.
func BenchmarkServerMemory(b *testing.B) {
	n := figure.Size(1000, 100_000)
	const replaced = 4
	accounts := make([]account.Key, n)
	for i := range accounts {
		var err error
		accounts[i], err = account.NewKey(platform, fmt.Sprintf("user-%08d", i))
		check(b, err)
	}
	s := subjects(b)
	now := time.Now()
	b.Run("bumps", func(b *testing.B) {
		version := account.Version(0)
		fill(b, events.StreamBumps, n, replaced, func() []*nats.Msg {
			version++
			return messages(accounts, func(key account.Key) *nats.Msg {
				e := events.Bump{Key: key, Version: version, Rev: account.Rev(version), At: now}
				return &nats.Msg{Subject: s.Bump(key), Header: e.Header("w1"), Data: e.Encode()}
			})
		})
	})
	b.Run("events", func(b *testing.B) {
		fill(b, events.StreamEvents, n, 1, func() []*nats.Msg {
			return messages(accounts, func(key account.Key) *nats.Msg {
				e := events.Refreshed{Key: key, Version: 1, ExpiresAt: now, Reason: events.ReasonExpiry, By: "w1", At: now}
				m := &nats.Msg{Subject: s.Refreshed(key), Header: e.Header(), Data: e.Encode()}
				m.Header.Set(jetstream.MsgIDHeader, e.MsgID())
				return m
			})
		})
	})
	b.Run("cache", func(b *testing.B) {
		fill(b, "KV_TOKENBUS_CACHE", n, replaced, func() []*nats.Msg {
			return messages(accounts, func(key account.Key) *nats.Msg {
				m := &nats.Msg{Subject: "$KV.TOKENBUS_CACHE." + key.String(), Header: nats.Header{}, Data: make([]byte, 200)}
				m.Header.Set(jetstream.MsgTTLHeader, "2h")
				return m
			})
		})
	})
}

func messages(accounts []account.Key, of func(account.Key) *nats.Msg) []*nats.Msg {
	list := make([]*nats.Msg, len(accounts))
	for i, j := range rand.Perm(len(accounts)) {
		list[i] = of(accounts[j])
	}
	return list
}

// fill publishes so many rounds of messages to n subjects of a stream, and
// reports what that leaves of the server's heap.
func fill(b *testing.B, stream string, n, rounds int, round func() []*nats.Msg) {
	cfg := bus.ServerConfig{Listen: "127.0.0.1:0", DataDir: b.TempDir(), Subjects: subjects(b), SyncInterval: time.Minute}
	open := func() (server *bus.Server, nc *nats.Conn, js jetstream.JetStream) {
		server, err := bus.StartServer(cfg)
		check(b, err)
		b.Cleanup(server.Shutdown)
		nc = connect(b, server, bus.RoleWorker)
		js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1024))
		check(b, err)
		return server, nc, js
	}
	have := func(js jetstream.JetStream) uint64 {
		s, err := js.Stream(b.Context(), stream)
		check(b, err)
		return s.CachedInfo().State.Msgs
	}
	server, nc, js := open()
	check(b, bus.EnsureStreams(b.Context(), js, bus.StreamsConfig{Subjects: subjects(b)}))
	_, err := natskv.NewCache(b.Context(), natskv.Config{JetStream: js})
	check(b, err)
	empty := heap()
	for i := range rounds {
		list := round()
		if i > 0 && i == rounds-1 {
			list = list[:n/2] // as it is at any time: half of the old ones are gone
		}
		for _, m := range list {
			_, err := js.PublishMsgAsync(m, jetstream.WithStallWait(patience))
			check(b, err)
		}
		select {
		case <-js.PublishAsyncComplete():
		case <-time.After(patience):
			b.Fatal("messages are not acknowledged")
		}
	}
	if got := have(js); got != uint64(n) {
		b.Fatalf("the stream has %d messages, not %d", got, n)
	}
	b.ReportMetric((heap()-empty)/float64(n), "written:heap-B/subject")
	b.ReportMetric(onDisk(b, server, stream)/float64(n), "disk-B/subject")
	s, err := js.Stream(b.Context(), stream)
	check(b, err)
	b.ReportMetric(float64(s.CachedInfo().State.Bytes)/float64(n), "state-B/subject")
	nc.Close()
	server.Shutdown()
	_, _, js = open()
	if got := have(js); got != uint64(n) {
		b.Fatalf("the stream has %d messages after a restart, not %d", got, n)
	}
	b.ReportMetric((heap()-empty)/float64(n), "restarted:heap-B/subject")
	b.ReportMetric(0, "ns/op")
}

// heap returns the bytes that are in use.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
