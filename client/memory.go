package client

import (
	"hash/maphash"
	"sync"

	"github.com/tokenbus/tokenbus/account"
)

// memory is the client's L1: what is known of accounts, of at most limit beside
// those that are being asked for. Reads take no lock.
//
// Which account goes when there is no room is decided by a clock: a hand goes
// round, takes the mark of use from each account that it passes, and stops at
// one that has none. Of an account that went its version stays, so that it
// doesn't fall: some 30 bytes.
type memory struct {
	accounts sync.Map // account.Key → *entry
	limit    int
	seed     maphash.Seed

	mu      sync.Mutex // guards what follows, and creation and removal
	ring    []*entry   // that were answered for
	hand    int
	past    map[uint64]account.Version // of accounts that went, by the key's hash
	evicted int64
}

func newMemory(limit int) *memory {
	return &memory{limit: limit, seed: maphash.MakeSeed(), past: map[uint64]account.Version{}}
}

// get returns what is known of the account, or nil.
func (m *memory) get(key account.Key) *entry {
	if e, ok := m.accounts.Load(key); ok {
		return e.(*entry)
	}
	return nil
}

// entry returns what is known of the account, and begins to know it.
func (m *memory) entry(key account.Key) *entry {
	if e := m.get(key); e != nil {
		return e
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.get(key); e != nil {
		return e
	}
	e := &entry{key: key, seen: m.past[m.hash(key)]}
	m.accounts.Store(key, e)
	return e
}

// lock returns what is known of the account with its mu held.
func (m *memory) lock(key account.Key) *entry {
	for {
		e := m.entry(key)
		e.mu.Lock()
		if !e.gone {
			return e
		}
		e.mu.Unlock()
	}
}

// find returns what is known of the account with its mu held, or nil.
func (m *memory) find(key account.Key) *entry {
	for {
		e := m.get(key)
		if e == nil {
			return nil
		}
		e.mu.Lock()
		if !e.gone {
			return e
		}
		e.mu.Unlock()
	}
}

func (m *memory) hash(key account.Key) uint64 { return maphash.Comparable(m.seed, key) }

// keep gives e a place, and takes another's if all are taken. The caller holds
// e.mu.
func (m *memory) keep(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.placed = true
	if len(m.ring) >= m.limit {
		if i, ok := m.evict(); ok {
			m.ring[i] = e
			return
		}
	}
	m.ring = append(m.ring, e)
}

// handPatience is how many accounts in use the hand passes before it takes one
// of them.
const handPatience = 256

// evict forgets one account and returns its place; the caller holds mu. One that
// is being asked for or watched stays. Who holds the lock of an account that has
// a place never waits for mu.
func (m *memory) evict() (place int, ok bool) {
	for step := range handPatience + len(m.ring) {
		place = m.hand
		m.hand = (m.hand + 1) % len(m.ring)
		e := m.ring[place]
		if e.used.Swap(false) && step < handPatience || !e.mu.TryLock() {
			continue
		}
		idle := e.idle()
		if idle {
			m.forget(e)
			m.evicted++
		}
		e.mu.Unlock()
		if idle {
			return place, true
		}
	}
	return 0, false
}

// forget removes e; the caller holds mu and e.mu.
func (m *memory) forget(e *entry) {
	e.gone = true
	e.held.Store(nil)
	m.accounts.Delete(e.key)
	if e.seen > 0 {
		m.past[m.hash(e.key)] = e.seen
	}
}

// drop removes e if nothing is known of it and nobody wants to; the caller holds
// e.mu. So keys that name no account take no room.
func (m *memory) drop(e *entry) {
	if e.gone || e.placed || !e.idle() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(e)
}

// len returns how many accounts are known, and how many went.
func (m *memory) len() (known int, evicted int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.ring), m.evicted
}

// all calls f for each account.
func (m *memory) all(f func(e *entry)) {
	m.accounts.Range(func(_, e any) bool { f(e.(*entry)); return true })
}
