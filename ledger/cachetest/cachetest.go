// Package cachetest is the conformance suite of ledger.Cache: what the
// contract promises, tried on the real thing by every adapter.
package cachetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
)

// patience is how long a read may lag behind a write.
const patience = 10 * time.Second

// contenders is how many goroutines fight for one entry.
const contenders = 50

// Run tries the cache that newCache returns. Each call of newCache must return
// an empty one, shut down by t.Cleanup. The cache may be wrapped.
func Run(t *testing.T, newCache func(t *testing.T) ledger.Cache) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, ledger.Cache)
	}{
		{"RoundTrip", testRoundTrip},
		{"NotFound", testNotFound},
		{"TestP3OrderByRev", testOrder},
		{"TestP3OrderPastUntil", testOrderPastUntil},
		{"TestP3OrderUnderConcurrency", testConcurrentOrder},
		{"OneOfEqualsWins", testOneOfEqualsWins},
		{"CancelledContext", testCancelledContext},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, newCache(t)) })
	}
}

func testRoundTrip(t *testing.T, c ledger.Cache) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	for name, e := range map[string]ledger.Entry{
		"every byte":      {Rev: 1, Version: 1, Value: every, Until: until},
		"64 KiB":          {Rev: 2, Version: 1, Value: bytes.Repeat([]byte{0xff, 0, 1, '"'}, 16<<10), Until: until},
		"no value":        {Rev: 3, Version: 2, Until: until},
		"large numbers":   {Rev: 1<<52 + 1, Version: 1<<51 + 1, Value: []byte("v"), Until: until},
		"until long ago":  {Rev: 1, Version: 1, Value: []byte("v"), Until: time.UnixMilli(1).UTC()},
		"until far ahead": {Rev: 1, Version: 1, Value: []byte("v"), Until: time.Date(2099, 1, 2, 3, 4, 5, 678e6, time.UTC)},
	} {
		t.Run(name, func(t *testing.T) {
			key := newKey(t)
			in := e
			in.Value = bytes.Clone(e.Value)
			put(t, c, key, in, true)
			for i := range in.Value {
				in.Value[i] ^= 0xff
			}
			got := get(t, c, key, e)
			for i := range got.Value {
				got.Value[i] ^= 0xff
			}
			get(t, c, key, e)
		})
	}
}

func testNotFound(t *testing.T, c ledger.Cache) {
	put(t, c, mustKey("openai", "there"), entry(1), true)
	for _, key := range []account.Key{mustKey("openai", "ther"), mustKey("gemini", "there")} {
		if _, err := c.Get(t.Context(), key); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("Get of %s: got error %v, want %q", key, err, ledger.ErrNotFound)
		}
	}
}

func testOrder(t *testing.T, c ledger.Cache) {
	key, other := newKey(t), mustKey("openai", "other")
	for _, step := range []struct {
		name   string
		rev    account.Rev
		stored bool
		newest account.Rev
	}{
		{"the first", 5, true, 5},
		{"the same again", 5, false, 5},
		{"a late lower one", 4, false, 5},
		{"a higher one", 6, true, 6},
		{"one that skips some", 1000, true, 1000},
		{"one that a comparison of texts would take", 999, false, 1000},
		{"one that a comparison of texts would refuse", 10_000_000, true, 10_000_000},
		{"the first again", 1, false, 10_000_000},
	} {
		e := entry(step.rev)
		e.Value = []byte(step.name)
		if ok, err := c.Put(t.Context(), key, e); err != nil || ok != step.stored {
			t.Fatalf("%s: Put of rev %d: got %v, %v, want %v", step.name, step.rev, ok, err, step.stored)
		}
		eventually(t, c, key, step.newest)
	}
	// The rev alone decides: a login may bring an earlier end, and a change of
	// status keeps the version.
	e := entry(10_000_001)
	e.Version, e.Until = 1, e.Until.Add(-time.Hour)
	put(t, c, key, e, true)
	get(t, c, key, e)
	put(t, c, other, entry(1), true)
}

func testOrderPastUntil(t *testing.T, c ledger.Cache) {
	key := newKey(t)
	e := entry(7)
	e.Until = time.Now().Add(-time.Minute).UTC().Truncate(time.Millisecond)
	put(t, c, key, e, true)
	get(t, c, key, e)
	late := entry(6)
	late.Until = time.Now().Add(time.Hour)
	put(t, c, key, late, false)
	put(t, c, key, entry(7), false)
	get(t, c, key, e)
	put(t, c, key, entry(8), true)
}

