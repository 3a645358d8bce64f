//go:build unix

package degraded_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/rig"
)

const (
	soakTTL      = 30 * time.Second // of access tokens
	soakMinTTL   = time.Second
	soakAccounts = 60
	soakEvery    = 5 * time.Millisecond // look-ups, whatever waits
	faultEvery   = 5 * time.Second
	faultFor     = 3 * time.Second
)

// TestSoak lets gateways ask for tokens that are refreshed all the time while a
// fault happens every five seconds: a dependency that refuses, hangs, is slow or
// flaps, a worker that is killed, stopped or replaced. No promise may be broken,
// look-ups must be answered while a living token exists, every account must be
// well in the end, and the one worker that lives through it all must not grow.
//
// SOAK=10m says for how long, SOAK_SEED repeats the faults.
func TestSoak(t *testing.T) {
	length, seed := soakLength(t)
	t.Logf("SOAK_SEED=%d", seed)
	fl := newFleet(t, config{workers: 3, patience: 10 * time.Second, ttl: soakTTL})
	s := &soak{fleet: fl, keys: fl.puts(soakAccounts, lenient, "s", 0), rng: rand.New(rand.NewPCG(seed, 0)), ends: map[account.Key]time.Time{}, failed: map[string]int{}, faults: map[string]int{}}
	for _, url := range []string{fl.server.URL(), fl.natsURL} {
		c, err := client.New(client.Config{URL: url, NKey: fl.server.KeyFile(bus.RoleClient), Name: t.Name(), MinTTL: soakMinTTL, MaxAge: l1MaxAge})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		s.gateways = append(s.gateways, &soakGateway{Client: c, seen: map[account.Key]account.Version{}})
	}
	for _, g := range s.gateways { // everything is in hand
		if err := each(s.keys, func(key account.Key) error {
			return await(t.Context(), healed, func() error { _, err := g.Token(t.Context(), key); return err })
		}); err != nil {
			t.Fatal(err)
		}
	}
	before := s.size(t)
	ctx, stop := context.WithCancel(t.Context())
	asked := make(chan struct{})
	go func() { defer close(asked); s.ask(ctx) }()
	s.rage(t, length)
	if err := fl.ready(); err != nil {
		t.Error(err)
	}
	// Calm: everybody is well again, and what the faults took is given back.
	err := each(s.keys, func(key account.Key) error { return fl.comes(key, 2, healed) })
	if err != nil {
		t.Error(err)
	}
	if err := await(t.Context(), healed, func() error { return s.size(t).flat(before) }); err != nil {
		t.Error(err)
	}
	stop()
	<-asked
	s.report(t, length, seed, before)
}

func soakLength(t *testing.T) (length time.Duration, seed uint64) {
	t.Helper()
	v := os.Getenv("SOAK")
	if v == "" {
		t.Skip("random faults, on a clock, want a machine of their own: make random, make soak")
	}
	length, err := time.ParseDuration(v)
	if err != nil || length < faultEvery {
		t.Fatalf("SOAK=%q: want a time of at least %s", v, faultEvery)
	}
	seed = rand.Uint64() >> 32
	if v := os.Getenv("SOAK_SEED"); v != "" {
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("SOAK_SEED: %v", err)
		}
	}
	return length, seed
}

type soak struct {
	*fleet
	keys     []account.Key
	gateways []*soakGateway
	rng      *rand.Rand // of the faults
	faults   map[string]int

	mu       sync.Mutex // guards the rest
	answered int
	ends     map[account.Key]time.Time // when the newest token that anybody was given ends
	excused  int                       // unanswered, and that had ended
	failed   map[string]int            // unanswered though that lived, by code
	wrong    []string                  // promises that were broken
	slowest  time.Duration
}

// soakGateway is a client and what it has been given.
type soakGateway struct {
	*client.Client
	mu   sync.Mutex // guards seen
	seen map[account.Key]account.Version
}

// ask asks at a steady rate until ctx ends.
func (s *soak) ask(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	tick := time.NewTicker(soakEvery)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			all.Go(func() { s.one(s.gateways[i%len(s.gateways)], s.keys[i/2%len(s.keys)]) })
		}
	}
}

func (s *soak) one(g *soakGateway, key account.Key) {
	g.mu.Lock()
	floor := g.seen[key]
	g.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), answered)
	defer cancel()
	start := time.Now()
	token, err := g.Token(ctx, key)
	took := time.Since(start)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		code := "other"
		if e, ok := errors.AsType[*client.Error](err); ok {
			code = string(e.Code)
		}
		if code == string(events.CodeReauthRequired) || code == "other" {
			s.wrong = append(s.wrong, fmt.Sprintf("P9: %s: %v", key, err))
		}
		if s.ends[key].Sub(start) > soakMinTTL+time.Second/2 {
			s.failed[code]++
		} else {
			s.excused++
		}
		return
	}
	s.answered++
	s.slowest = max(s.slowest, took)
	if token.ExpiresAt.After(s.ends[key]) {
		s.ends[key] = token.ExpiresAt
	}
	if token.Version < floor {
		s.wrong = append(s.wrong, fmt.Sprintf("P3: %s fell from version %d to %d", key, floor, token.Version))
	}
	if !token.ExpiresAt.After(start) {
		s.wrong = append(s.wrong, fmt.Sprintf("P5: %s: version %d ended %s before it was asked for", key, token.Version, start.Sub(token.ExpiresAt)))
	}
	g.mu.Lock()
	g.seen[key] = max(g.seen[key], token.Version)
	g.mu.Unlock()
}

