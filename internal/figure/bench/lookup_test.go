package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/connstring"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/figure"
	"github.com/tokenbus/tokenbus/internal/rig"
)

// BenchmarkHotLookup asks a worker for tokens that it has in memory. The rival
// is a bare NATS echo, see [fleet.rivals], with as many askers that ask the same.
func BenchmarkHotLookup(b *testing.B) {
	f := newFleet(b, fleetConfig{})
	accounts := keys(b, 0, figure.Size(100, 1000))
	f.logins(accounts)
	w := f.serves()
	asks := newAskers(b, f.server, 4)
	requests := f.requests(accounts)
	for _, c := range []struct {
		name     string
		inFlight int
		body     string
	}{
		{"64", 64, ""},
		{"256", 256, ""},
		{"64/min_ttl", 64, `{"min_ttl":"30s"}`},
		{"256/min_ttl", 256, `{"min_ttl":"30s"}`},
		{"64/known_version", 64, `{"known_version":1}`},
		{"256/known_version", 256, `{"known_version":1}`},
	} {
		b.Run(c.name, func(b *testing.B) {
			body := []byte(c.body)
			w.warm(accounts)
			others := newAskers(b, f.rivals(b, 1, requests, body), 4)
			l := load{subjects: requests, body: body, requests: figure.Size(500, 5000), inFlight: c.inFlight}
			ours, rival := turns(figure.Size(4, 16),
				func() result { return w.fromMemory(b, asks, l) }, func() result { return others.askOn(b, l) })
			values := func(r result) []float64 { return []float64{r.perSecond(), r.quantile(0.99), r.cpuEach()} }
			figure.Compare(b,
				func() []float64 { return values(ours()) }, func() []float64 { return values(rival()) },
				figure.Column{Name: "throughput", Unit: "req/s", AtLeast: 0.95},
				figure.Column{Name: "p99", Unit: "ns", AtMost: 1.1},
				figure.Column{Name: "cpu", Unit: "ns"})
		})
	}
}

// fromMemory has the askers ask the worker, which must answer from memory.
func (w *worker) fromMemory(b *testing.B, asks askers, l load) result {
	b.Helper()
	before := w.Stats().Lookups[events.SourceL1]
	r := asks.askOn(b, l)
	if n := w.Stats().Lookups[events.SourceL1] - before; n < int64(l.requests)*99/100 {
		b.Fatalf("%d of %d look-ups were answered from memory", n, l.requests)
	}
	return r
}

// rivals starts a server on which n connections answer each request at once
// with a reply that the fleet gives. It is what the worker would be if it did
// nothing but to answer:
//
//   - It has as many replies as there are accounts and sends them in turn. A
//     single one would stay in the processor's cache, where those of a worker
//     can't: that is no look-up, and an echo of the same payloads has it too.
//   - Connections, roles, subjects, queue group, headers (none), and who sends
//     the reply (the subscription's goroutine) are the same.
//   - Its server has no streams. That was measured: it makes no difference.
func (f *fleet) rivals(b *testing.B, n int, requests []string, body []byte) *bus.Server {
	b.Helper()
	reply := f.reply(requests[0], body)
	s := startServer(b, false)
	for range n {
		replies := make([][]byte, len(requests))
		for i := range replies {
			replies[i] = bytes.Clone(reply)
		}
		next := 0 // of the subscription's goroutine
		answer(b, connect(b, s, bus.RoleWorker), func(m *nats.Msg) {
			_ = m.Respond(replies[next])
			next = (next + 1) % len(replies)
		})
	}
	return s
}

// BenchmarkAccounting is hot look-ups from a worker that accounts for each
// request once more than a worker does, against the same worker as it is: what
// the second time costs, the first does too. A worker counts requests (for
// discovery) and where the token was found (for metrics); the rest of its
// metrics is made when somebody reads them, and it writes no traces.
func BenchmarkAccounting(b *testing.B) {
	f := newFleet(b, fleetConfig{})
	accounts := keys(b, 0, figure.Size(100, 1000))
	f.logins(accounts)
	a := &accountant{worker: f.worker()}
	var err error
	a.onBus, err = bus.StartWorker(b.Context(), bus.WorkerConfig{
		Conn: a.conn, Subjects: f.subjects, Tokens: a, Accounts: a, Observer: a, ID: "accountant",
	})
	check(b, err)
	a.warm(accounts)
	asks := newAskers(b, f.server, 4)
	l := load{subjects: f.requests(accounts), requests: figure.Size(500, 5000), inFlight: 64}
	// Both are the same worker at the same place in memory: where that is alone
	// matters more than what is measured.
	side := func(again bool) func() result {
		return func() result {
			a.again.Store(again)
			requests, found := a.requests.Load(), a.found.Load()
			r := a.fromMemory(b, asks, l)
			n, m := a.requests.Load()-requests, a.found.Load()-found
			if again && (n != int64(l.requests) || m < n*99/100) || !again && n+m != 0 {
				b.Fatalf("%d requests and %d answers were accounted for again, of %d", n, m, l.requests)
			}
			return r
		}
	}
	ours, rival := turns(figure.Size(4, 32), side(true), side(false))
	values := func(r result) []float64 { return []float64{r.perSecond(), r.cpuEach()} }
	figure.Compare(b,
		func() []float64 { return values(ours()) }, func() []float64 { return values(rival()) },
		figure.Column{Name: "throughput", Unit: "req/s", AtLeast: 0.95},
		figure.Column{Name: "cpu", Unit: "ns", AtMost: 1.05})
}

