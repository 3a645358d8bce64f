package provider

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// l1 is the process's own cache: what this worker knows of accounts, what it
// has heard of them, and until when it need not try again.
type l1 struct {
	seed   maphash.Seed
	shards [64]l1Shard
	// epoch rises when bumps may have been missed: entries of an older epoch
	// must be checked before they are served again.
	epoch atomic.Int64
	limit int // entries per shard
}

type l1Shard struct {
	mu sync.RWMutex // guards m
	m  map[account.Key]*l1Entry
}

// l1Entry is immutable but for the encoded reply; changes replace it.
type l1Entry struct {
	view    *view       // nil: nothing in hand, only a floor or a hold
	floor   account.Rev // nothing below may be served: a bump said so
	checked time.Time   // when the view was last known to be the newest (monotonic reading included)
	epoch   int64       // the epoch of that check
	hold    *hold       // no refresh before; nil: none
	busy    time.Time   // until then a refresh runs somewhere that ends the old token at once
	encoded atomic.Pointer[[]byte]
}

// hold is a failed refresh that is not to be repeated yet.
type hold struct {
	until time.Time
	err   *events.Error
}

// body returns the encoded reply of the entry's view, encoding it once.
func (e *l1Entry) body() []byte {
	if b := e.encoded.Load(); b != nil {
		return *b
	}
	b := e.view.reply(events.SourceL1).Encode()
	e.encoded.Store(&b)
	return b
}

func newL1(limit int) *l1 {
	c := &l1{seed: maphash.MakeSeed(), limit: max(1, limit/64)}
	for i := range c.shards {
		c.shards[i].m = map[account.Key]*l1Entry{}
	}
	return c
}

func (c *l1) shard(key account.Key) *l1Shard {
	return &c.shards[maphash.Comparable(c.seed, key)%uint64(len(c.shards))]
}

// get returns what is known of the account, or nil.
func (c *l1) get(key account.Key) *l1Entry {
	s := c.shard(key)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.m[key]
}

// update replaces the entry by what f makes of a copy of it. f runs under the
// shard's lock and must not block.
func (c *l1) update(key account.Key, f func(e *l1Entry)) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := &l1Entry{}
	if old := s.m[key]; old != nil {
		e.view, e.floor, e.checked, e.epoch, e.hold, e.busy = old.view, old.floor, old.checked, old.epoch, old.hold, old.busy
		e.encoded.Store(old.encoded.Load())
	} else if len(s.m) >= c.limit {
		s.evict()
	}
	before := e.view
	f(e)
	if e.view != before {
		e.encoded.Store(nil)
	}
	s.m[key] = e
}

// mark is the state of L1 when a read elsewhere begins: what is heard after
// that may be newer than what the read brings.
type mark struct {
	floor account.Rev
	epoch int64
}

func (c *l1) mark(key account.Key) mark {
	m := mark{epoch: c.epoch.Load()}
	if e := c.get(key); e != nil {
		m.floor = e.floor
	}
	return m
}

// evict drops one entry; the caller holds mu. What was only heard of goes
// first; a view can be had from the shared cache again.
func (s *l1Shard) evict() {
	var victim account.Key
	looked := 0
	for key, e := range s.m {
		if victim = key; e.view == nil {
			break
		}
		if looked++; looked == 8 {
			break
		}
	}
	delete(s.m, victim)
}

// offer puts v in unless something newer is there, and returns the newest. m
// was taken before v was read. confirmed says that it was read from the store:
// then a floor above it that stood before the read is refuted, and offer
// reports that.
func (c *l1) offer(v *view, now time.Time, m mark, confirmed bool) (newest *view, refuted bool) {
	c.update(v.key, func(e *l1Entry) {
		if e.view == nil || v.rev > e.view.rev || v.rev == e.view.rev && !v.gone {
			if e.view == nil || v.rev > e.view.rev {
				e.hold, e.busy = nil, time.Time{}
			}
			e.view = v
		}
		if v.rev >= e.view.rev {
			e.checked, e.epoch = now, m.epoch
		}
		if confirmed && e.floor > v.rev && e.floor <= m.floor {
			refuted = true
			e.floor = 0
		}
		newest = e.view
	})
	return newest, refuted
}

// reprieve lets v be served until a little later, although it could not be
// checked: the store and the shared cache are out of reach.
func (c *l1) reprieve(v *view, checked time.Time) {
	c.update(v.key, func(e *l1Entry) {
		if e.view == v {
			e.checked, e.epoch = checked, c.epoch.Load()
		}
	})
}

// heard notes a bump and reports whether it was news.
func (c *l1) heard(key account.Key, rev account.Rev) (news bool) {
	c.update(key, func(e *l1Entry) {
		if e.view != nil && e.view.rev >= rev || e.floor >= rev {
			return
		}
		news = true
		e.floor, e.hold, e.busy = rev, nil, time.Time{}
		if e.view != nil && e.view.gone && e.view.rev == 0 {
			e.view = nil // "no such account" is history now
		}
	})
	return news
}

func (c *l1) len() (n int) {
	for i := range c.shards {
		c.shards[i].mu.RLock()
		n += len(c.shards[i].m)
		c.shards[i].mu.RUnlock()
	}
	return n
}
