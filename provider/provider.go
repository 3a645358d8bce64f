package provider

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
)

// Config is what a [Provider] is made of. The ports are required.
type Config struct {
	Store     Store
	Cache     Cache
	Locker    Locker
	Journal   Journal // shared by all workers
	Spool     Spool   // on this machine's disk
	Endpoint  Endpoint
	Publisher Publisher
	Sealer    Sealer

	WorkerID string // names this process in records and events; unique in the fleet
	Host     string // names this machine, for the operator who looks for a spool

	// Timing: the zero value means DefaultTiming; otherwise all of it counts.
	Timing Timing
	// Backoff spaces the attempts on one account: default base 2 s, cap 5 min,
	// floor 1 s.
	Backoff backoff.Policy
	// MaxL1 bounds the accounts in L1; default 200,000.
	MaxL1 int

	Clock  Clock          // nil: the system's
	Random func() float64 // in [0,1), for jitter; nil: math/rand
	Logger *slog.Logger   // nil: discard
}

// Provider answers token requests and keeps accounts refreshed. Use [New].
// All methods are safe for concurrent use.
type Provider struct {
	store     Store
	cache     Cache
	locker    Locker
	journal   Journal
	spool     Spool
	endpoint  Endpoint
	publisher Publisher
	sealer    Sealer

	worker, host string
	timing       Timing
	backoff      backoff.Policy
	infra        backoff.Policy // between attempts to save an outcome
	clock        Clock
	random       func() float64
	log          *slog.Logger

	l1        *l1
	reads     singleflight.Group
	flights   flights
	listeners listeners
	sights    sights
	gates     gates
	stats     stats
	// pending is what the last look for lost announcements has seen; the
	// sweep's own.
	pending map[account.Key]account.Rev

	base     context.Context // of everything that outlives a request; ends with Close
	abort    context.CancelFunc
	stopping chan struct{} // closed when Close begins
	stopOnce sync.Once
	tasks    tasks
}

// New returns a Provider. All that is wrong with the configuration is reported
// at once.
func New(cfg Config) (*Provider, error) {
	var errs []error
	for _, port := range []struct {
		name    string
		missing bool
	}{
		{"Store", cfg.Store == nil}, {"Cache", cfg.Cache == nil}, {"Locker", cfg.Locker == nil}, {"Journal", cfg.Journal == nil},
		{"Spool", cfg.Spool == nil}, {"Endpoint", cfg.Endpoint == nil}, {"Publisher", cfg.Publisher == nil}, {"Sealer", cfg.Sealer == nil},
		{"WorkerID", cfg.WorkerID == ""}, {"Host", cfg.Host == ""},
	} {
		if port.missing {
			errs = append(errs, fmt.Errorf("provider config: %s is missing", port.name))
		}
	}
	if cfg.Timing == (Timing{}) {
		cfg.Timing = DefaultTiming()
	}
	t := cfg.Timing
	if t.RefreshSkew <= 0 || t.CacheSkew <= 0 || t.MinTTL <= 0 || t.LeaseTTL <= 0 || t.L1MaxAge <= 0 || t.RefreshAhead < RefreshAheadOff {
		errs = append(errs, errors.New("provider config: Timing: every duration must be positive"))
	}
	if cfg.Backoff == (backoff.Policy{}) {
		cfg.Backoff = backoff.Policy{Base: 2 * time.Second, Cap: 5 * time.Minute, Floor: time.Second}
	}
	if err := cfg.Backoff.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("provider config: Backoff: %w", err))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if cfg.MaxL1 <= 0 {
		cfg.MaxL1 = 200_000
	}
	if cfg.Clock == nil {
		cfg.Clock = systemClock{}
	}
	if cfg.Random == nil {
		cfg.Random = rand.Float64
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Provider{
		store: cfg.Store, cache: cfg.Cache, locker: cfg.Locker, journal: cfg.Journal, spool: cfg.Spool,
		endpoint: cfg.Endpoint, publisher: cfg.Publisher, sealer: cfg.Sealer,
		worker: cfg.WorkerID, host: cfg.Host, timing: cfg.Timing, backoff: cfg.Backoff,
		infra: backoff.Policy{Base: 100 * time.Millisecond, Cap: 5 * time.Second, Floor: 10 * time.Millisecond},
		clock: cfg.Clock, random: cfg.Random, log: cfg.Logger,
		l1: newL1(cfg.MaxL1), stopping: make(chan struct{}),
	}
	p.flights.m = map[account.Key]*flight{}
	p.listeners.m = map[account.Key]map[chan struct{}]struct{}{}
	p.sights.m = map[account.Key]sighting{}
	p.gates.m = map[string]*gate{}
	p.stats.init()
	p.base, p.abort = context.WithCancel(context.Background())
	return p, nil
}

// now is the wall clock at the precision that stores keep.
func (p *Provider) now() time.Time { return millis(p.clock.Now()) }

// tasks are what runs beside requests and refreshes.
type tasks struct {
	mu     sync.Mutex // guards closed, and that nothing starts after it
	closed bool
	wg     sync.WaitGroup
}

// close lets nothing more start, and waits for what runs.
func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.wg.Wait()
}

// background runs f on its own goroutine, which Close waits for. Once that
// waits, f is not run at all: it must be something that is made up for
// elsewhere, as an announcement is by the sweep and a lease by its end.
func (p *Provider) background(f func(ctx context.Context)) {
	p.tasks.mu.Lock()
	defer p.tasks.mu.Unlock()
	if !p.tasks.closed {
		p.tasks.wg.Go(func() { f(p.base) })
	}
}

// Close drains: no new refresh starts, those that run end, and their outcome
// is saved and announced. If ctx ends first, the rest is aborted: what was
// answered and not saved waits in the journal, and the error says so. Close
// may be called again.
func (p *Provider) Close(ctx context.Context) error {
	p.stopOnce.Do(func() {
		p.flights.close()
		close(p.stopping)
	})
	drained := make(chan struct{})
	go func() {
		p.flights.wg.Wait()
		p.tasks.close()
		close(drained)
	}()
	select {
	case <-drained:
	case <-ctx.Done():
	}
	p.abort()
	<-drained
	var errs []error
	if n := p.stats.undone.Load(); n > 0 {
		errs = append(errs, fmt.Errorf("%d answers of token endpoints are not in the store; they wait in the spool or the journal and the next start saves them", n))
	}
	if n := p.stats.doubtful.Load(); n > 0 {
		errs = append(errs, fmt.Errorf("the outcome of %d exchanges is saved nowhere; those accounts are in doubt", n))
	}
	return errors.Join(errs...)
}
