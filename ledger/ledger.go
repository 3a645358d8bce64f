package ledger

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/clock"
	"github.com/tokenbus/tokenbus/rotation"
)

// Patience with what a document is kept in. A cache that is slower than this is
// worth no more than one that is down.
const (
	CacheTimeout = 500 * time.Millisecond
	StoreTimeout = 5 * time.Second
)

// Config is what a [Ledger] is made of. All fields are required.
type Config struct {
	Store     Store
	Cache     Cache
	Publisher Publisher
	Sealer    Sealer
	Policy    func(platform string) (rotation.Policy, bool)
	WorkerID  string
	Timing    rotation.Timing
	MaxL1     int            // accounts in L1
	Random    func() float64 // in [0,1)
	Clock     clock.Clock
	Logger    *slog.Logger
}

// Ledger keeps the documents. Use [New]. All methods are safe for concurrent
// use.
type Ledger struct {
	cfg   Config
	log   *slog.Logger
	l1    *l1
	reads singleflight.Group
	// What requests may spend on the cache and on the store: on a check of what
	// is in hand, on an account that this process knows nothing of, and on the
	// first look of a refresh. Nothing that saves something asks a budget.
	cache, check, stranger, first *backoff.Budget
	// pending is what looks for lost announcements have seen; the sweep's own.
	pending map[account.Key]account.Rev

	base  context.Context // of what runs in the background; ends with Abort
	abort context.CancelFunc
	tasks tasks
}

// New returns a Ledger.
func New(cfg Config) *Ledger {
	l := &Ledger{cfg: cfg, log: cfg.Logger, l1: newL1(cfg.MaxL1), pending: map[account.Key]account.Rev{}}
	l.cache = l.budget("the shared cache", CacheTimeout, known, nil)
	l.stranger = l.budget("the account store", StoreTimeout, strangers, nil)
	l.first = l.budget("the account store", StoreTimeout, known, l.stranger)
	// A check beside requests has a third of what L1 lives for, and must be
	// through before. What requests themselves wait for is in Load.
	l.check = l.budget("the account store", min(max(CacheTimeout, cfg.Timing.L1MaxAge/6), StoreTimeout), known, nil)
	l.base, l.abort = context.WithCancel(context.Background())
	return l
}

// How many may wait for their turn at the store or the shared cache: requests
// for accounts that nobody here knows are turned away beyond that. All others
// are bounded by what the bus takes, and wait: after a cut nothing may be served
// unchecked because very many are to be checked at once.
const (
	strangers = 1024
	known     = 1 << 14
)

func (l *Ledger) budget(name string, timeout time.Duration, waiting int, beside *backoff.Budget) *backoff.Budget {
	b, err := backoff.NewBudget(backoff.BudgetConfig{Name: name, Timeout: timeout, Waiting: waiting, Beside: beside, Now: l.cfg.Clock.Now, Rand: l.cfg.Random})
	if err != nil {
		panic("ledger: " + err.Error()) // its defaults are valid
	}
	return b
}

// Now is the wall clock at the precision that stores keep.
func (l *Ledger) Now() time.Time { return rotation.Millis(l.cfg.Clock.Now()) }

// tasks are what runs beside everything else.
type tasks struct {
	mu     sync.Mutex // guards closed, and that nothing starts after it
	closed bool
	wg     sync.WaitGroup
}

// background runs f on its own goroutine, which Close waits for. Once that
// waits, f is not run at all: it must be something that is made up for
// elsewhere, as an announcement is by the sweep.
func (l *Ledger) background(f func(ctx context.Context)) {
	l.tasks.mu.Lock()
	defer l.tasks.mu.Unlock()
	if !l.tasks.closed {
		l.tasks.wg.Go(func() { f(l.base) })
	}
}

// Close waits for what is being told in the background, and lets nothing more
// begin.
func (l *Ledger) Close() {
	l.tasks.mu.Lock()
	l.tasks.closed = true
	l.tasks.mu.Unlock()
	l.tasks.wg.Wait()
}

// Abort ends what is being told in the background. The sweep makes up for it.
func (l *Ledger) Abort() { l.abort() }

// Bounded bounds a call that nobody waits for longer than for the store.
func Bounded(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, StoreTimeout)
	defer cancel()
	return f(ctx)
}

// Rules are the rules of time for the account's platform, now.
func (l *Ledger) Rules(key account.Key) rotation.Rules {
	policy, _ := l.cfg.Policy(key.Platform())
	return rotation.Rules{Now: l.cfg.Clock.Now(), Timing: l.cfg.Timing, Policy: policy, Random: l.cfg.Random()}
}

// ofOneAccount reports whether err is about one account and says nothing
// against what it is kept in.
func ofOneAccount(err error) bool {
	return absent(err) || errors.Is(err, ErrUnreadable) || errors.Is(err, ErrDamaged)
}

// absent reports whether err says that something is not there.
func absent(err error) bool { return errors.Is(err, ErrNotFound) }
