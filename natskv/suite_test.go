package natskv_test

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/lease/leasetest"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/ledger/cachetest"
	"github.com/tokenbus/tokenbus/ledger/storetest"
	"github.com/tokenbus/tokenbus/natskv"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/refresh/journaltest"
)

func newStore(t *testing.T, c natskv.Config) *natskv.Store {
	t.Helper()
	s, err := natskv.NewStore(t.Context(), c)
	must(t, err)
	t.Cleanup(s.Close)
	return s
}

func newCache(t *testing.T, c natskv.Config) *natskv.Cache {
	t.Helper()
	s, err := natskv.NewCache(t.Context(), c)
	must(t, err)
	return s
}

func newLeases(t *testing.T, c natskv.Config) *natskv.Leases {
	t.Helper()
	s, err := natskv.NewLeases(t.Context(), c)
	must(t, err)
	return s
}

func newJournal(t *testing.T, c natskv.Config) *natskv.Journal {
	t.Helper()
	s, err := natskv.NewJournal(t.Context(), c)
	must(t, err)
	return s
}

func TestStore(t *testing.T) {
	js := single(t)
	storetest.Run(t, func(t *testing.T) ledger.Store { return newStore(t, config(js)) })
}

func TestCache(t *testing.T) {
	js := single(t)
	cachetest.Run(t, func(t *testing.T) ledger.Cache { return newCache(t, config(js)) })
}

func TestLeases(t *testing.T) {
	js := single(t)
	leasetest.Run(t, func(t *testing.T) lease.Backend { return newLeases(t, config(js)) })
}

func TestJournal(t *testing.T) {
	js := single(t)
	journaltest.Run(t, func(t *testing.T) refresh.Journal { return newJournal(t, config(js)) })
}

// TestCluster runs the suites on three servers, each call on the connection of
// the next one: replicas lag, and every decision must be right all the same.
func TestCluster(t *testing.T) {
	conns := cluster(t)
	replicated := func(i int, c natskv.Config) natskv.Config {
		c.JetStream, c.Replicas, c.Storage, c.LeaseTTL = conns[i], 3, jetstream.MemoryStorage, 1500*time.Millisecond
		return c
	}
	t.Run("Store", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) ledger.Store {
			c := config(nil)
			return newStore(t, replicated(1, c))
		})
	})
	t.Run("Cache", func(t *testing.T) {
		cachetest.Run(t, func(t *testing.T) ledger.Cache {
			c := config(nil)
			r := &roundRobinCache{}
			for i := range conns {
				r.caches = append(r.caches, newCache(t, replicated(i, c)))
			}
			return r
		})
	})
	t.Run("Leases", func(t *testing.T) {
		leasetest.Run(t, func(t *testing.T) lease.Backend { return newLeases(t, replicated(2, config(nil))) })
	})
	t.Run("Journal", func(t *testing.T) {
		journaltest.Run(t, func(t *testing.T) refresh.Journal { return newJournal(t, replicated(0, config(nil))) })
	})
	t.Run("ReplicasByDefault", func(t *testing.T) {
		c := config(conns[0])
		newJournal(t, c)
		stream, err := conns[1].Stream(t.Context(), "KV_"+c.Prefix+"_JOURNAL")
		must(t, err)
		if got := stream.CachedInfo().Config.Replicas; got != 3 {
			t.Errorf("got %d replicas, want 3", got)
		}
	})
}

// roundRobinCache makes each call on another connection.
type roundRobinCache struct {
	caches []*natskv.Cache
	calls  atomic.Int64
}

func (r *roundRobinCache) next() *natskv.Cache {
	return r.caches[int(r.calls.Add(1))%len(r.caches)]
}

func (r *roundRobinCache) Get(ctx context.Context, key account.Key) (ledger.Entry, error) {
	return r.next().Get(ctx, key)
}

func (r *roundRobinCache) Put(ctx context.Context, key account.Key, e ledger.Entry) (bool, error) {
	return r.next().Put(ctx, key, e)
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func mustKey(text string) account.Key {
	k, err := account.ParseKey(text)
	if err != nil {
		panic(err)
	}
	return k
}