// accountant is a worker that counts what a worker counts, again.
type accountant struct {
	*worker
	again           atomic.Bool
	requests, found atomic.Int64
}

func (a *accountant) Cached(key account.Key, req events.TokenRequest) ([]byte, bool) {
	again := a.again.Load()
	if again {
		a.requests.Add(1)
	}
	body, ok := a.worker.Cached(key, req)
	if again && ok {
		a.found.Add(1)
	}
	return body, ok
}

// BenchmarkScaling is hot look-ups from several workers, against as many bare
// echo responders. Each has a connection of its own; all share this process.
func BenchmarkScaling(b *testing.B) {
	f := newFleet(b, fleetConfig{})
	accounts := keys(b, 0, figure.Size(100, 1000))
	f.logins(accounts)
	asks := newAskers(b, f.server, 8)
	requests := f.requests(accounts)
	var workers []*worker
	for _, n := range []int{1, 2, 4} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for len(workers) < n {
				workers = append(workers, f.serves())
			}
			for _, w := range workers {
				w.warm(accounts)
			}
			others := newAskers(b, f.rivals(b, n, requests, nil), 8)
			l := load{subjects: requests, requests: figure.Size(1000, 10_000), inFlight: 256}
			ours, rival := turns(figure.Size(2, 8), func() result {
				var before []int64
				for _, w := range workers {
					before = append(before, w.Stats().Lookups[events.SourceL1])
				}
				r := asks.askOn(b, l)
				for i, w := range workers {
					if w.Stats().Lookups[events.SourceL1]-before[i] < int64(l.requests/n/2) {
						b.Fatalf("worker %d of %d has less than half its part", i, n)
					}
				}
				return r
			}, func() result { return others.askOn(b, l) })
			values := func(r result) []float64 { return []float64{r.perSecond(), r.cpuEach()} }
			figure.Compare(b,
				func() []float64 { return values(ours()) }, func() []float64 { return values(rival()) },
				figure.Column{Unit: "req/s", AtLeast: 0.95},
				figure.Column{Name: "cpu", Unit: "ns"})
		})
	}
}

// read is a bare read of what a look-up reads.
type read func(ctx context.Context, key string) error

// BenchmarkWarmLookup asks a worker that has just started for accounts that are
// in the shared cache, each once. The rival is an echo that reads the same entry
// bare before it answers.
func BenchmarkWarmLookup(b *testing.B) {
	b.Run("nats", func(b *testing.B) {
		f := newFleet(b, fleetConfig{})
		f.fresh(events.SourceShared, nil, func(js jetstream.JetStream) read {
			kv, err := js.KeyValue(b.Context(), "TOKENBUS_CACHE")
			check(b, err)
			return func(ctx context.Context, key string) error { _, err := kv.Get(ctx, key); return err }
		})
	})
	b.Run("redis", func(b *testing.B) {
		url := rig.Redis(b)
		client := bareRedis(b, url)
		f := newFleet(b, fleetConfig{redis: url})
		f.fresh(events.SourceShared, nil, func(jetstream.JetStream) read {
			return func(ctx context.Context, key string) error {
				values, err := client.HMGet(ctx, "tokenbus:cache:{"+key+"}", "rev", "version", "until", "value").Result()
				if err == nil && values[3] == nil {
					err = redis.Nil
				}
				return err
			}
		})
	})
}

