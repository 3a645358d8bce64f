package coherence_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/internal/rig"
)

const (
	runSeed = 1

	workerAge = 2 * time.Second
	clientAge = 3 * time.Second
	// A question ends with the look-up that began it, or after the library's own
	// patience where it is made beside look-ups.
	questionTime = 11 * time.Second
	// What is left over once max age has gone by: to connect again, and for a
	// machine that is busy.
	leeway = 25 * time.Second
)

// TestP4NoPeerServesAStaleToken lets many clients look up accounts that rotate
// all the time, over links that fail, and judges what was recorded. COHERENCE is
// how long, COHERENCE_SEED draws what fails when.
func TestP4NoPeerServesAStaleToken(t *testing.T) {
	if os.Getenv("COHERENCE") == "" {
		t.Skip("random faults, on a clock, want a machine of their own: make random, make coherence")
	}
	duration, err := time.ParseDuration(os.Getenv("COHERENCE"))
	check(t, err)
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv("COHERENCE_SEED"), strconv.Itoa(runSeed)), 10, 64)
	check(t, err)
	fl := newFleet(t, config{workers: 3, clients: 20, workerAge: workerAge, clientAge: clientAge})
	var keys []account.Key
	for i := range 30 {
		platform := steady
		if i%5 == 4 {
			platform = brief
		}
		keys = append(keys, fl.login(platform, fmt.Sprintf("a%d", i+1)))
	}

	ctx, stop := context.WithTimeout(t.Context(), duration)
	defer stop()
	draw := func(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }
	var all sync.WaitGroup
	var failed atomic.Int64
	for i, g := range fl.clients {
		for j := range 2 {
			all.Go(func() { g.look(ctx, draw(uint64(100+10*i+j)), keys, &failed) })
		}
	}
	for i := range 3 {
		all.Go(func() { fl.rotateAll(ctx, draw(uint64(10+i)), keys) })
	}
	cuts := fl.breakLinks(ctx, draw(1))
	all.Wait() // what fails now, fails until all look-ups have ended

	fl.heal()
	took := fl.settle(clientAge+workerAge+leeway, keys...)
	for _, g := range fl.clients {
		check(t, g.Close())
	}
	fl.verdict(questionTime)
	fl.report(t, seed, cuts, failed.Load(), took)
}

// look looks accounts up until ctx ends.
func (g *gateway) look(ctx context.Context, draw *rand.Rand, keys []account.Key, failed *atomic.Int64) {
	next := time.NewTicker(10 * time.Millisecond)
	defer next.Stop()
	for ctx.Err() == nil {
		key := keys[draw.IntN(len(keys))]
		var opts []client.Option
		if draw.IntN(50) == 0 {
			opts = append(opts, client.WithMinTTL(2*time.Second))
		}
		patience, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		if _, err := g.Token(patience, key, opts...); err != nil {
			failed.Add(1)
		}
		cancel()
		<-next.C
	}
}

// rotateAll gives accounts new versions until ctx ends, in all ways there are:
// their lives end by themselves, an operator wants it, a person logs in. Errors
// are no matter here: workers are cut off.
func (fl *fleet) rotateAll(ctx context.Context, draw *rand.Rand, keys []account.Key) {
	next := time.NewTicker(200 * time.Millisecond)
	defer next.Stop()
	for ctx.Err() == nil {
		key, w, kind := keys[draw.IntN(len(keys))], fl.workers[draw.IntN(len(fl.workers))], draw.IntN(20)
		patience, cancel := context.WithTimeout(ctx, 2*time.Second)
		switch {
		case key.Platform() == brief && kind < 15:
		case kind < 4:
			fl.loginTold(key)
		default:
			_ = w.rotate(patience, key)
		}
		cancel()
		<-next.C
	}
}

// fault is a link that is out of order.
type fault struct {
	link *rig.Link
	end  time.Time
	undo func() // instead of healing the link
}

