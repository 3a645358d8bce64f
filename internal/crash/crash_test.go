//go:build linux

package crash_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

const (
	accountsOf = 10 // at strict and grace each; fewer where there are three platforms
	tokenTTL   = 5 * time.Second
)

// A run is as long as CRASH_ROTATIONS rotations take, and goes through all
// faults once at least. CRASH_SEED repeats one.

func TestCrashEmbedded(t *testing.T) {
	testRun(t, config{name: "accounts, cache and leases on NATS", workers: 3, ttl: tokenTTL})
}

func TestCrashDatabases(t *testing.T) {
	testRun(t, config{name: "accounts in MongoDB, cache and leases in Redis", workers: 3, ttl: tokenTTL, databases: true, third: true})
}

func fromEnv(t *testing.T, name string) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func testRun(t *testing.T, cfg config) {
	rotations, seed := fromEnv(t, "CRASH_ROTATIONS"), uint64(fromEnv(t, "CRASH_SEED"))
	if rotations == 0 {
		t.Skip("random faults take a machine of their own: make crash")
	}
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	t.Logf("CRASH_SEED=%d", seed)
	fl := newFleet(t, cfg)
	for _, w := range fl.workers {
		w.start(t)
	}
	for _, w := range fl.workers {
		w.now().serves(t)
	}
	heard := fl.hear()
	for i := range accountsOf {
		platforms := []string{strict, grace}
		if cfg.third && i%5 < 2 {
			platforms = []string{third, third}
		}
		for j, platform := range platforms {
			fl.login(platform, fmt.Sprintf("a%d-%d", i, j), cfg.ttl)
		}
	}

	ld := &load{fl: fl, served: map[account.Key]served{}, denied: map[account.Key]bool{}}
	ld.phase()
	asking, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() { ld.run(asking, seed) })
	defer load.Wait()
	defer stop()
	r := &run{t: t, fl: fl, load: ld, rnd: rand.New(rand.NewPCG(seed, 100)), counts: &counts{of: map[string]int{}, missed: map[string]int{}}}
	r.ready()

	faulty := ld.phase()
	began, before := time.Now(), fl.front.rotations()
	r.faults(seed, before+rotations)
	lasted, rotated := time.Since(began), fl.front.rotations()-before
	ld.phase() // what comes while the fleet recovers belongs to neither
	losses := r.settle()
	quiet := ld.phase()
	r.pause(lasted, lasted)
	stop()
	load.Wait()

	r.checkLosses(losses)
	again := r.checkSends()
	r.checkProcesses()
	r.checkEvents(heard(), losses)
	for _, wrong := range ld.wrong {
		t.Error(wrong)
	}
	if n := sum(quiet.failed); n > len(losses)*askers {
		t.Errorf("%d look-ups failed while nothing was wrong: %v", n, quiet.failed)
	}
	if rotated < rotations {
		t.Errorf("%d rotations, want %d", rotated, rotations)
	}
	r.report(seed, lasted, rotated, again, losses, faulty, quiet)
}

// ready waits until every account was refreshed once.
func (r *run) ready() {
	r.t.Helper()
	for _, l := range r.fl.accounts {
		eventually(r.t, time.Minute, func() error {
			if v := r.load.newest(l).version; v < 2 {
				return fmt.Errorf("%s is at version %d\n%s", l.key, v, r.fl.story(l.key.String()))
			}
			return nil
		})
	}
}

// faults plays both decks until there were so many rotations.
func (r *run) faults(seed uint64, until int) {
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	var drivers sync.WaitGroup
	for i, deck := range [][]fault{processDeck(r.fl.cfg), lineDeck(r.fl.cfg)} {
		driver := *r
		driver.rnd = rand.New(rand.NewPCG(seed, uint64(200+i)))
		drivers.Go(func() { driver.drive(ctx, deck) })
	}
	played := make(chan struct{})
	go func() { drivers.Wait(); close(played) }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-played:
			return
		case <-tick.C:
			if r.fl.front.rotations() >= until {
				cancel()
			}
		}
	}
}

// hear collects status events from now on.
func (fl *fleet) hear() func() []events.Status {
	fl.t.Helper()
	var mu sync.Mutex // guards all
	var all []events.Status
	_, err := fl.operator.Subscribe(fl.subjects.AllStatus(), func(m *nats.Msg) {
		if e, err := events.DecodeStatus(m.Data); err == nil {
			mu.Lock()
			all = append(all, e)
			mu.Unlock()
		}
	})
	if err != nil {
		fl.t.Fatal(err)
	}
	return func() []events.Status {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}
