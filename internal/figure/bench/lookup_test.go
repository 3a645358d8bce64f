package bench

import (
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

	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/figure"
	"github.com/tokenbus/tokenbus/internal/rig"
)

// BenchmarkHotLookup asks a worker for tokens that it has in memory. The rival
// is a bare NATS echo in a queue group whose replies are as long, on a server of
// its own in the same process, with as many askers that ask the same.
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
			others := newAskers(b, echoes(b, 1, f.reply(requests[0], body)), 4)
			l := load{subjects: requests, body: body, requests: figure.Size(2000, 60_000), inFlight: c.inFlight}
			figure.Compare(b,
				func() []float64 {
					before := w.Stats().Lookups[events.SourceL1]
					r := asks.ask(b, l)
					if n := w.Stats().Lookups[events.SourceL1] - before; n < int64(l.requests)*99/100 {
						b.Fatalf("%d of %d look-ups were answered from memory", n, l.requests)
					}
					return []float64{r.perSecond(), r.quantile(0.99)}
				},
				func() []float64 { r := others.ask(b, l); return []float64{r.perSecond(), r.quantile(0.99)} },
				figure.Column{Name: "throughput", Unit: "req/s", AtLeast: 0.95},
				figure.Column{Name: "p99", Unit: "ns", AtMost: 1.1})
		})
	}
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
			others := newAskers(b, echoes(b, n, f.reply(requests[0], nil)), 8)
			l := load{subjects: requests, requests: figure.Size(2000, 60_000), inFlight: 256}
			figure.Compare(b,
				func() []float64 {
					var before []int64
					for _, w := range workers {
						before = append(before, w.Stats().Lookups[events.SourceL1])
					}
					r := asks.ask(b, l)
					for i, w := range workers {
						if w.Stats().Lookups[events.SourceL1]-before[i] < int64(l.requests/n/2) {
							b.Fatalf("worker %d of %d has less than half its part", i, n)
						}
					}
					return []float64{r.perSecond()}
				},
				func() []float64 { return []float64{others.ask(b, l).perSecond()} },
				figure.Column{Unit: "req/s", AtLeast: 0.95})
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
	values := func(r result) []float64 { return []float64{r.quantile(0.5), r.quantile(0.99)} }
	w := f.serves()
	body := f.reply(l.subjects[0], nil)
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
		figure.Column{Name: "p50", Unit: "ns", AtMost: 1.3}, figure.Column{Name: "p99", Unit: "ns"})
}
