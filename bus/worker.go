package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/events"
)

// DefaultMaxInFlight is how many requests of each service may wait at once
// unless configured.
const DefaultMaxInFlight = 4096

// requestService is the name under which `nats micro` finds the request service.
const requestService = "tokenbus"

// WorkerConfig configures what a worker does on the bus. Conn, Subjects,
// Tokens, Accounts and Observer are needed.
type WorkerConfig struct {
	Conn     *nats.Conn
	Subjects events.Subjects
	Tokens   Tokens
	Accounts Accounts
	Observer Observer
	// ID is the worker's, for discovery.
	ID string
	// Version of the program, as semantic versioning has it; "" means 0.0.0.
	Version string
	// MaxInFlight is how many requests of each service may wait at once; one
	// more is answered with unavailable. 0 means DefaultMaxInFlight. Requests
	// that are answered from memory don't count.
	MaxInFlight int
	// Logger may be nil.
	Logger *slog.Logger
}

// Worker is a worker on the bus: it answers requests and verbs, and listens to
// what other workers announce.
type Worker struct {
	conn      *nats.Conn
	requests  *service
	admin     *service
	broadcast *broadcasts
	refreshed *refreshedListener
	catchUps  *catchUps

	drainOnce, closeOnce sync.Once
	drainErr             error
}

// StartWorker starts everything. It needs no connection yet: whatever it
// can't do at once it does when there is one. The streams should exist.
func StartWorker(ctx context.Context, cfg WorkerConfig) (*Worker, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(cfg.Conn)
	if err != nil {
		return nil, fmt.Errorf("start worker on the bus: %w", err)
	}
	w := &Worker{conn: cfg.Conn, catchUps: newCatchUps(cfg.Conn, cfg.Subjects, cfg.MaxInFlight)}
	// Hear bumps before any request is answered.
	if w.broadcast, err = hearBroadcasts(cfg.Conn, cfg.Subjects, cfg.Observer, cfg.Logger); err != nil {
		return nil, err
	}
	w.refreshed = startRefreshedListener(js, cfg.Subjects, cfg.Observer, cfg.Logger)
	if err := w.startServices(cfg); err != nil {
		w.Close()
		return nil, err
	}
	// When this returns the worker is found. A connection that is lost just now
	// finds it again by itself.
	if err := flush(ctx, cfg.Conn); err != nil && (ctx.Err() != nil || cfg.Conn.IsConnected()) {
		w.Close()
		return nil, fmt.Errorf("start worker on the bus: %w", err)
	}
	return w, nil
}

func (c WorkerConfig) complete() (WorkerConfig, error) {
	if c.Conn == nil || c.Subjects == (events.Subjects{}) || c.Tokens == nil || c.Accounts == nil || c.Observer == nil {
		return c, errors.New("start worker on the bus: want a connection, subjects, tokens, accounts and an observer")
	}
	if c.MaxInFlight < 0 {
		return c, fmt.Errorf("start worker on the bus: %d requests at once: want 1 or more", c.MaxInFlight)
	}
	c.MaxInFlight = cmp.Or(c.MaxInFlight, DefaultMaxInFlight)
	c.Version = cmp.Or(c.Version, "0.0.0")
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

func (w *Worker) startServices(cfg WorkerConfig) (err error) {
	common := serviceConfig{
		conn: cfg.Conn, version: cfg.Version, maxInFlight: cfg.MaxInFlight, log: cfg.Logger,
		own:      ownPrefix(cfg.Subjects),
		metadata: map[string]string{"worker": cfg.ID},
	}
	admin := common
	admin.name, admin.queue = events.AdminService, adminQueue
	admin.description = "Manages the accounts whose tokens tokenbus keeps alive"
	admin.endpoints = adminEndpoints(cfg.Subjects, cfg.Accounts)
	if w.admin, err = startService(admin); err != nil {
		return err
	}
	requests := common
	requests.name, requests.queue = requestService, events.QueueGroup
	requests.description = "Answers with a living access token of an OAuth account"
	requests.endpoints = []endpoint{tokenEndpoint(cfg.Subjects, cfg.Tokens), w.catchUps.endpoint()}
	w.requests, err = startService(requests)
	return err
}

// Refused returns how many token requests were answered with unavailable, since
// the start, because too many waited already or the worker was stopping.
func (w *Worker) Refused() int64 { return w.requests.refused.Load() }

// Drain takes no more requests and verbs, answers those that were taken and
// waits for them. Bumps and refreshed events are still heard. When ctx ends,
// what is under way is cancelled, and the error says how much that was.
//
// Further calls do nothing and return what the first returned.
func (w *Worker) Drain(ctx context.Context) error {
	w.drainOnce.Do(func() {
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, s := range []*service{w.requests, w.admin} {
			if s != nil {
				wg.Go(func() { errs[i] = s.drain(ctx) })
			}
		}
		wg.Wait()
		w.drainErr = errors.Join(errs...)
	})
	return w.drainErr
}

// Close ends everything, without Drain also what is under way, and waits until
// nothing is called any more. The connection stays open. Further calls do
// nothing.
func (w *Worker) Close() {
	w.closeOnce.Do(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		_ = w.Drain(now)
		w.catchUps.close()
		if w.refreshed != nil {
			w.refreshed.close()
		}
		w.broadcast.close()
	})
}
