//go:build linux

package crash_test

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// fault is a card of a deck.
type fault struct {
	name string
	do   func(r *run) (done bool)
}

// run is one run: a fleet, a seed, and what was done to it.
type run struct {
	t    *testing.T
	fl   *fleet
	load *load
	rnd  *rand.Rand // of the driver

	counts *counts
}

type counts struct {
	mu sync.Mutex // guards both
	of map[string]int
	// missed are the faults for which the moment didn't come.
	missed map[string]int
}

// killPoints are the crash points; all but journaled come by themselves.
var killPoints = []string{"begun", "sending", "answered", "stashed", "settled", "committed", "cached", "published", "bumped"}

// processDeck is what happens to processes and to what all of them need, one
// at a time: two at once would be more than a lost account's grant can bear,
// and then a lost account would prove nothing.
func processDeck(cfg config) []fault {
	var deck []fault
	for _, point := range killPoints {
		deck = append(deck, fault{"kill -9 at " + point, func(r *run) bool { return r.killAt(point) }})
	}
	deck = append(deck,
		fault{"kill -9 at random", (*run).kill},
		fault{"kill -9 at random", (*run).kill},
		fault{"kill -9 with an answer under way", (*run).killWaiting},
		fault{"SIGSTOP at random", (*run).freeze},
		fault{"SIGSTOP with an answer under way", (*run).freezeWaiting},
		fault{"SIGSTOP with an answer under way", (*run).freezeWaiting},
		fault{"clock ahead", func(r *run) bool { return r.clock(clockShift) }},
		fault{"clock behind", func(r *run) bool { return r.clock(-clockShift) }},
		fault{"NATS cut at one worker", (*run).cutNATS},
	)
	if cfg.databases {
		deck = append(deck, fault{"Redis frozen", func(r *run) bool {
			r.fl.redis.Freeze()
			r.pause(time.Second, 2500*time.Millisecond)
			r.fl.redis.Restore()
			return true
		}}, fault{"MongoDB frozen", func(r *run) bool {
			r.fl.mongo.Freeze()
			r.pause(time.Second, 2500*time.Millisecond)
			r.fl.mongo.Restore()
			return true
		}}, fault{"kill -9 at journaled", (*run).killJournaled})
	}
	return deck
}

// lineDeck is what happens between workers and endpoints.
func lineDeck(cfg config) []fault {
	platforms := []string{strict, grace}
	if cfg.third {
		platforms = append(platforms, third)
	}
	var deck []fault
	for _, platform := range platforms {
		for _, kind := range []string{cutBefore, cutAfter, holeBefore, hold, hold} {
			deck = append(deck, fault{kind, func(r *run) bool { return r.order(kind, platform) }})
		}
	}
	return append(deck, fault{holeAfter, func(r *run) bool { return r.order(holeAfter, grace) }},
		fault{holeAfter, func(r *run) bool { return r.order(holeAfter, strict) }})
}

// drive plays the deck, again and again, until ctx ends and it was through
// once.
func (r *run) drive(ctx context.Context, deck []fault) {
	r.rnd.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	for n := 0; n < len(deck) || ctx.Err() == nil; n++ {
		card := deck[n%len(deck)]
		began := time.Now()
		done := card.do(r)
		r.t.Logf("%s %s, %s: %v", began.Format(clock), card.name, time.Since(began).Round(time.Millisecond), done)
		r.counts.add(card.name, done)
		r.pause(0, 500*time.Millisecond)
	}
}

func (c *counts) add(name string, done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if done {
		c.of[name]++
	} else {
		c.missed[name]++
	}
}

func (c *counts) names() []string {
	all := maps.Clone(c.of)
	maps.Copy(all, c.missed)
	return slices.Sorted(maps.Keys(all))
}

// pause lets time pass: some faults are a matter of how long they last.
func (r *run) pause(least, most time.Duration) {
	<-time.After(least + time.Duration(r.rnd.Int64N(int64(most-least)+1)))
}

func (r *run) pick() *worker { return r.fl.workers[r.rnd.IntN(len(r.fl.workers))] }

