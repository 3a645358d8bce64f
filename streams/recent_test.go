package streams_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbus/tokenbus/streams"
)

func TestRecent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := streams.NewRecent[string, int](10)
		r.Saw("a", 1)
		r.Saw("a", 2)
		// time.Sleep turns the bubble's clock and takes no time.
		time.Sleep(9 * time.Second)
		r.Saw("b", 3)
		if v, ok := r.Get("a"); v != 2 || !ok {
			t.Errorf("after 9 s: %d, %t", v, ok)
		}
		time.Sleep(time.Second)
		if v, ok := r.Get("a"); ok {
			t.Errorf("after 10 s: %d", v)
		}
		if v, ok := r.Get("b"); v != 3 || !ok {
			t.Errorf("the other after 1 s: %d, %t", v, ok)
		}
		r.Forget("b")
		if v, ok := r.Get("b"); ok {
			t.Errorf("forgotten: %d", v)
		}
	})
	var none *streams.Recent[string, int]
	none.Saw("a", 1)
	none.Forget("a")
	if v, ok := none.Get("a"); ok {
		t.Errorf("nil remembers %d", v)
	}
}

// What was seen last is remembered, however many keys came and went before, each
// of them once: that is how an import and a pass over due accounts look.
func TestRecentRemembersTheLast(t *testing.T) {
	const keys, behind = 1000, 499
	r := streams.NewRecent[int, int](keys)
	for i := range 20 * keys {
		r.Saw(i, i)
		if i < behind {
			continue
		}
		if v, ok := r.Get(i - behind); !ok || v != i-behind {
			t.Fatalf("%d keys later: %d, %t", behind, v, ok)
		}
	}
	if _, ok := r.Get(18 * keys); ok {
		t.Error("more keys are remembered than were asked for")
	}
}
