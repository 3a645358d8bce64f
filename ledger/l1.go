package ledger

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/rotation"
)

// negativeMaxAge is how long "no such account" is believed.
const negativeMaxAge = time.Second

// Known is what this process knows of one account. It is immutable but for the
// encoded replies; changes replace it.
type Known struct {
	View *rotation.View // nil: nothing in hand, only a floor
	Busy time.Time      // until then a refresh runs somewhere that ends the old token at once

	floor   account.Rev // nothing below may be served: a bump said so
	checked time.Time   // when the view was last known to be the newest (monotonic reading included)
	epoch   int64       // the epoch of that check
	doubted time.Time   // when another look was last taken

	encoded, unmodified atomic.Pointer[[]byte]
}

// Rev returns the newest rev that was heard of or is in hand; 0 of nil.
func (k *Known) Rev() account.Rev {
	switch {
	case k == nil:
		return 0
	case k.View == nil:
		return k.floor
	}
	return max(k.floor, k.View.Rev)
}

// Servable reports whether there is a view that no bump has overtaken.
func (k *Known) Servable() bool { return k != nil && k.View != nil && k.View.Rev >= k.floor }

// Body returns the encoded reply of the view, encoding it once.
func (k *Known) Body() []byte { return k.once(&k.encoded, false) }

// NotModified returns the encoded reply to who has the view's version already,
// encoding it once.
func (k *Known) NotModified() []byte { return k.once(&k.unmodified, true) }

func (k *Known) once(encoded *atomic.Pointer[[]byte], notModified bool) []byte {
	if b := encoded.Load(); b != nil {
		return *b
	}
	r := k.View.Reply(events.SourceL1)
	r.NotModified = notModified
	b := r.Encode()
	encoded.Store(&b)
	return b
}

// l1 is the process's own cache.
type l1 struct {
	seed   maphash.Seed
	shards [64]l1Shard
	// epoch rises when bumps may have been missed: entries of an older epoch
	// must be checked before they are served again.
	epoch atomic.Int64
	bumps atomic.Int64 // heard, that were news
	limit int          // entries per shard
}

type l1Shard struct {
	mu sync.RWMutex // guards what follows
	m  map[account.Key]*Known
	// heard is what bumps said of accounts that were evicted, the last of them
	// and those before: what the shared cache has may be older.
	heard, heardBefore map[account.Key]account.Rev
}

// minHeard is how many evicted accounts a shard remembers bumps of, at least;
// else it is twice the entries that it may have.
const minHeard = 1024

func newL1(limit int) *l1 {
	c := &l1{seed: maphash.MakeSeed(), limit: max(1, limit/64)}
	for i := range c.shards {
		c.shards[i].m, c.shards[i].heard = map[account.Key]*Known{}, map[account.Key]account.Rev{}
	}
	return c
}

func (c *l1) shard(key account.Key) *l1Shard {
	return &c.shards[maphash.Comparable(c.seed, key)%uint64(len(c.shards))]
}

// get returns what is known of the account, or nil.
func (c *l1) get(key account.Key) *Known {
	s := c.shard(key)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.m[key]
}

// rev returns the newest rev of the account that was heard of or is in hand.
func (c *l1) rev(key account.Key) account.Rev {
	s := c.shard(key)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if k := s.m[key]; k != nil {
		return k.Rev()
	}
	return s.evicted(key)
}

// evicted returns what bumps said of an account that was evicted; the caller
// holds mu.
func (s *l1Shard) evicted(key account.Key) account.Rev {
	return max(s.heard[key], s.heardBefore[key])
}

// update replaces what is known by what f makes of a copy of it. f runs under
// the shard's lock and must not block.
func (c *l1) update(key account.Key, f func(k *Known)) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	k := &Known{}
	if old := s.m[key]; old != nil {
		k.View, k.Busy, k.floor, k.checked, k.epoch, k.doubted = old.View, old.Busy, old.floor, old.checked, old.epoch, old.doubted
		k.encoded.Store(old.encoded.Load())
		k.unmodified.Store(old.unmodified.Load())
	} else {
		k.floor = s.evicted(key)
		delete(s.heard, key)
		delete(s.heardBefore, key)
		if len(s.m) >= c.limit {
			s.evict(max(c.limit, minHeard))
		}
	}
	before := k.View
	f(k)
	if k.View != before {
		k.encoded.Store(nil)
		k.unmodified.Store(nil)
	}
	s.m[key] = k
}

