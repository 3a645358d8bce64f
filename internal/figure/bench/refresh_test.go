package bench

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/internal/figure"
)

// BenchmarkRefresh has one worker refresh accounts that are all due, before an
// endpoint that answers at once. The rival does nothing but the writes of it, of
// the same sizes to streams of the same kinds on the same server, as many
// accounts at once: what a commit costs here.
func BenchmarkRefresh(b *testing.B) {
	const concurrent = 32
	n := figure.Size(40, 1000)
	f := newFleet(b, fleetConfig{durable: true, concurrent: concurrent})
	w := f.worker()
	f.logins(keys(b, 0, 1))
	bare := f.bareStreams()
	from := 1
	figure.Compare(b,
		func() []float64 {
			due := keys(b, from, n)
			from += n
			took := f.pass(w, due)
			return []float64{float64(n) / took.Seconds()}
		},
		func() []float64 {
			began := time.Now()
			var g errgroup.Group
			g.SetLimit(concurrent)
			for i := range n {
				g.Go(func() error { return bare.refresh(b.Context(), fmt.Sprint("x", i)) })
			}
			check(b, g.Wait())
			return []float64{float64(n) / time.Since(began).Seconds()}
		},
		figure.Column{Unit: "refreshes/s", AtLeast: 0.5})
}

// BenchmarkDuePass has one worker refresh accounts that are all due, before an
// endpoint that takes its time. The rival is arithmetic: what as many exchanges
// take of which max_concurrent are under way at any time.
func BenchmarkDuePass(b *testing.B) {
	const concurrent = 64
	n := figure.Size(200, 2000)
	exchange := time.Duration(figure.Size(20, 300)) * time.Millisecond
	f := newFleet(b, fleetConfig{exchange: exchange, concurrent: concurrent})
	w := f.worker()
	from := 0
	figure.Compare(b,
		func() []float64 {
			due := keys(b, from, n)
			from += n
			return []float64{f.pass(w, due).Seconds()}
		},
		func() []float64 { return []float64{(time.Duration(n) * exchange / concurrent).Seconds()} },
		figure.Column{Unit: "s", AtMost: 1.2})
}

// pass puts accounts that are due, has the worker refresh them, and returns how
// long that took from the first that began until everybody was told of all.
func (f *fleet) pass(w *worker, due []account.Key) time.Duration {
	b := f.b
	b.Helper()
	for part := range slices.Chunk(due, 64) {
		var g errgroup.Group
		for _, key := range part {
			access, refresh := f.endpoint.NewGrant(key.ID())
			g.Go(func() error { return w.put(key, access, refresh, time.Now().Add(time.Minute)) })
		}
		check(b, g.Wait())
		w.announced()
	}
	before := f.endpoint.Exchanges()
	ctx, cancel := context.WithCancel(b.Context())
	ran := make(chan struct{})
	go func() { defer close(ran); _ = w.Run(ctx) }()
	defer func() { cancel(); <-ran }()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var began time.Time
	for late := time.Now().Add(2 * patience); ; <-tick.C {
		flights := w.Provider.Stats().Flights
		if began.IsZero() && flights > 0 {
			began = time.Now()
		}
		if f.endpoint.Exchanges()-before >= len(due) && flights == 0 {
			break
		}
		if time.Now().After(late) {
			b.Fatalf("%d of %d accounts were refreshed", f.endpoint.Exchanges()-before, len(due))
		}
	}
	w.announced()
	took := time.Since(began)
	if n := f.endpoint.Exchanges() - before; n != len(due) || f.endpoint.Reused() > 0 {
		b.Fatalf("%d exchanges for %d accounts", n, len(due))
	}
	for _, key := range due[:min(len(due), 100)] {
		a, err := w.store.Get(b.Context(), key)
		check(b, err)
		if a.Version != 2 {
			b.Fatalf("%s is at version %d", key, a.Version)
		}
	}
	return took
}

// bareStreams are buckets of the kinds that a refresh writes to.
type bareStreams struct {
	store, leases, cache, events, bumps jetstream.KeyValue
	document                            []byte
}

func (f *fleet) bareStreams() bareStreams {
	b := f.b
	b.Helper()
	js, err := jetstream.New(connect(b, f.server, bus.RoleWorker))
	check(b, err)
	bucket := func(name string) jetstream.KeyValue {
		kv, err := js.CreateKeyValue(b.Context(), jetstream.KeyValueConfig{Bucket: name, History: 1})
		check(b, err)
		return kv
	}
	return bareStreams{
		store: bucket("BARE_STORE"), leases: bucket("BARE_LEASES"), cache: bucket("BARE_CACHE"), events: bucket("BARE_EVENTS"), bumps: bucket("BARE_BUMPS"),
		document: f.bareKV().document,
	}
}

// refresh makes the writes of one refresh, each after the other as it is there:
// the lease, the rotation's record, the credentials, the shared cache's entry,
// event, bump, the announcement's end, and the lease given up.
func (s bareStreams) refresh(ctx context.Context, key string) error {
	small := make([]byte, 200)
	for _, w := range []struct {
		kv   jetstream.KeyValue
		data []byte
	}{
		{s.leases, small[:40]}, {s.store, s.document}, {s.store, s.document}, {s.cache, s.document}, {s.events, small}, {s.bumps, small},
		{s.store, s.document}, {s.leases, small[:0]},
	} {
		if _, err := w.kv.Put(ctx, key, w.data); err != nil {
			return err
		}
	}
	return nil
}
