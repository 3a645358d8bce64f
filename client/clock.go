package client

import (
	"sync/atomic"
	"time"
)

const (
	// tick is how far the coarse clock may be behind.
	tick = 20 * time.Millisecond
	// jump is how far wall clock and monotonic clock may part between two ticks
	// before we take it for a suspended machine or a clock that was set.
	jump = time.Second
)

// instant is the monotonic time since the client was made. Deadlines are kept
// in it, so that a wall clock that is set back prolongs no token's life.
type instant = time.Duration

// coarse is a clock that costs no more than a load: a ticker turns it.
type coarse struct {
	now  func() time.Time // the exact one
	base time.Time
	last atomic.Int64 // an instant
	fake bool         // now is a test's: ask it each time
}

func newCoarse(now func() time.Time) *coarse {
	if now == nil {
		return &coarse{now: time.Now, base: time.Now()}
	}
	return &coarse{now: now, base: now(), fake: true}
}

// coarse returns the instant as of the last tick.
func (c *coarse) coarse() instant {
	if c.fake {
		return c.at(c.now())
	}
	return instant(c.last.Load())
}

// at returns t as an instant.
func (c *coarse) at(t time.Time) instant { return t.Sub(c.base) }

// reading is one look at both clocks.
type reading struct {
	wall time.Time // without a monotonic reading
	at   instant
}

func (c *coarse) read() reading {
	t := c.now()
	return reading{t.Round(0), c.at(t)}
}

// parted returns how far the clocks have parted since an earlier look.
func (r reading) parted(before reading) time.Duration {
	return (r.wall.Sub(before.wall) - (r.at - before.at)).Abs()
}

// run turns the clock until stop is closed, and calls jumped when the wall clock
// has moved by itself.
func (c *coarse) run(stop <-chan struct{}, read func() reading, jumped func()) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for before := read(); ; {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		r := read()
		c.last.Store(int64(r.at))
		if r.parted(before) > jump {
			jumped()
		}
		before = r
	}
}
