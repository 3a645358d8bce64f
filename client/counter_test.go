package client

import (
	"sync"
	"testing"
)

func TestCounter(t *testing.T) {
	var c counter
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				c.add()
			}
		})
	}
	all.Wait()
	if n := c.load(); n != 8000 {
		t.Errorf("counted %d", n)
	}
}
