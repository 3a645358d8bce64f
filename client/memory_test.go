package client

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

func testKey(t testing.TB, text string) account.Key {
	t.Helper()
	k, err := account.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// answered makes an account as one reply leaves it.
func answered(t testing.TB, m *memory, text string, v account.Version) *entry {
	t.Helper()
	e := m.lock(testKey(t, text))
	defer e.mu.Unlock()
	e.seen = v
	if !e.placed {
		m.keep(e)
	}
	return e
}

func TestMemoryIsBounded(t *testing.T) {
	const limit = 100
	m := newMemory(limit)
	for i := range 10 * limit {
		hot := answered(t, m, "openai.hot", 7)
		hot.touch()
		answered(t, m, fmt.Sprintf("openai.a%d", i), 1)
	}
	if n, evicted := m.len(); n != limit || evicted != 9*limit+1 {
		t.Errorf("%d accounts, %d went", n, evicted)
	}
	if e := m.get(testKey(t, "openai.hot")); e == nil || m.past[m.hash(e.key)] != 0 {
		t.Error("the account in use went")
	}
	if e := m.entry(testKey(t, "openai.a1")); e.seen != 1 || e.placed {
		t.Errorf("an account that comes back has version %d", e.seen)
	}
}

// An account that is asked for or watched doesn't go, even where all are.
func TestMemoryKeepsWhatIsAwaited(t *testing.T) {
	m := newMemory(2)
	for i := range 4 {
		e := answered(t, m, fmt.Sprintf("openai.a%d", i), 1)
		e.mu.Lock()
		e.watchers = map[chan struct{}]struct{}{nil: {}}
		e.mu.Unlock()
	}
	if n, evicted := m.len(); n != 4 || evicted != 0 {
		t.Errorf("%d accounts, %d went", n, evicted)
	}
}

// Keys that no account has take no room.
func TestMemoryForgetsWhatIsNone(t *testing.T) {
	m := newMemory(10)
	e := m.lock(testKey(t, "openai.none"))
	m.drop(e)
	e.mu.Unlock()
	if m.get(e.key) != nil || !e.gone || len(m.past) != 0 {
		t.Error("it is still there")
	}
}

func TestMemoryUnderLoad(t *testing.T) {
	m := newMemory(50)
	keys := make([]account.Key, 200)
	for i := range keys {
		keys[i] = testKey(t, fmt.Sprintf("openai.a%d", i))
	}
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 2000 {
				e := m.lock(keys[(i*(g+1))%len(keys)])
				e.touch()
				v := e.seen
				e.seen++
				if !e.placed {
					m.keep(e)
				}
				if e.seen != v+1 || e.gone {
					t.Error("another has it too")
				}
				e.mu.Unlock()
			}
		})
	}
	all.Wait()
	sum := account.Version(0)
	m.all(func(e *entry) { sum += e.seen; delete(m.past, m.hash(e.key)) })
	for _, v := range m.past {
		sum += v
	}
	if sum != 16000 {
		t.Errorf("%d of 16000 steps are remembered: some account was there twice", sum)
	}
}

// Only a last bump that was heard, and is the last heard, says that nothing was
// missed: a replica may lag, a stream may have been purged.
func TestConfirm(t *testing.T) {
	s := situation{now: time.Now(), at: time.Hour, epoch: 2, up: true, maxAge: time.Minute, minTTL: time.Minute}
	for _, tt := range []struct {
		name   string
		rev    account.Rev
		change func(*entry, *held)
		want   bool
	}{
		{"the last that was heard", 5, nil, true},
		{"an older one", 4, nil, false},
		{"a newer one", 6, nil, false},
		{"something happened since", 5, func(_ *entry, h *held) { h.unsure = true }, false},
		{"a newer version is announced", 5, func(e *entry, _ *held) { e.announced = 8 }, false},
		{"as of a later epoch already", 5, func(_ *entry, h *held) { h.epoch = 2 }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := &entry{key: testKey(t, "openai.alice"), seen: 7, heard: 5}
			h := &held{token: Token{Key: e.key, Version: 7, ExpiresAt: s.now.Add(time.Hour)}, ends: 2 * time.Hour, checked: s.at, beside: 2 * s.at, epoch: 1}
			if tt.change != nil {
				tt.change(e, h)
			}
			e.held.Store(h)
			if got := e.confirm(events.Bump{Key: e.key, Version: 7, Rev: tt.rev}, 2, s); got != tt.want {
				t.Errorf("confirmed: %v", got)
			}
			if got := e.held.Load().fresh > s.at; got != tt.want {
				t.Errorf("served at once: %v", got)
			}
		})
	}
}

// A bump that is heard while a look-up has waited in vain is not spared away.
func TestP4SpareLeavesTheFloor(t *testing.T) {
	for name, happens := range map[string]func(*entry){
		"a newer version":        func(e *entry) { e.hear(events.Bump{Key: e.key, Version: 8, Rev: 6}) },
		"a refresh that ends it": func(e *entry) { e.hearBusy(2 * time.Hour) },
		"nothing":                func(*entry) {},
	} {
		t.Run(name, func(t *testing.T) {
			s := situation{now: time.Now(), at: time.Hour, epoch: 1, up: true, maxAge: time.Minute, minTTL: time.Minute}
			e := &entry{key: testKey(t, "openai.alice"), seen: 7, heard: 5}
			h := &held{token: Token{Key: e.key, Version: 7, ExpiresAt: s.now.Add(time.Hour)}, ends: 2 * time.Hour, epoch: 1}
			e.held.Store(h)
			happens(e)
			e.spare(s)
			if open := e.held.Load().fresh > s.at; open != (name == "nothing") {
				t.Errorf("the fast path is open: %v", open)
			}
		})
	}
}

func TestCounter(t *testing.T) {
	var c counter
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				c.add()
			}
		})
	}
	all.Wait()
	if n := c.load(); n != 8000 {
		t.Errorf("counted %d", n)
	}
}

// A wall clock that moves by itself is noticed, whichever way, and a slow ticker
// isn't taken for one.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoarse(nil)
		var off atomic.Int64 // of the wall clock
		read := func() reading {
			r := c.read()
			r.wall = r.wall.Add(time.Duration(off.Load()))
			return r
		}
		var jumps atomic.Int64
		stop := make(chan struct{})
		var running sync.WaitGroup
		running.Go(func() { c.run(stop, read, func() { jumps.Add(1) }) })
		pass := func(want int64) {
			t.Helper()
			time.Sleep(10 * time.Second) // of the bubble
			synctest.Wait()
			if n := jumps.Load(); n != want {
				t.Errorf("%d jumps, want %d", n, want)
			}
		}
		pass(0)
		if at := c.coarse(); at < 10*time.Second-tick || at > 10*time.Second {
			t.Errorf("after 10 s it is %s", at)
		}
		off.Store(int64(jump / 2)) // slewed
		pass(0)
		off.Store(int64(time.Hour)) // suspended, or set
		pass(1)
		off.Store(0)
		pass(2)
		close(stop)
		running.Wait()
	})
}
