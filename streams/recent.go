package streams

import (
	"sync"
	"time"
)

// recentAge is how long what was seen is remembered. A refresh takes less. It is
// not more because a stream that is restored from a backup counts sequences
// again: only where another's write of the same key got the very sequence that
// is remembered, and within this time, would a write that rests on it replace
// that one.
const recentAge = 10 * time.Second

// Recent is what a process has last read or written of each key of a stream:
// most writes follow a read or another write of the same process. A write may
// rest on it instead of on another read, since JetStream refuses a write that
// names another sequence than the newest; whoever is refused reads. Nothing else
// may rest on it. The nil Recent remembers nothing. All methods are safe for
// concurrent use.
type Recent[K comparable, V any] struct {
	half int // of the keys

	mu           sync.Mutex // guards both
	last, before map[K]seen[V]
}

type seen[V any] struct {
	value V
	at    time.Time
}

// NewRecent returns a Recent of at most so many keys, and of those that were
// seen last: half of them at least. A cache that keeps what is used often would
// turn away exactly these, for most keys are seen once and written once.
func NewRecent[K comparable, V any](keys int) *Recent[K, V] {
	return &Recent[K, V]{half: max(1, keys/2), last: map[K]seen[V]{}}
}

// Get returns what was seen of the key in the last ten seconds.
func (r *Recent[K, V]) Get(key K) (value V, ok bool) {
	if r == nil {
		return value, false
	}
	r.mu.Lock()
	s, ok := r.last[key]
	if !ok {
		s, ok = r.before[key]
	}
	r.mu.Unlock()
	if !ok || time.Since(s.at) >= recentAge {
		return value, false
	}
	return s.value, true
}

// Saw notes what was read or written, acknowledged.
func (r *Recent[K, V]) Saw(key K, value V) {
	if r == nil {
		return
	}
	s := seen[V]{value, time.Now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, there := r.last[key]; !there && len(r.last) >= r.half {
		r.last, r.before = make(map[K]seen[V], r.half), r.last
	}
	r.last[key] = s
}

// Forget drops what was seen of a key: a write has failed.
func (r *Recent[K, V]) Forget(key K) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.last, key)
	delete(r.before, key)
}