// breakLinks puts links out of order until ctx ends, each for a while, and
// returns how often it did. What is out of order then stays so.
func (fl *fleet) breakLinks(ctx context.Context, draw *rand.Rand) (cuts int) {
	var broken []fault
	next := time.NewTicker(100 * time.Millisecond)
	defer next.Stop()
	for ; ctx.Err() == nil; <-next.C {
		var still []fault
		for _, f := range broken {
			switch {
			case time.Now().Before(f.end):
				still = append(still, f)
			case f.undo != nil:
				f.undo()
			default:
				f.link.Heal(fl.t)
			}
		}
		broken = still
		// At most one worker at a time, and half of the clients.
		if n := draw.IntN(len(fl.clients) + 3); len(broken) <= len(fl.clients)/2 {
			f := fault{end: time.Now().Add(time.Duration(300+draw.IntN(3000)) * time.Millisecond)}
			flood := draw.IntN(30) == 0
			switch {
			case n < len(fl.clients):
				f.link = fl.clients[n].link
			case draw.IntN(4) == 0:
				f.link = fl.workers[draw.IntN(len(fl.workers))].link
			default:
				continue
			}
			if fl.taken(f.link, broken) {
				continue
			}
			switch kind := draw.IntN(4); {
			case flood && n < len(fl.clients):
				f.undo = fl.clients[n].tap.flood(draw.IntN(2) == 0)
			case kind == 0:
				f.link.Refuse(fl.t)
			case kind == 1:
				f.link.Flap(fl.t, 200*time.Millisecond, 300*time.Millisecond)
			case kind == 2:
				f.link.Slow(fl.t, time.Duration(5+draw.IntN(300))*time.Millisecond)
			default:
				f.link.BlackHole(fl.t)
			}
			broken = append(broken, f)
			cuts++
		}
	}
	for _, f := range broken {
		if f.undo != nil {
			f.undo()
		}
	}
	return cuts
}

// taken reports whether the link is out of order already, or is another worker's
// where one is.
func (fl *fleet) taken(link *rig.Link, broken []fault) bool {
	worker := func(l *rig.Link) bool {
		for _, w := range fl.workers {
			if w.link == l {
				return true
			}
		}
		return false
	}
	for _, f := range broken {
		if f.link == link || worker(f.link) && worker(link) {
			return true
		}
	}
	return false
}

func (fl *fleet) heal() {
	for _, w := range fl.workers {
		w.link.Heal(fl.t)
	}
	for _, g := range fl.clients {
		g.link.Heal(fl.t)
	}
}

// report says how much was checked. A record that is empty proves nothing.
func (fl *fleet) report(t *testing.T, seed uint64, cuts int, failed int64, took time.Duration) {
	var served, memory, heard, noticed, bound, answered, resynced int
	for _, c := range fl.record.clients {
		c.mu.Lock()
		defer c.mu.Unlock()
		served, heard, noticed, bound = served+len(c.served), heard+len(c.heard), noticed+len(c.noticed), bound+c.bound
		for _, s := range c.served {
			if s.fromMemory {
				memory++
			}
		}
		if len(c.heard) == 0 || len(c.served) == 0 || len(c.asked) == 0 {
			t.Errorf("of %s nothing is recorded: %d look-ups, %d questions, %d bumps", c.name, len(c.served), len(c.asked), len(c.heard))
		}
	}
	for _, w := range fl.record.workers {
		w.mu.Lock()
		defer w.mu.Unlock()
		answered, resynced = answered+len(w.answered), resynced+len(w.resynced)
		if len(w.answered) == 0 || len(w.heard) == 0 {
			t.Errorf("of %s nothing is recorded", w.name)
		}
	}
	fl.record.mu.Lock()
	defer fl.record.mu.Unlock()
	if bound == 0 {
		t.Error("no look-up came after a cut that was noticed")
	}
	t.Logf("seed %d: %d of %d look-ups from memory, %d failed, %d after a cut; %d bumps sent; %d cuts noticed by clients, %d by workers, which answered %d times; healed, the newest everywhere after %s",
		seed, memory, served, failed, bound, len(fl.record.sent), noticed, resynced, answered, took.Round(time.Millisecond))
	fmt.Printf("coherence: seconds=%.0f clients=%d serves=%d bumps=%d cuts=%d violations=%d\n",
		fl.record.now().Seconds(), len(fl.clients), served, heard, cuts, fl.found)
}
