package natskv

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/btree"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
)

// index knows of every document what Due, Pending and List select by, in at
// most a hundred bytes each (BenchmarkIndexMemory). It is safe for concurrent
// use.
type index struct {
	mu    sync.Mutex // guards what follows, and what is in it
	byKey *btree.BTreeG[*indexed]
	// due has for each platform the documents that are refreshed one day, the
	// longest overdue first: platforms that a caller leaves out cost nothing,
	// whatever is due there.
	due     map[string]*btree.BTreeG[*indexed]
	pending map[*indexed]struct{}
}

// indexed is what the index knows of a document. It is as small as it can be:
// there may be a million.
type indexed struct {
	key       string
	refreshAt int64 // Unix milliseconds; never: it is not in the tree of those that are due
	status    uint8 // its place in statuses
	listed    bool  // see facts
}

// statuses are those that the index tells apart. All others have the place of
// the first, so that a page of theirs has too many keys: who reads the
// documents must look.
var statuses = []account.Status{"", account.Active, account.Disabled, account.ReauthRequired}

func placeOf(s account.Status) uint8 { return uint8(max(0, slices.Index(statuses, s))) }

func byKey(a, b *indexed) int { return cmp.Compare(a.key, b.key) }

func byTime(a, b *indexed) int { return cmp.Or(cmp.Compare(a.refreshAt, b.refreshAt), byKey(a, b)) }

// newTree returns a tree in the given order. It has no lock of its own, and
// nodes of up to 2 KB: small ones would take more memory for themselves.
func newTree(order func(a, b *indexed) int) *btree.BTreeG[*indexed] {
	return btree.NewBTreeGOptions(func(a, b *indexed) bool { return order(a, b) < 0 }, btree.Options{NoLocks: true, Degree: 128})
}

func newIndex() *index {
	return &index{byKey: newTree(byKey), due: map[string]*btree.BTreeG[*indexed]{}, pending: map[*indexed]struct{}{}}
}

// set takes in what a document is now. A tombstone that needs no announcement
// is forgotten.
func (ix *index) set(key string, f facts) {
	if f.deleted && !f.pending {
		ix.drop(key)
		return
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	d, known := ix.byKey.Get(&indexed{key: key})
	if known {
		ix.unselect(d)
	} else {
		d = &indexed{key: strings.Clone(key)} // the caller's may be part of a whole message
		ix.byKey.Set(d)
	}
	d.refreshAt, d.status, d.listed = never, placeOf(f.status), f.listed()
	if f.due() {
		d.refreshAt = f.refreshAt
		ix.dueOf(d).Set(d)
	}
	if f.pending {
		ix.pending[d] = struct{}{}
	}
}

// drop forgets a document that is no longer in the bucket.
func (ix *index) drop(key string) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if d, known := ix.byKey.Delete(&indexed{key: key}); known {
		ix.unselect(d)
	}
}

// unselect takes the document out of what Due and Pending select from, where
// it must not be while it changes.
func (ix *index) unselect(d *indexed) {
	if d.refreshAt != never {
		ix.dueOf(d).Delete(d)
	}
	delete(ix.pending, d)
}

// dueOf returns the tree of the document's platform.
func (ix *index) dueOf(d *indexed) *btree.BTreeG[*indexed] {
	platform, _, _ := strings.Cut(d.key, ".")
	tree := ix.due[platform]
	if tree == nil {
		tree = newTree(byTime)
		ix.due[platform] = tree
	}
	return tree
}

// dueBy returns the keys that are due, the longest overdue first. It costs
// what limit documents of each platform cost, however many there are.
func (ix *index) dueBy(now time.Time, limit int, except ...string) []account.Key {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	var found []*indexed
	for platform, tree := range ix.due {
		if slices.Contains(except, platform) {
			continue
		}
		end := len(found) + limit
		tree.Scan(func(d *indexed) bool {
			if len(found) >= end || d.refreshAt > now.UnixMilli() {
				return false
			}
			found = append(found, d)
			return true
		})
	}
	slices.SortFunc(found, byTime)
	var keys []account.Key
	for _, d := range found[:min(len(found), max(limit, 0))] {
		keys = append(keys, mustParse(d.key))
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

// page returns the keys that q selects, in order, at most limit, and of a
// status that isn't in statuses perhaps others besides.
func (ix *index) page(q ledger.ListQuery, limit int) []string {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	prefix, place := "", placeOf(q.Status)
	if q.Platform != "" {
		prefix = q.Platform + "."
	}
	var keys []string
	// Keys of one platform are neighbours: nothing else starts with its dot.
	ix.byKey.Ascend(&indexed{key: max(q.After, prefix)}, func(d *indexed) bool {
		if len(keys) >= limit || !strings.HasPrefix(d.key, prefix) {
			return false
		}
		if d.key > q.After && d.listed && (q.Status == "" || d.status == place) {
			keys = append(keys, d.key)
		}
		return true
	})
	return keys
}

// mustParse parses a key of the index, where only valid ones come in.
func mustParse(text string) account.Key {
	k, err := account.ParseKey(text)
	if err != nil {
		panic("natskv: index holds " + err.Error())
	}
	return k
}
