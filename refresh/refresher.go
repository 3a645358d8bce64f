package refresh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/clock"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/rotation"
)

// Config is what a [Refresher] is made of. All fields are required.
type Config struct {
	Ledger   *ledger.Ledger
	Store    ledger.Store // for heartbeats and due accounts alone
	Locker   Locker
	Journal  Journal // shared by all workers
	Spool    Spool   // on this machine's disk
	Endpoint Endpoint
	Sealer   ledger.Sealer

	WorkerID, Host string
	MaxJournal     int // records that wait beyond which nothing more is exchanged
	Timing         rotation.Timing
	Backoff        backoff.Policy // spaces the attempts on one account
	Random         func() float64 // in [0,1)
	Clock          clock.Clock
	Logger         *slog.Logger
}

// saving spaces the attempts to save an outcome.
var saving = backoff.Policy{Base: 100 * time.Millisecond, Cap: 5 * time.Second, Floor: 10 * time.Millisecond}

// Refresher refreshes accounts. Use [New]. All methods are safe for concurrent
// use.
type Refresher struct {
	cfg     Config
	ledger  *ledger.Ledger
	clock   clock.Clock
	log     *slog.Logger
	flights flights
	gates   gates
	stats   stats
	moreDue chan struct{} // capacity 1

	fullUntil atomic.Int64 // Elapsed, in nanoseconds: until then the spool counts as full

	left struct { // what waits in the journals, as of the last look
		mu   sync.Mutex // guards keys
		keys map[account.Key][]answered
	}

	base     context.Context // of every flight; ends with Abort
	abort    context.CancelFunc
	stopping chan struct{} // closed when Stop begins
	stopOnce sync.Once
}

// New returns a Refresher.
func New(cfg Config) *Refresher {
	r := &Refresher{cfg: cfg, ledger: cfg.Ledger, clock: cfg.Clock, log: cfg.Logger, stopping: make(chan struct{}), moreDue: make(chan struct{}, 1)}
	r.flights.m = map[account.Key]*state{}
	r.gates.m = map[string]*gate{}
	r.stats.exchanges = map[Exchange]int64{}
	r.base, r.abort = context.WithCancel(context.Background())
	return r
}

// Stopping is closed once Stop has begun.
func (r *Refresher) Stopping() <-chan struct{} { return r.stopping }

// Stop lets no new refresh begin. Those that run go on; Wait waits for them.
func (r *Refresher) Stop() {
	r.stopOnce.Do(func() {
		r.flights.close()
		close(r.stopping)
	})
}

// Abort ends every flight: what was answered and can't be saved at once waits
// in the journal.
func (r *Refresher) Abort() { r.abort() }

// Wait waits for the flights to end. The error tells what is left undone.
func (r *Refresher) Wait() error {
	r.flights.wg.Wait()
	left := r.stats.undone.Load()
	if records, _ := r.cfg.Spool.Records(context.WithoutCancel(r.base), account.Key{}); len(records) > 0 {
		records = slices.DeleteFunc(records, func(rec rotation.Record) bool { return rec.Worker != r.cfg.WorkerID }) // of an earlier day
		left = max(left, int64(len(records)))
	}
	var errs []error
	if n := left; n > 0 {
		errs = append(errs, fmt.Errorf("%d answers of token endpoints are not in the store; they wait in the spool or the journal and the next start saves them", n))
	}
	if n := r.stats.doubtful.Load(); n > 0 {
		errs = append(errs, fmt.Errorf("the outcome of %d exchanges is saved nowhere; those accounts are in doubt", n))
	}
	return errors.Join(errs...)
}

// patience is how long a flight waits for another worker: past it a silent
// one's rotation has been judged.
func (r *Refresher) patience(platform string) time.Duration {
	policy, _ := r.cfg.Endpoint.Policy(platform)
	return 2*r.cfg.Timing.LeaseTTL + policy.Timeout
}

func errStopping() *events.Error {
	return events.Unavailable(events.RetrySoon, "this worker is stopping")
}

// Stats are counters since the start and gauges of now.
type Stats struct {
	Exchanges map[Exchange]int64 // requests to token endpoints
	Journaled int64              // answers that had to wait in the journal
	Replayed  int64              // answers settled from the journal
	Waiting   int64              // journal records at the last look
	// Unreadable counts what could not be read at that look: a record, or a
	// whole journal.
	Unreadable int64
	Flights    int             // refreshes that run
	Circuits   map[string]bool // by platform that was exchanged with: is its circuit open?
}

// Exchange labels an exchange count.
type Exchange struct {
	Platform string
	Outcome  rotation.Outcome
}

type stats struct {
	journaled, replayed, waiting, unreadable atomic.Int64
	undone, doubtful                         atomic.Int64 // outcomes that a stop left: in a journal, nowhere

	mu        sync.Mutex // guards exchanges
	exchanges map[Exchange]int64
}

func (s *stats) exchanged(platform string, o rotation.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exchanges[Exchange{platform, o}]++
}

// Stats returns a snapshot.
func (r *Refresher) Stats() Stats {
	s := &r.stats
	out := Stats{
		Journaled: s.journaled.Load(), Replayed: s.replayed.Load(), Waiting: s.waiting.Load(), Unreadable: s.unreadable.Load(),
		Flights: r.flights.running(), Exchanges: map[Exchange]int64{}, Circuits: r.gates.open(r.clock.Now()),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(out.Exchanges, s.exchanges)
	return out
}
