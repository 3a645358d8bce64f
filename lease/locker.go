package lease

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/refresh"
)

// Config is what a [Locker] needs.
type Config struct {
	// Backend keeps the leases. Required.
	Backend Backend
	// Owner is this process, for people who look into the backend; each hold
	// gets a name of its own from it. Required.
	Owner string
	// Margin is how much earlier than the TTL a lease stops to be trusted, for
	// clocks that tick at different rates. Default: a tenth of the TTL. It
	// must be less than half the TTL.
	Margin time.Duration
	// Elapsed is a clock that only rises, from any start. Default: the
	// monotonic clock. One that goes on while the machine is suspended keeps
	// a lease from being trusted after the machine wakes.
	Elapsed func() time.Duration
	// Logger hears of renewals that fail. Default: discard.
	Logger *slog.Logger
}

// Locker implements refresh.Locker over a [Backend]. It is safe for
// concurrent use and owns no goroutine of its own; each lease has one, from
// Acquire until Release.
type Locker struct {
	backend Backend
	owner   string
	ttl     time.Duration
	margin  time.Duration
	elapsed func() time.Duration
	log     *slog.Logger
}

var _ refresh.Locker = (*Locker)(nil)

// New returns a Locker, or an error that names every problem of cfg.
func New(cfg Config) (*Locker, error) {
	var problems []error
	l := &Locker{backend: cfg.Backend, owner: cfg.Owner, margin: cfg.Margin, elapsed: cfg.Elapsed, log: cfg.Logger}
	if cfg.Backend == nil {
		problems = append(problems, errors.New("no backend"))
	} else if l.ttl = cfg.Backend.TTL(); l.ttl < time.Millisecond {
		problems = append(problems, fmt.Errorf("backend has a TTL of %v", l.ttl))
	}
	if cfg.Owner == "" {
		problems = append(problems, errors.New("no owner"))
	}
	if l.margin == 0 {
		l.margin = l.ttl / 10
	}
	if l.margin < 0 || l.ttl > 0 && l.margin >= l.ttl/2 {
		problems = append(problems, fmt.Errorf("margin %v is not between 0 and half the TTL of %v", cfg.Margin, l.ttl))
	}
	if l.elapsed == nil {
		start := time.Now()
		l.elapsed = func() time.Duration { return time.Since(start) }
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("lease config: %w", errors.Join(problems...))
	}
	return l, nil
}

// Acquire takes the lease on the account, or returns refresh.ErrHeld. An
// attempt whose outcome is unknown is repeated once, under the same owner, so
// that it finds what the first may have left. It takes a third of the TTL at
// most. The lease outlives ctx: only Release ends it, or the end of this
// process.
func (l *Locker) Acquire(ctx context.Context, key account.Key) (refresh.Lease, error) {
	h := &hold{locker: l, name: key.String(), owner: l.owner + "/" + rand.Text()}
	bounded, cancel := context.WithTimeout(ctx, l.ttl/3)
	defer cancel()
	started := l.elapsed()
	token, err := l.backend.Acquire(bounded, h.name, h.owner)
	if unknown(err) && bounded.Err() == nil {
		// The trust still counts from the first attempt.
		token, err = l.backend.Acquire(bounded, h.name, h.owner)
	}
	if err != nil {
		return nil, fmt.Errorf("acquire lease on %s: %w", key, err)
	}
	h.start(token, started)
	return h, nil
}

// unknown reports whether err leaves open what became of a call.
func unknown(err error) bool {
	return err != nil && !errors.Is(err, refresh.ErrHeld) && !errors.Is(err, ledger.ErrNotFound) && !errors.Is(err, ErrLost)
}
