package client

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

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

// News goes to the entry that is in memory, not into one that has just left it.
func TestNewsOfAnEntryThatLeaves(t *testing.T) {
	key := testKey(t, "demo.alice")
	status := events.Status{Key: key, Status: account.Active, Code: events.StatusRefreshing, Until: time.Now().Add(time.Minute)}
	message := &nats.Msg{Subject: "tokenbus.v1.status.demo.alice", Data: status.Encode()}
	c, _, _ := besideSilence(t)
	for name, tt := range map[string]struct {
		tell  func(rev account.Rev)
		heard func(e *entry, rev account.Rev) bool
	}{
		"bump":   {func(rev account.Rev) { c.hear(events.Bump{Key: key, Version: 1, Rev: rev}) }, func(e *entry, rev account.Rev) bool { return e.heard == rev }},
		"status": {func(account.Rev) { c.ears.hearStatus(message) }, func(e *entry, _ account.Rev) bool { return e.busy != 0 }},
	} {
		for rev := account.Rev(10); rev < 500; rev++ {
			old, fresh := c.memory.lock(key), &entry{key: key}
			started, told := make(chan struct{}), make(chan struct{})
			go func() { close(started); tt.tell(rev); close(told) }()
			<-started
			for range 10 {
				runtime.Gosched() // it waits for the old one's lock now, more often than not
			}
			old.gone = true
			c.memory.accounts.Store(key, fresh)
			old.mu.Unlock()
			<-told
			fresh.mu.Lock()
			heard := tt.heard(fresh, rev)
			fresh.mu.Unlock()
			if !heard {
				t.Fatalf("%s: the entry that is in memory has not heard rev %d", name, rev)
			}
		}
	}
}
