package ledger

import (
	"hash/maphash"
	"sync"

	"github.com/tokenbus/tokenbus/account"
)

// floors is what bumps said of accounts that have no place in L1: what the
// shared cache has of them may be older. An account is remembered until bumps
// have come for maxFloors others, and twice that at most: that outlasts what a
// shared cache lags behind by minutes, at 400 bumps a second. All methods are
// safe for concurrent use.
//
// Accounts go by a hash of 64 bits, in a third of the memory. Two with the same
// would cost a read of the store that finds the floor refuted.
type floors struct {
	seed   maphash.Seed
	shards [64]floorShard
}

type floorShard struct {
	mu           sync.Mutex // guards both
	last, before map[uint64]account.Rev
}

const maxFloors = 1 << 17

func (f *floors) init() {
	f.seed = maphash.MakeSeed()
	for i := range f.shards {
		f.shards[i].last = map[uint64]account.Rev{}
	}
}

func (f *floors) shard(key account.Key) (*floorShard, uint64) {
	h := maphash.Comparable(f.seed, key)
	return &f.shards[h%uint64(len(f.shards))], h
}

// of returns the newest rev that a bump named; 0 if there was none.
func (f *floors) of(key account.Key) account.Rev {
	s, h := f.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(h)
}

func (s *floorShard) of(h uint64) account.Rev { return max(s.last[h], s.before[h]) }

// raise notes that a bump named rev, and reports whether that was news.
func (f *floors) raise(key account.Key, rev account.Rev) (news bool) {
	s, h := f.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.of(h)
	if _, there := s.last[h]; !there && len(s.last) >= maxFloors/len(f.shards) {
		s.last, s.before = map[uint64]account.Rev{}, s.last
	}
	s.last[h] = max(rev, before)
	return rev > before
}

// forget drops what bumps said of the account.
func (f *floors) forget(key account.Key) {
	s, h := f.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.last, h)
	delete(s.before, h)
}