// BenchmarkColdLookup asks a worker that has just started for accounts that the
// store alone has, each once. The rival is an echo that reads the same document
// bare before it answers.
func BenchmarkColdLookup(b *testing.B) {
	b.Run("nats", func(b *testing.B) {
		f := newFleet(b, fleetConfig{})
		js, err := jetstream.New(connect(b, f.server, bus.RoleWorker))
		check(b, err)
		forget := func() {
			s, err := js.Stream(b.Context(), "KV_TOKENBUS_CACHE")
			check(b, err)
			check(b, s.Purge(b.Context()))
		}
		f.fresh(events.SourceStore, forget, func(js jetstream.JetStream) read {
			return func(ctx context.Context, key string) error {
				request, _ := json.Marshal(map[string]string{"last_by_subj": "$KV.TOKENBUS_ACCOUNTS." + key})
				m, err := js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET.KV_TOKENBUS_ACCOUNTS", request)
				if err != nil {
					return err
				}
				var answer struct {
					Error   *jetstream.APIError `json:"error"`
					Message struct {
						Data []byte `json:"data"`
					} `json:"message"`
				}
				if err := json.Unmarshal(m.Data, &answer); err != nil {
					return err
				}
				if answer.Error != nil {
					return answer.Error
				}
				var doc map[string]any
				return json.Unmarshal(answer.Message.Data, &doc)
			}
		})
	})
	b.Run("mongo", func(b *testing.B) {
		url, cache := rig.Mongo(b), rig.Redis(b)
		client := bareRedis(b, cache)
		f := newFleet(b, fleetConfig{mongo: url, redis: cache})
		parsed, err := connstring.Parse(url)
		check(b, err)
		db, err := mongo.Connect(options.Client().ApplyURI(url))
		check(b, err)
		b.Cleanup(func() { _ = db.Disconnect(context.Background()) })
		documents := db.Database(parsed.Database).Collection("accounts")
		f.fresh(events.SourceStore, func() { check(b, client.FlushDB(b.Context()).Err()) }, func(jetstream.JetStream) read {
			return func(ctx context.Context, key string) error {
				var doc bson.M
				return documents.FindOne(ctx, bson.M{"_id": key}).Decode(&doc)
			}
		})
	})
}

func bareRedis(b *testing.B, url string) *redis.Client {
	b.Helper()
	opts, err := redis.ParseURL(url)
	check(b, err)
	client := redis.NewClient(opts)
	b.Cleanup(func() { _ = client.Close() })
	return client
}

// fresh compares look-ups of a worker that is new in each round with echoes that
// make a bare read first. All must be answered from source. forget, if not nil,
// takes from the shared cache what is there.
func (f *fleet) fresh(source events.Source, forget func(), bare func(js jetstream.JetStream) read) {
	b := f.b
	accounts := keys(b, 0, figure.Size(200, 2000))
	first := keys(b, len(accounts), 100) // open the connections
	f.logins(accounts)
	f.logins(first)
	const inFlight = 16
	asks := newAskers(b, f.server, 4)
	opening := load{subjects: f.requests(first), requests: len(first), inFlight: inFlight}
	l := load{subjects: f.requests(accounts), requests: len(accounts), inFlight: inFlight}
	values := func(r result) []float64 { return []float64{r.quantile(0.5), r.quantile(0.99), r.cpuEach()} }
	w := f.serves()
	body := f.reply(l.subjects[0], nil)
	w.caughtUp()
	w.stop()

	nc := connect(b, f.server, bus.RoleWorker)
	js, err := jetstream.New(nc)
	check(b, err)
	look := bare(js)
	figure.Compare(b,
		func() []float64 {
			if forget != nil {
				forget()
			}
			w := f.serves()
			defer w.stop()
			w.caughtUp()
			asks.ask(b, opening)
			before := w.Stats().Lookups[source]
			r := asks.ask(b, l)
			if n := w.Stats().Lookups[source] - before; n != int64(l.requests) {
				b.Fatalf("%d of %d look-ups were answered from %s", n, l.requests, source)
			}
			return values(r)
		},
		func() []float64 {
			var failed atomic.Pointer[error]
			sub := answer(b, nc, func(m *nats.Msg) {
				go func() {
					if err := look(b.Context(), m.Subject[strings.LastIndex(m.Subject, platform+"."):]); err != nil {
						failed.Store(&err)
					}
					_ = m.Respond(body)
				}()
			})
			asks.ask(b, opening)
			r := asks.ask(b, l)
			if err := failed.Load(); err != nil {
				b.Fatalf("bare read: %v", *err)
			}
			check(b, sub.Unsubscribe())
			check(b, nc.Flush())
			return values(r)
		},
		figure.Column{Name: "p50", Unit: "ns", AtMost: 1.3}, figure.Column{Name: "p99", Unit: "ns"}, figure.Column{Name: "cpu", Unit: "ns"})
}
