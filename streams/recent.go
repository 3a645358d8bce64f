package streams

import (
	"time"

	"github.com/maypok86/otter/v2"
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
type Recent[K comparable, V any] struct{ seen *otter.Cache[K, seen[V]] }

type seen[V any] struct {
	value V
	at    time.Time
}

// NewRecent returns a Recent of at most so many keys.
func NewRecent[K comparable, V any](keys int) *Recent[K, V] {
	return &Recent[K, V]{otter.Must(&otter.Options[K, seen[V]]{MaximumSize: keys, Executor: func(work func()) { work() }})}
}

// Get returns what was seen of the key in the last ten seconds.
func (r *Recent[K, V]) Get(key K) (value V, ok bool) {
	if r == nil {
		return value, false
	}
	s, ok := r.seen.GetIfPresent(key)
	if !ok || time.Since(s.at) >= recentAge {
		return value, false
	}
	return s.value, true
}

// Saw notes what was read or written, acknowledged.
func (r *Recent[K, V]) Saw(key K, value V) {
	if r != nil {
		r.seen.Set(key, seen[V]{value, time.Now()})
	}
}

// Forget drops what was seen of a key: a write has failed.
func (r *Recent[K, V]) Forget(key K) {
	if r != nil {
		r.seen.Invalidate(key)
	}
}