// evict drops one entry; the caller holds mu. What was only heard of and what
// does not exist goes first; a view can be had from the shared cache again.
// What bumps said of it is remembered, until that was done for twice as many
// others as heard.
func (s *l1Shard) evict(heard int) {
	var victim account.Key
	looked := 0
	for key, k := range s.m {
		if victim = key; k.View == nil || k.View.Gone {
			break
		}
		if looked++; looked == 8 {
			break
		}
	}
	if floor := s.m[victim].floor; floor > 0 {
		if len(s.heard) >= heard {
			s.heard, s.heardBefore = map[account.Key]account.Rev{}, s.heard
		}
		s.heard[victim] = floor
	}
	delete(s.m, victim)
}

// mark is the state of L1 when a read elsewhere begins: what is heard after
// that may be newer than what the read brings.
type mark struct {
	floor account.Rev
	epoch int64
}

func (c *l1) mark(key account.Key) mark {
	m := mark{epoch: c.epoch.Load()}
	s := c.shard(key)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if k := s.m[key]; k != nil {
		m.floor = k.floor
	} else {
		m.floor = s.evicted(key)
	}
	return m
}

// offer puts v in unless something newer is there, and returns the newest. m
// was taken before v was read. confirmed says that it was read from the store:
// then a floor above it that stood before the read is refuted, and offer
// reports that.
func (c *l1) offer(v *rotation.View, now time.Time, m mark, confirmed bool) (newest *rotation.View, refuted bool) {
	c.update(v.Key, func(k *Known) {
		if k.View == nil || v.Rev > k.View.Rev {
			k.View, k.Busy = v, time.Time{}
		} else if v.Rev == k.View.Rev && !v.Gone {
			k.View = v
		}
		if v.Rev >= k.View.Rev {
			k.checked, k.epoch = now, m.epoch
		}
		if confirmed && k.floor > v.Rev && k.floor <= m.floor {
			refuted = true
			k.floor = 0
		}
		newest = k.View
	})
	return newest, refuted
}

func (c *l1) len() (n int) {
	for i := range c.shards {
		c.shards[i].mu.RLock()
		n += len(c.shards[i].m)
		c.shards[i].mu.RUnlock()
	}
	return n
}

// Known returns what this process knows of the account, or nil. It does not
// block.
func (l *Ledger) Known(key account.Key) *Known { return l.l1.get(key) }

// Fresh reports whether k may be served without a look elsewhere.
func (l *Ledger) Fresh(k *Known, now time.Time) bool {
	maxAge := l.cfg.Timing.L1MaxAge
	if k.View.Missing() {
		maxAge = negativeMaxAge
	}
	return k.Servable() && k.epoch == l.l1.epoch.Load() && now.Sub(k.checked) < maxAge
}

// Learn takes a document into L1 and returns the newest view.
func (l *Ledger) Learn(d *Document) *rotation.View {
	policy, _ := l.cfg.Policy(d.Key.Platform())
	v, refuted := l.l1.offer(rotation.ViewOf(&d.Account, d.Opened, policy), l.cfg.Clock.Now(), d.mark, true)
	if refuted {
		l.log.Warn("bump names a rev that the store does not have; ignored", "account", d.Key.String(), "rev", d.Rev)
	}
	return v
}

// Heard notes that a bump names a rev: nothing below it is served from here on.
func (l *Ledger) Heard(key account.Key, rev account.Rev) {
	l.l1.update(key, func(k *Known) {
		news := k.View == nil || k.View.Rev < rev
		if k.floor >= rev {
			return
		}
		k.floor = rev // also where it is in hand: the entry may be evicted
		if !news {
			return
		}
		l.l1.bumps.Add(1)
		k.Busy = time.Time{}
		if k.View != nil && k.View.Missing() {
			k.View = nil // "no such account" is history now
		}
	})
}

// SetBusy notes that a refresh runs that ends the old token at once, until
// then or, with the zero time, not any more.
func (l *Ledger) SetBusy(key account.Key, until time.Time) {
	if k := l.l1.get(key); until.IsZero() && (k == nil || k.Busy.IsZero()) {
		return
	}
	l.l1.update(key, func(k *Known) { k.Busy = until })
}

// Epoch counts the times that bumps may have been missed.
func (l *Ledger) Epoch() int64 { return l.l1.epoch.Load() }

// Resync is called when bumps may have been missed: nothing is served from L1
// any more before it was checked against the shared cache or the store.
func (l *Ledger) Resync() {
	for _, b := range []*backoff.Budget{l.cache, l.check, l.stranger} { // what was cut off may be there again
		b.Reset()
	}
	l.l1.epoch.Add(1)
}

// Bumps returns how many bumps were news.
func (l *Ledger) Bumps() int64 { return l.l1.bumps.Load() }

// Len returns how many accounts are in L1.
func (l *Ledger) Len() int { return l.l1.len() }