// killAt starts a worker that will kill itself at the point, and then anew.
func (r *run) killAt(point string) bool {
	w := r.pick()
	w.now().kill()
	p := w.start(r.t, "TOKENBUS_CRASH_AT="+point+":"+string(rune('1'+r.rnd.IntN(3))))
	crashed := p.crashes(10 * time.Second)
	if !crashed {
		p.kill()
	}
	w.start(r.t).serves(r.t)
	return crashed
}

// killJournaled needs a store that is out of reach while there is an answer.
// It is no fault of a fleet whose journal is where its store is: there a worker
// that is cut off is alone with its answer for longer than others wait, and
// accounts without grace are lost by the rule.
func (r *run) killJournaled() bool {
	w := r.pick()
	w.now().kill()
	p := w.start(r.t, "TOKENBUS_CRASH_AT=journaled")
	release := make(chan struct{})
	late := newOrder(hold, w.name, "")
	late.release = release
	crashed := false
	met := r.taken(late)
	if met {
		r.fl.cutStore(w)
	}
	close(release)
	if met {
		crashed = p.crashes(15 * time.Second)
		r.fl.healStore(w)
	}
	if !crashed {
		p.kill()
	}
	w.start(r.t).serves(r.t)
	return crashed
}

func (r *run) kill() bool {
	w := r.pick()
	w.now().kill()
	r.pause(0, time.Second)
	w.start(r.t).serves(r.t)
	return true
}

// killWaiting kills a worker that waits for an answer at an endpoint with
// grace; the answer never reaches a process.
func (r *run) killWaiting() bool {
	w := r.pick()
	release := make(chan struct{})
	late := newOrder(hold, w.name, grace)
	late.release = release
	defer close(release)
	if !r.taken(late) {
		return false
	}
	w.now().kill()
	w.start(r.t).serves(r.t)
	return true
}

// stopped stops the worker's process for longer than others wait for a
// heartbeat, and shorter than the patience with an exchange.
func (r *run) stopped(w *worker, meanwhile func()) {
	defer r.load.stopped()()
	w.now().signal(r.t, syscall.SIGSTOP)
	meanwhile()
	r.pause(leaseTTL+100*time.Millisecond, leaseTTL+600*time.Millisecond)
	w.now().signal(r.t, syscall.SIGCONT)
}

func (r *run) freeze() bool {
	w := r.pick()
	r.stopped(w, func() {})
	return true
}

// freezeWaiting freezes a worker that waits for an answer. It arrives
// meanwhile.
func (r *run) freezeWaiting() bool {
	w := r.pick()
	release := make(chan struct{})
	late := newOrder(hold, w.name, "")
	late.release = release
	if !r.taken(late) {
		close(release)
		return false
	}
	r.stopped(w, func() { close(release) })
	<-late.done
	return true
}

// clock runs a worker whose wall clock is off for a while.
func (r *run) clock(offset time.Duration) bool {
	w := r.pick()
	w.now().kill()
	p := w.start(r.t, "TOKENBUS_CLOCK_OFFSET="+offset.String())
	p.serves(r.t)
	r.pause(3*time.Second, 5*time.Second)
	p.kill()
	w.start(r.t).serves(r.t)
	return true
}

func (r *run) cutNATS() bool {
	proxy := r.fl.natsOf[r.pick().name]
	proxy.Cut()
	r.pause(100*time.Millisecond, 500*time.Millisecond)
	proxy.Restore()
	return true
}

// order does something to the next exchange at the platform.
func (r *run) order(kind, platform string) bool {
	o := newOrder(kind, "", platform)
	release := make(chan struct{})
	o.release = release
	if !r.taken(o) {
		close(release)
		return false
	}
	if kind == hold {
		r.pause(100*time.Millisecond, time.Second)
	}
	close(release)
	<-o.done
	return true
}

// taken gives the order and waits until an exchange has met it.
func (r *run) taken(o *order) bool {
	r.fl.front.arm(o)
	select {
	case <-o.taken:
		return true
	case <-time.After(10 * time.Second):
		return !r.fl.front.disarm(o) // met just now
	}
}
