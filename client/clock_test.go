package client

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A wall clock that moves by itself is noticed, whichever way, and a slow ticker
// isn't taken for one.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoarse(nil)
		var off atomic.Int64 // of the wall clock
		read := func() reading {
			r := c.read()
			r.wall = r.wall.Add(time.Duration(off.Load()))
			return r
		}
		var jumps atomic.Int64
		stop := make(chan struct{})
		var running sync.WaitGroup
		running.Go(func() { c.run(stop, read, func() { jumps.Add(1) }) })
		pass := func(want int64) {
			t.Helper()
			time.Sleep(10 * time.Second) // of the bubble
			synctest.Wait()
			if n := jumps.Load(); n != want {
				t.Errorf("%d jumps, want %d", n, want)
			}
		}
		pass(0)
		if at := c.coarse(); at < 10*time.Second-tick || at > 10*time.Second {
			t.Errorf("after 10 s it is %s", at)
		}
		off.Store(int64(jump / 2)) // slewed
		pass(0)
		off.Store(int64(time.Hour)) // suspended, or set
		pass(1)
		off.Store(0)
		pass(2)
		close(stop)
		running.Wait()
	})
}