// testConcurrentOrder puts all revs at once, in any order, each more than
// once, as a fleet does: what stays is the highest, whatever came late.
func testConcurrentOrder(t *testing.T, c ledger.Cache) {
	key := newKey(t)
	var wg sync.WaitGroup
	var stored [contenders + 1]atomic.Int64
	for _, i := range rand.Perm(2 * contenders) {
		rev := account.Rev(i%contenders + 1)
		wg.Go(func() {
			ok, err := c.Put(t.Context(), key, entry(rev))
			if err != nil {
				t.Errorf("Put of rev %d: %v", rev, err)
			}
			if ok {
				stored[rev].Add(1)
			}
		})
	}
	wg.Wait()
	for rev := range stored {
		if n := stored[rev].Load(); n > 1 {
			t.Errorf("rev %d was stored %d times", rev, n)
		}
	}
	if stored[contenders].Load() != 1 {
		t.Errorf("the highest rev was stored %d times, want once", stored[contenders].Load())
	}
	eventually(t, c, key, contenders)
	put(t, c, key, entry(contenders-1), false)
	get(t, c, key, entry(contenders))
}

func testOneOfEqualsWins(t *testing.T, c ledger.Cache) {
	key := newKey(t)
	var wg sync.WaitGroup
	var wins, winner atomic.Int64
	for i := range contenders {
		wg.Go(func() {
			e := entry(3)
			e.Value = fmt.Append(nil, i)
			ok, err := c.Put(t.Context(), key, e)
			if err != nil {
				t.Errorf("contender %d: %v", i, err)
			}
			if ok {
				wins.Add(1)
				winner.Store(int64(i))
			}
		})
	}
	wg.Wait()
	if wins.Load() != 1 {
		t.Fatalf("%d of %d puts of one rev were stored, want one", wins.Load(), contenders)
	}
	got := eventually(t, c, key, 3)
	if want := fmt.Sprint(winner.Load()); string(got.Value) != want {
		t.Errorf("the entry is that of contender %s, told to have won was %s", got.Value, want)
	}
}

func testCancelledContext(t *testing.T, c ledger.Cache) {
	key := newKey(t)
	put(t, c, key, entry(1), true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Get(ctx, key); !errors.Is(err, context.Canceled) || errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("Get: got error %v, want %v", err, context.Canceled)
	}
	if ok, err := c.Put(ctx, key, entry(2)); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("Put: got %v, %v, want %v", ok, err, context.Canceled)
	}
	get(t, c, key, entry(1))
}

// entry returns the entry of a rev: the same one every time, so that entries
// can be compared.
func entry(rev account.Rev) ledger.Entry {
	until := time.Date(2040, 2, 3, 4, 5, 6, 789e6, time.UTC)
	return ledger.Entry{Rev: rev, Version: account.Version(rev), Value: fmt.Appendf(nil, "value of %d", rev), Until: until}
}

func put(t *testing.T, c ledger.Cache, key account.Key, e ledger.Entry, want bool) {
	t.Helper()
	if ok, err := c.Put(t.Context(), key, e); err != nil || ok != want {
		t.Fatalf("Put of rev %d: got %v, %v, want %v", e.Rev, ok, err, want)
	}
}

// get waits until the entry of want's rev can be read, and compares it.
func get(t *testing.T, c ledger.Cache, key account.Key, want ledger.Entry) ledger.Entry {
	t.Helper()
	got := eventually(t, c, key, want.Rev)
	if got.Version != want.Version || !bytes.Equal(got.Value, want.Value) || !got.Until.Equal(want.Until) {
		t.Errorf("Get: got version %d, until %v and %d bytes, want version %d, until %v and %d bytes",
			got.Version, got.Until, len(got.Value), want.Version, want.Until, len(want.Value))
	}
	return got
}

// eventually waits until Get returns the rev: a replica may lag.
func eventually(t *testing.T, c ledger.Cache, key account.Key, rev account.Rev) ledger.Entry {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; {
		got, err := c.Get(t.Context(), key)
		if err == nil && got.Rev == rev {
			return got
		}
		if err != nil && !errors.Is(err, ledger.ErrNotFound) {
			t.Fatalf("Get: %v", err)
		}
		if got.Rev > rev || time.Now().After(end) {
			t.Fatalf("Get: got rev %d, %v, want rev %d", got.Rev, err, rev)
		}
		<-tick.C
	}
}

// newKey returns a key of the test's own.
func newKey(t *testing.T) account.Key {
	id := []byte(t.Name())
	for i, ch := range id {
		if !('a' <= ch && ch <= 'z' || 'A' <= ch && ch <= 'Z' || '0' <= ch && ch <= '9') {
			id[i] = '_'
		}
	}
	return mustKey("openai", string(id[max(0, len(id)-128):]))
}

func mustKey(platform, id string) account.Key {
	k, err := account.NewKey(platform, id)
	if err != nil {
		panic(err)
	}
	return k
}
