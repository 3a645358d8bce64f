package client

import (
	"fmt"
	"sync"
	"testing"

	"github.com/tokenbus/tokenbus/account"
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
