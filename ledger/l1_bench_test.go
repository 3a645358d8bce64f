package ledger

import (
	"container/list"
	"fmt"
	"math/rand"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/figure"
	"github.com/tokenbus/tokenbus/rotation"
)

const tokenBytes = 1200

// BenchmarkL1Memory is what L1 takes for an account that is asked for, beside
// its token: with the encoded replies, and everything that keeps it in order.
// The rival is the bound that it must not pass.
func BenchmarkL1Memory(b *testing.B) {
	n := figure.Size(2000, 10_000)
	ours := func() []float64 {
		before := heap()
		c := newL1(n)
		for i := range n {
			c.offer(hotView(i), time.Now(), Mark{}, true)
		}
		c.known.CleanUp()
		for i := range n {
			k := c.get(hotKey(i))
			if k == nil {
				b.Fatal("an account is not in L1, which has a place for each")
			}
			k.Body()
			k.NotModified()
		}
		used := heap() - before
		runtime.KeepAlive(c)
		return []float64{float64(used)/float64(n) - tokenBytes}
	}
	figure.Compare(b, ours, func() []float64 { return []float64{1024} }, figure.Column{Unit: "B", AtMost: 1})
}

// BenchmarkL1Use is what L1 makes of its places, against a plain LRU of the
// same size: requests for 100,000 accounts of which few are asked for often (by
// Zipf's law), every tenth of them for one that is asked for once; and how fast
// accounts are found, by all cores.
func BenchmarkL1Use(b *testing.B) {
	const places = 10_000
	requests := figure.Size(50_000, 1_000_000)
	zipf := rand.NewZipf(rand.New(rand.NewSource(1)), 1.01, 1, 100_000-1)
	order := make([]account.Key, requests)
	for i := range order {
		if order[i] = hotKey(int(zipf.Uint64())); i%10 == 0 {
			order[i] = hotKey(1_000_000 + i)
		}
	}
	view := hotView(0)
	measure := func(get func(account.Key) *Known, put func(account.Key)) []float64 {
		hits := 0
		for _, key := range order {
			if get(key) != nil {
				hits++
			} else {
				put(key)
			}
		}
		start, workers := time.Now(), runtime.GOMAXPROCS(0)
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := range requests {
					get(order[(i+w*requests/workers)%requests])
				}
			})
		}
		wg.Wait()
		return []float64{100 * float64(hits) / float64(requests), float64(workers*requests) / time.Since(start).Seconds()}
	}
	figure.Compare(b,
		func() []float64 {
			c := newL1(places)
			values := measure(c.get, func(key account.Key) {
				v := *view
				v.Key = key
				c.offer(&v, time.Now(), Mark{}, true)
			})
			if c.known.CleanUp(); c.known.EstimatedSize() > places {
				b.Fatalf("%d accounts in %d places", c.known.EstimatedSize(), places)
			}
			return values
		},
		func() []float64 {
			c := &plainLRU{places: places, m: map[account.Key]*list.Element{}}
			return measure(c.get, func(key account.Key) { c.put(key, &Known{View: view}) })
		},
		figure.Column{Name: "hits", Unit: "%", AtLeast: 1}, figure.Column{Name: "found", Unit: "req/s"})
}

// plainLRU is a map, a list and a mutex.
type plainLRU struct {
	mu     sync.Mutex
	places int
	m      map[account.Key]*list.Element
	order  list.List
}

type lruEntry struct {
	key account.Key
	k   *Known
}

func (c *plainLRU) get(key account.Key) *Known {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.m[key]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*lruEntry).k
}

func (c *plainLRU) put(key account.Key, k *Known) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m[key] = c.order.PushFront(&lruEntry{key, k})
	if c.order.Len() > c.places {
		delete(c.m, c.order.Remove(c.order.Back()).(*lruEntry).key)
	}
}

func hotKey(i int) account.Key {
	key, err := account.NewKey("demo", fmt.Sprintf("account-%07d", i))
	if err != nil {
		panic(err)
	}
	return key
}

// hotView is an account as a store's document makes it, each part of it in
// memory of its own.
func hotView(i int) *rotation.View {
	now := time.Now()
	token := strings.Repeat(string(rune('a'+i%26)), tokenBytes)
	return rotation.ViewOf(&account.Account{
		Key: hotKey(i), Status: account.Active, Version: 3, Rev: 5, ExpiresAt: now.Add(time.Hour), IssuedAt: now, Lifetime: time.Hour,
	}, account.Credentials{AccessToken: account.NewSecret(token), TokenType: strings.Clone("Bearer")}, rotation.Policy{})
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