// rage makes a fault every five seconds.
func (s *soak) rage(t *testing.T, length time.Duration) {
	t.Helper()
	links := map[string]*rig.Link{"store": s.store, "cache": s.cache, "endpoint": s.token, "nats": s.nats}
	names := slices.Sorted(maps.Keys(links))
	over := time.After(length)
	for next := time.NewTicker(faultEvery); ; {
		var what string
		var heal func()
		if s.rng.IntN(3) > 0 {
			name, f := names[s.rng.IntN(len(names))], failures[s.rng.IntN(len(failures))]
			what = name + " " + string(f)
			f.breaks(t, links[name])
			heal = func() { links[name].Heal(t) }
		} else {
			w := s.workers[1+s.rng.IntN(len(s.workers)-1)]
			what, heal = s.hurt(t, w)
		}
		s.faults[what]++
		select {
		case <-time.After(faultFor):
		case <-t.Context().Done():
		}
		heal()
		select {
		case <-next.C:
		case <-over:
			next.Stop()
			return
		}
	}
}

// hurt does something to a worker, and returns how that is undone.
func (s *soak) hurt(t *testing.T, w *worker) (what string, heal func()) {
	t.Helper()
	signal := func(sig syscall.Signal) {
		if err := w.process().Signal(sig); err != nil {
			t.Error(err)
		}
	}
	again := func() {
		w.start(t)
		w.process().Await(t, "worker answers requests")
	}
	switch s.rng.IntN(4) {
	case 0:
		w.process().Kill()
		return "worker killed", again
	case 1:
		signal(syscall.SIGSTOP)
		return "worker stopped", func() { signal(syscall.SIGCONT) }
	case 2:
		signal(syscall.SIGHUP)
		return "worker told to reload", func() {}
	}
	signal(syscall.SIGTERM)
	return "worker replaced", func() {
		err := await(t.Context(), 2*healed, func() error {
			if w.process().Alive() {
				return errors.New("a worker that was told to stop runs on")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		again()
	}
}

// size is what the worker that lives through it all takes.
type size struct{ goroutines, memory, files int }

// flat returns an error if it is more than it was, beyond what comes and goes.
func (z size) flat(before size) error {
	if z.goroutines > before.goroutines*3/2+30 || z.memory > before.memory*3/2+64<<20 || z.files > before.files+25 {
		return fmt.Errorf("the worker grew from %+v to %+v", before, z)
	}
	return nil
}

func (s *soak) size(t *testing.T) (z size) {
	t.Helper()
	said := s.workers[0].process().Logged("http endpoints listen")
	err := await(t.Context(), healed, func() error {
		resp, err := web.Do(must(http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://%s/metrics", said["address"]), nil)))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), " ")
			n, _ := strconv.ParseFloat(value, 64)
			switch name {
			case "go_goroutines":
				z.goroutines = int(n)
			case "process_resident_memory_bytes":
				z.memory = int(n)
			case "process_open_fds":
				z.files = int(n)
			}
		}
		if z.goroutines == 0 || z.memory == 0 || z.files == 0 {
			return fmt.Errorf("/metrics has not all of it: %+v", z)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (s *soak) report(t *testing.T, length time.Duration, seed uint64, before size) {
	t.Helper()
	unanswered := 0
	for _, n := range s.failed {
		unanswered += n
	}
	availability := 100 * float64(s.answered) / float64(s.answered+unanswered)
	stats, after := s.endpoints[lenient].Stats(), s.size(t)
	for _, name := range slices.Sorted(maps.Keys(s.faults)) {
		t.Logf("fault: %s: %d", name, s.faults[name])
	}
	t.Logf("soak: seed=%d seconds=%.0f lookups=%d availability=%.3f%% unanswered=%v without_living_token=%d slowest=%s exchanges=%d in_grace=%d reused=%d",
		seed, length.Seconds(), s.answered, availability, s.failed, s.excused, s.slowest.Round(time.Millisecond), stats.Exchanges, stats.InGrace, stats.Reused)
	t.Logf("soak: goroutines=%d→%d memory=%d→%d MiB files=%d→%d", before.goroutines, after.goroutines, before.memory>>20, after.memory>>20, before.files, after.files)
	if availability < 99.9 {
		t.Errorf("look-ups were answered %.3f %% of the time while a living token existed, want 99.9", availability)
	}
	if stats.Reused > 0 || stats.Revoked > 0 {
		t.Errorf("P1: %d refresh tokens came again after the grace, %d grants ended", stats.Reused, stats.Revoked)
	}
	for i, text := range s.wrong {
		if i < 10 {
			t.Error(text)
		}
	}
}
