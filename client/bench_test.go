package client_test

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/client/clienttest"
	"github.com/tokenbus/tokenbus/internal/figure"
)

// A look-up that memory answers, against the least that one could do, and
// against what gateways do today. The rivals hold as many accounts.
//
//	go test -run '^$' -bench 'L1Hit|SyncMap|ReuseTokenSource' -benchmem -count 6 ./client

const benchAccounts = 1000

// benchKeys are as many accounts, which are looked up in turn.
func benchKeys(b *testing.B, login func(key string) account.Key) []account.Key {
	b.Helper()
	keys := make([]account.Key, benchAccounts)
	for i := range keys {
		keys[i] = login(fmt.Sprintf("openai.user-%06d", i))
	}
	return keys
}

// inTurn runs look for one account after the other, by one goroutine and by as
// many as there are processors.
func inTurn(b *testing.B, look func(i int) bool) {
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if i = (i + 1) % benchAccounts; !look(i) {
				b.Fatal("lost")
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			i := 0
			for pb.Next() {
				if i = (i + 1) % benchAccounts; !look(i) {
					b.Fatal("lost")
				}
			}
		})
	})
}

func benchClient(b *testing.B) (*client.Client, []account.Key) {
	f := clienttest.Start(b)
	keys := benchKeys(b, func(key string) account.Key { return f.Login(key, 24*time.Hour) })
	// The clock of the product, not of the test.
	c := f.Client(func(cfg *client.Config) { cfg.Now = nil })
	for _, key := range keys {
		if _, err := c.Token(b.Context(), key); err != nil {
			b.Fatal(err)
		}
	}
	return c, keys
}

func BenchmarkL1Hit(b *testing.B) {
	c, keys := benchClient(b)
	ctx := b.Context()
	inTurn(b, func(i int) bool { t, err := c.Token(ctx, keys[i]); return err == nil && t.Version == 1 })
}

// BenchmarkHit is L1Hit against a bare sync.Map, in turns, by all processors.
func BenchmarkHit(b *testing.B) {
	c, keys := benchClient(b)
	var m sync.Map
	for _, key := range keys {
		m.Store(key, new(client.Token))
	}
	ctx, rounds := b.Context(), figure.Size(10, 3000)
	measure := func(look func(key account.Key) bool) func() []float64 {
		return func() []float64 {
			var lost atomic.Bool
			var wg sync.WaitGroup
			workers, began := runtime.GOMAXPROCS(0), time.Now()
			for range workers {
				wg.Go(func() {
					for range rounds {
						for _, key := range keys {
							if !look(key) {
								lost.Store(true)
							}
						}
					}
				})
			}
			wg.Wait()
			if lost.Load() {
				b.Fatal("an account is not in memory")
			}
			return []float64{float64(time.Since(began).Nanoseconds()) / float64(rounds*len(keys))}
		}
	}
	figure.Compare(b,
		measure(func(key account.Key) bool { t, err := c.Token(ctx, key); return err == nil && t.Version == 1 }),
		measure(func(key account.Key) bool { _, ok := m.Load(key); return ok }),
		figure.Column{Unit: "ns", AtMost: 2.5})
}

func BenchmarkTokenSource(b *testing.B) {
	c, keys := benchClient(b)
	sources := make([]oauth2.TokenSource, len(keys))
	for i, key := range keys {
		sources[i] = c.TokenSource(b.Context(), key)
	}
	inTurn(b, func(i int) bool { t, err := sources[i].Token(); return err == nil && t.AccessToken != "" })
}

// BenchmarkSyncMap looks up a token that is boxed in a map, and its end.
func BenchmarkSyncMap(b *testing.B) {
	var m sync.Map
	keys := benchKeys(b, func(key string) account.Key {
		k, err := account.ParseKey(key)
		check(b, err)
		m.Store(k, &oauth2.Token{AccessToken: key, Expiry: time.Now().Add(time.Hour)})
		return k
	})
	inTurn(b, func(i int) bool { t, ok := m.Load(keys[i]); return ok && t.(*oauth2.Token).AccessToken != "" })
}

// BenchmarkReuseTokenSource looks up a source that is boxed in a map, as a
// gateway with many accounts has it, and its token.
func BenchmarkReuseTokenSource(b *testing.B) {
	var m sync.Map
	keys := benchKeys(b, func(key string) account.Key {
		k, err := account.ParseKey(key)
		check(b, err)
		token := &oauth2.Token{AccessToken: key, Expiry: time.Now().Add(time.Hour)}
		m.Store(k, oauth2.ReuseTokenSource(token, oauth2.StaticTokenSource(token)))
		return k
	})
	inTurn(b, func(i int) bool {
		s, ok := m.Load(keys[i])
		if !ok {
			return false
		}
		t, err := s.(oauth2.TokenSource).Token()
		return err == nil && t.AccessToken != ""
	})
}

// BenchmarkMiss is a look-up that a worker answers: with a bare worker, this is
// what the client adds to a request.
func BenchmarkMiss(b *testing.B) {
	f := clienttest.Start(b)
	key := f.Login("openai.alice", 24*time.Hour)
	c := f.Client(func(cfg *client.Config) { cfg.MaxAge = -1 })
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Token(b.Context(), key); err != nil {
			b.Fatal(err)
		}
	}
}
