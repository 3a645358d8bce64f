package provider

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/accounts"
	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/clock"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/lookup"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

// Config is what a [Provider] is made of. The ports are required.
type Config struct {
	Store     ledger.Store
	Cache     ledger.Cache
	Publisher ledger.Publisher
	Sealer    ledger.Sealer
	Locker    refresh.Locker
	Journal   refresh.Journal // shared by all workers
	Spool     refresh.Spool   // on this machine's disk
	Endpoint  refresh.Endpoint

	WorkerID string // names this process in records and events; unique in the fleet
	Host     string // names this machine, for the operator who looks for a spool

	// Timing: the zero value means DefaultTiming; otherwise all of it counts.
	Timing rotation.Timing
	// Backoff spaces the attempts on one account: default base 2 s, cap 5 min,
	// floor 1 s.
	Backoff backoff.Policy
	// MaxL1 bounds the accounts in L1; default 200,000.
	MaxL1 int
	// MaxJournal is how many answers may wait in the journals before nothing
	// more is exchanged; default 10,000.
	MaxJournal int

	Clock  clock.Clock    // nil: the system's
	Random func() float64 // in [0,1), for jitter; nil: math/rand
	Logger *slog.Logger   // nil: discard
}

// check returns all that is wrong with the configuration.
func (c Config) check() error {
	var errs []error
	for _, port := range []struct {
		name    string
		missing bool
	}{
		{"Store", c.Store == nil}, {"Cache", c.Cache == nil}, {"Locker", c.Locker == nil}, {"Journal", c.Journal == nil},
		{"Spool", c.Spool == nil}, {"Endpoint", c.Endpoint == nil}, {"Publisher", c.Publisher == nil}, {"Sealer", c.Sealer == nil},
		{"WorkerID", c.WorkerID == ""}, {"Host", c.Host == ""},
	} {
		if port.missing {
			errs = append(errs, fmt.Errorf("provider config: %s is missing", port.name))
		}
	}
	if !c.Timing.Valid() {
		errs = append(errs, errors.New("provider config: Timing: every duration must be positive"))
	}
	if err := c.Backoff.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("provider config: Backoff: %w", err))
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	if c.Timing == (rotation.Timing{}) {
		c.Timing = rotation.DefaultTiming()
	}
	if c.Backoff == (backoff.Policy{}) {
		c.Backoff = backoff.Policy{Base: 2 * time.Second, Cap: 5 * time.Minute, Floor: time.Second}
	}
	if c.MaxL1 <= 0 {
		c.MaxL1 = 200_000
	}
	if c.MaxJournal <= 0 {
		c.MaxJournal = 10_000
	}
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.Random == nil {
		c.Random = rand.Float64
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Provider answers token requests and operators, and keeps accounts refreshed.
// Use [New]. All methods are safe for concurrent use.
type Provider struct {
	*lookup.Desk    // answers token requests
	*accounts.Admin // carries out the operators' verbs

	ledger    *ledger.Ledger
	refresher *refresh.Refresher
	cfg       Config
}

// New returns a Provider. All that is wrong with the configuration is reported
// at once.
func New(cfg Config) (*Provider, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	p := &Provider{cfg: cfg}
	p.ledger = ledger.New(ledger.Config{
		Store: cfg.Store, Cache: cfg.Cache, Publisher: cfg.Publisher, Sealer: cfg.Sealer, Policy: cfg.Endpoint.Policy,
		WorkerID: cfg.WorkerID, Timing: cfg.Timing, MaxL1: cfg.MaxL1, Random: cfg.Random, Clock: cfg.Clock, Logger: cfg.Logger,
	})
	p.refresher = refresh.New(refresh.Config{
		Ledger: p.ledger, Store: cfg.Store, Locker: cfg.Locker, Journal: cfg.Journal, Spool: cfg.Spool, Endpoint: cfg.Endpoint, Sealer: cfg.Sealer,
		WorkerID: cfg.WorkerID, Host: cfg.Host, MaxJournal: cfg.MaxJournal, Timing: cfg.Timing, Backoff: cfg.Backoff, Random: cfg.Random, Clock: cfg.Clock, Logger: cfg.Logger,
	})
	p.Desk = lookup.New(lookup.Config{Ledger: p.ledger, Refresher: p.refresher, Timing: cfg.Timing, Clock: cfg.Clock, Logger: cfg.Logger})
	p.Admin = accounts.New(accounts.Config{
		Ledger: p.ledger, Refresher: p.refresher, Store: cfg.Store, Journal: cfg.Journal, Spool: cfg.Spool, Endpoint: cfg.Endpoint,
		Sealer: cfg.Sealer, WorkerID: cfg.WorkerID,
	})
	return p, nil
}

// How often a worker looks for work that nobody brings.
const (
	dueEvery     = time.Second
	pendingEvery = 2 * time.Second
	journalEvery = 5 * time.Second
)

// Run saves what the last start left in the spool, then looks for due
// refreshes, lost announcements and waiting journal records until ctx ends or
// Close begins.
func (p *Provider) Run(ctx context.Context) error {
	p.refresher.ReplayAll(ctx)
	var loops sync.WaitGroup
	loops.Go(func() { p.every(ctx, dueEvery, p.refresher.RefreshDue, p.refresher.MoreDue()) })
	loops.Go(func() { p.every(ctx, pendingEvery, p.ledger.AnnouncePending, nil) })
	loops.Go(func() { p.every(ctx, journalEvery, p.refresher.ReplayAll, nil) })
	loops.Wait()
	return nil
}

// every calls f again and again, with a jitter that keeps workers apart, and
// sooner where sooner tells.
func (p *Provider) every(ctx context.Context, d time.Duration, f func(context.Context), sooner <-chan struct{}) {
	for {
		wait := d/2 + time.Duration(p.cfg.Random()*float64(d))
		select {
		case <-ctx.Done():
			return
		case <-p.refresher.Stopping():
			return
		case <-p.cfg.Clock.After(wait):
		case <-sooner:
		}
		f(ctx)
	}
}

// ObserveBump takes note of a bump that was heard: L1 serves nothing older
// from here on, and a flight that waits for the account looks again. It does
// not block.
func (p *Provider) ObserveBump(b events.Bump) {
	p.ledger.Heard(b.Key, b.Rev)
	p.refresher.Wake(b.Key)
}

// ObserveStatus takes note of a status event that was heard. It does not
// block.
func (p *Provider) ObserveStatus(e events.Status) {
	var busy time.Time // any other news ends it
	if e.Code == events.StatusRefreshing {
		policy, _ := p.cfg.Endpoint.Policy(e.Key.Platform())
		busy = p.cfg.Clock.Now().Add(policy.Timeout)
	}
	p.ledger.SetBusy(e.Key, busy)
}

// ObserveRefreshed handles a refreshed event: see [ledger.Ledger.ObserveRefreshed].
func (p *Provider) ObserveRefreshed(ctx context.Context, e events.Refreshed) error {
	return p.ledger.ObserveRefreshed(ctx, e)
}

// Resync is called when bumps may have been missed: nothing is served from L1
// any more before it was checked against the shared cache or the store.
func (p *Provider) Resync() {
	p.ledger.Resync()
	p.refresher.Wake(account.Key{})
}

// EndpointsChanged is called when other definitions of token endpoints are in
// use: circuits that were open for the old ones close.
func (p *Provider) EndpointsChanged() { p.refresher.EndpointsChanged() }

// Close drains: no new refresh starts, those that run end, and their outcome
// is saved and announced. If ctx ends first, the rest is aborted: what was
// answered and not saved waits in the journal, and the error says so. Close
// may be called again.
func (p *Provider) Close(ctx context.Context) error {
	p.refresher.Stop()
	var left error
	drained := make(chan struct{})
	go func() {
		left = p.refresher.Wait()
		p.ledger.Close()
		close(drained)
	}()
	select {
	case <-drained:
	case <-ctx.Done():
	}
	p.refresher.Abort()
	p.ledger.Abort()
	<-drained
	return left
}

// Stats are counters since the start and gauges of now, for metrics.
type Stats struct {
	Lookups map[events.Source]int64 // answered, by where the token was found
	Errors  map[events.Code]int64   // refused, by code
	Bumps   int64                   // heard, that were news

	Exchanges map[refresh.Exchange]int64 // requests to token endpoints
	Journaled int64                      // answers that had to wait in the journal
	Replayed  int64                      // answers settled from the journal

	JournalWaiting    int64           // records at the last sweep
	JournalUnreadable int64           // what could not be read at that sweep
	Flights           int             // refreshes that run
	Circuits          map[string]bool // by platform: is it open?
	L1Entries         int
}

// Stats returns a snapshot.
func (p *Provider) Stats() Stats {
	r := p.refresher.Stats()
	s := Stats{
		Bumps: p.ledger.Bumps(), Exchanges: r.Exchanges, Journaled: r.Journaled, Replayed: r.Replayed,
		JournalWaiting: r.Waiting, JournalUnreadable: r.Unreadable, Flights: r.Flights, Circuits: r.Circuits, L1Entries: p.ledger.Len(),
	}
	s.Lookups, s.Errors = p.Counts()
	return s
}
