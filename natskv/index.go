package natskv

import (
	"cmp"
	"container/heap"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
)

// index knows of every document what Due, Pending and List select by: about a
// hundred bytes each. It is safe for concurrent use.
type index struct {
	mu      sync.Mutex // guards what follows
	docs    map[string]*indexed
	due     dueHeap
	pending map[*indexed]struct{}
	// sorted is in the order of the keys, but for fresh and for those that
	// are gone; page puts it in order.
	sorted []*indexed
	fresh  []*indexed
	gone   int // in sorted or fresh
}

type indexed struct {
	key string
	facts
	place int // in the heap; -1: not there
	gone  bool
}

func newIndex() *index {
	return &index{docs: map[string]*indexed{}, pending: map[*indexed]struct{}{}}
}

// set takes in what a document is now. A tombstone that needs no announcement
// is forgotten.
func (ix *index) set(key string, f facts) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	d := ix.docs[key]
	if f.deleted && !f.pending {
		ix.dropLocked(d)
		return
	}
	if d == nil {
		d = &indexed{key: key, place: -1}
		ix.docs[key] = d
		ix.fresh = append(ix.fresh, d)
	}
	d.facts = f
	ix.placeLocked(d)
}

// drop forgets a document that is no longer in the bucket.
func (ix *index) drop(key string) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.dropLocked(ix.docs[key])
}

func (ix *index) dropLocked(d *indexed) {
	if d == nil {
		return
	}
	d.facts, d.gone = facts{refreshAt: never}, true
	ix.placeLocked(d)
	delete(ix.docs, d.key)
	ix.gone++
}

// placeLocked brings heap and pending set in line with the document's facts.
func (ix *index) placeLocked(d *indexed) {
	switch due := d.due(); {
	case due && d.place < 0:
		heap.Push(&ix.due, d)
	case due:
		heap.Fix(&ix.due, d.place)
	case d.place >= 0:
		heap.Remove(&ix.due, d.place)
	}
	if d.pending {
		ix.pending[d] = struct{}{}
	} else {
		delete(ix.pending, d)
	}
}

// dueBy returns the keys that are due, the longest overdue first. It walks
// down from the heap's top, so its cost depends on limit alone.
func (ix *index) dueBy(now time.Time, limit int, except ...string) []account.Key {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	var keys []account.Key
	next := frontier{heap: ix.due}
	next.push(0, now.UnixMilli())
	for len(keys) < limit && len(next.places) > 0 {
		place := heap.Pop(&next).(int)
		if key := mustParse(ix.due[place].key); !slices.Contains(except, key.Platform()) {
			keys = append(keys, key)
		}
		next.push(2*place+1, now.UnixMilli())
		next.push(2*place+2, now.UnixMilli())
	}
	return keys
}

// pendingKeys returns some of the keys whose announcement is pending.
func (ix *index) pendingKeys(limit int) []account.Key {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	var keys []account.Key
	for d := range ix.pending { // in random order, so that each has its turn
		if len(keys) >= limit {
			break
		}
		keys = append(keys, mustParse(d.key))
	}
	return keys
}

// page returns the keys that q selects, in order, at most limit.
func (ix *index) page(q ledger.ListQuery, limit int) []string {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.sortLocked()
	prefix := ""
	if q.Platform != "" {
		prefix = q.Platform + "."
	}
	// Keys of one platform are neighbours: nothing else starts with its dot.
	start, _ := slices.BinarySearchFunc(ix.sorted, max(q.After, prefix), func(d *indexed, key string) int { return cmp.Compare(d.key, key) })
	var keys []string
	for _, d := range ix.sorted[start:] {
		if len(keys) >= limit || !strings.HasPrefix(d.key, prefix) {
			break
		}
		if d.key > q.After && d.listed() && (q.Status == "" || d.status == q.Status) {
			keys = append(keys, d.key)
		}
	}
	return keys
}

// sortLocked merges what is fresh into what is sorted and leaves out what is
// gone.
func (ix *index) sortLocked() {
	if len(ix.fresh) == 0 && ix.gone == 0 {
		return
	}
	byKey := func(a, b *indexed) int { return cmp.Compare(a.key, b.key) }
	slices.SortFunc(ix.fresh, byKey)
	merged := make([]*indexed, 0, len(ix.sorted)+len(ix.fresh)-ix.gone)
	take := func(from *[]*indexed) {
		if d := (*from)[0]; !d.gone {
			merged = append(merged, d)
		}
		*from = (*from)[1:]
	}
	for a, b := ix.sorted, ix.fresh; len(a)+len(b) > 0; {
		if len(b) == 0 || len(a) > 0 && byKey(a[0], b[0]) <= 0 {
			take(&a)
		} else {
			take(&b)
		}
	}
	ix.sorted, ix.fresh, ix.gone = merged, nil, 0
}

// dueHeap has the document that is due first at its top.
type dueHeap []*indexed

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].refreshAt < h[j].refreshAt }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *dueHeap) Push(x any) {
	d := x.(*indexed)
	d.place = len(*h)
	*h = append(*h, d)
}

func (h *dueHeap) Pop() any {
	old := *h
	d := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	d.place = -1
	return d
}

// frontier is a heap of places in a dueHeap: those whose parents have been
// visited.
type frontier struct {
	heap   dueHeap
	places []int
}

func (f *frontier) Len() int           { return len(f.places) }
func (f *frontier) Less(i, j int) bool { return f.heap.Less(f.places[i], f.places[j]) }
func (f *frontier) Swap(i, j int)      { f.places[i], f.places[j] = f.places[j], f.places[i] }
func (f *frontier) Push(x any)         { f.places = append(f.places, x.(int)) }
func (f *frontier) Pop() any {
	p := f.places[len(f.places)-1]
	f.places = f.places[:len(f.places)-1]
	return p
}

// push adds a place if there is one and it is due by now.
func (f *frontier) push(place int, now int64) {
	if place < len(f.heap) && f.heap[place].refreshAt <= now {
		heap.Push(f, place)
	}
}

// mustParse parses a key of the index, where only valid ones come in.
func mustParse(text string) account.Key {
	k, err := account.ParseKey(text)
	if err != nil {
		panic("natskv: index holds " + err.Error())
	}
	return k
}
