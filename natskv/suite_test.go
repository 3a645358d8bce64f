package natskv_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/rig"
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
// the next one where that is possible: replicas lag, and every decision must be
// right all the same.
func TestCluster(t *testing.T) {
	t.Parallel()
	cluster := rig.NewNATSCluster(t, 3)
	runSuites(t, []jetstream.JetStream{cluster.Connect(0), cluster.Connect(1), cluster.Connect(2)})
}

// TestClusterWithoutOneServer runs the suites on what is left of three servers
// when one has gone. It led all of them: the others must have elected anew.
func TestClusterWithoutOneServer(t *testing.T) {
	t.Parallel()
	cluster := rig.NewNATSCluster(t, 3)
	conns := []jetstream.JetStream{cluster.Connect(1), cluster.Connect(2)}
	c := config(conns[0])
	newJournal(t, c)
	stream := "KV_" + c.Prefix + "_JOURNAL"
	cluster.MoveLeader(stream, 0)
	cluster.Stop(0)
	eventually(t, "the others have a leader", func() bool { return cluster.Leader(stream) > 0 })
	eventually(t, "the cluster creates buckets", func() bool {
		c := config(conns[1])
		c.Timeout = time.Second
		_, err := natskv.NewJournal(t.Context(), c)
		return err == nil
	})
	runSuites(t, conns)
}

func runSuites(t *testing.T, conns []jetstream.JetStream) {
	replicated := func(i int, c natskv.Config) natskv.Config {
		c.JetStream, c.Replicas, c.LeaseTTL = conns[i%len(conns)], 3, 3*time.Second
		return c
	}
	t.Run("Store", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) ledger.Store { return newStore(t, replicated(1, config(nil))) })
	})
	t.Run("Cache", func(t *testing.T) {
		cachetest.Run(t, func(t *testing.T) ledger.Cache {
			c := config(nil)
			r := &roundRobinCache{}
			for i := range conns {
				r.caches = append(r.caches, newCache(t, replicated(i, c)))
			}
			// A server hears a moment later that another has the bucket.
			for _, cache := range r.caches {
				eventually(t, "each server reads the bucket", func() bool {
					_, err := cache.Get(t.Context(), mustKey("openai.nobody"))
					return errors.Is(err, ledger.ErrNotFound)
				})
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
