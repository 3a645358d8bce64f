package client

import (
	"sync"
	"sync/atomic"
)

// counter counts without contention: each processor has a cell that it mostly
// has to itself.
type counter struct {
	cells [64]struct {
		n atomic.Int64
		_ [56]byte // a cache line each
	}
	next  atomic.Uint32
	hints sync.Pool // of cell numbers; one returns to the processor that put it
}

// add counts one.
func (c *counter) add() {
	h, ok := c.hints.Get().(*uint32)
	if !ok {
		h = new(c.next.Add(1) % uint32(len(c.cells)))
	}
	c.cells[*h].n.Add(1)
	c.hints.Put(h)
}

func (c *counter) load() (sum int64) {
	for i := range c.cells {
		sum += c.cells[i].n.Load()
	}
	return sum
}
