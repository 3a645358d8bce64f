package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/provider"
)

// core is what the bus sees of a provider.
type core interface {
	bus.Tokens
	bus.Accounts
	bus.Observer
}

// drainMargin is how much longer than one exchange a stop may take.
const drainMargin = 15 * time.Second

// run runs the worker until ctx ends, stops it cleanly and closes everything.
// Dependencies that are out of reach are waited for. A [*usageError] says that
// one of them refuses us for good.
func (w *worker) run(ctx context.Context) error {
	defer w.close()
	ctx, w.fail = context.WithCancelCause(ctx)
	defer w.fail(nil)
	// What must go on while the worker stops.
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer end()
	if w.http != nil {
		w.log.Info("http endpoints listen", "address", w.http.Addr().String())
		tasks.Go(func() { serveHTTP(background, w.http, newHandler(w.health, w.registry), w.log) })
	}
	if w.pprof != nil {
		w.log.Info("profiles can be taken", "url", "http://"+w.pprof.Addr().String()+pprofPath)
		tasks.Go(func() { serveHTTP(background, w.pprof, newPprofHandler(), w.log) })
	}
	err := w.connect(ctx)
	if err == nil {
		w.watchNATS(background, &tasks)
		err = w.setUp(ctx)
	}
	if err == nil {
		w.watchBackends(background, &tasks)
		err = w.serve(ctx, &tasks)
	}
	if final, ok := errors.AsType[*usageError](context.Cause(ctx)); ok {
		return final
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // told to stop before it had begun
	}
	return err
}

// connect makes the connection to NATS, which may come about later.
func (w *worker) connect(ctx context.Context) error {
	var connected atomic.Bool
	cfg := bus.Config{
		Server: w.server, Creds: w.cfg.NATSCreds, NKey: w.cfg.NATSNKey, CA: w.cfg.NATSCA, Cert: w.cfg.NATSCert, Key: w.cfg.NATSKey,
		Name: "tokenbus worker " + w.id, InboxPrefix: bus.InboxPrefix(bus.RoleWorker), Logger: w.log,
		Hooks: bus.Hooks{
			Connected:   func() { connected.Store(true); w.natsError.Store(nil); w.health.set(depNATS, nil) },
			Unreachable: func(err error) { w.natsError.Store(&err) },
			Refused: func(err error) {
				w.natsError.Store(&err)
				if !connected.Load() {
					w.fail(settingError("nats-url", err))
				}
			},
			Forbidden: func(err error) {
				select {
				case <-w.serving: // it was permitted once; an administrator is at work
				default:
					w.fail(w.wrongRole(err))
				}
			},
		},
	}
	if w.server == nil {
		cfg.URLs = w.cfg.natsURLs()
	}
	conn, err := bus.Connect(cfg)
	if field, ok := errors.AsType[*bus.FieldError](err); ok {
		return settingError(cmp.Or(natsSettings[field.Field], "nats-url"), field.Err)
	}
	if err != nil {
		return settingError("nats-url", err)
	}
	w.conn = conn
	w.onClose(conn.Close)
	w.js, err = jetstream.New(conn)
	return err
}

// natsSettings are the settings that fields of a [bus.Config] come from.
var natsSettings = map[string]string{"URLs": "nats-url", "Creds": "nats-creds", "NKey": "nats-nkey", "CA": "nats-ca", "Cert": "nats-cert"}

// wrongRole is the error of credentials that are let in and may not do what a
// worker must.
func (w *worker) wrongRole(err error) error {
	setting, value := "nats-url", "its user"
	switch {
	case w.cfg.NATSNKey != "":
		setting, value = "nats-nkey", strconv.Quote(w.cfg.NATSNKey)
	case w.cfg.NATSCreds != "":
		setting, value = "nats-creds", strconv.Quote(w.cfg.NATSCreds)
	}
	return settingError(setting, fmt.Errorf("%s lacks a worker's permissions (%w); give a worker's own credentials, such as worker.nk", value, err))
}

// watchNATS keeps the health of the connection up to date.
func (w *worker) watchNATS(ctx context.Context, tasks *sync.WaitGroup) {
	tasks.Go(func() {
		w.health.watch(ctx, depNATS, func(context.Context) error {
			if w.conn.Status() == nats.CONNECTED {
				return nil
			}
			if err := w.natsError.Load(); err != nil {
				return fmt.Errorf("not connected: %w", *err)
			}
			return errors.New("not connected")
		})
	})
}

// serve answers requests until ctx ends, then drains.
func (w *worker) serve(ctx context.Context, tasks *sync.WaitGroup) error {
	p, err := w.newProvider()
	if err != nil {
		return err
	}
	var c core = p
	if w.hooks.core != nil {
		c = w.hooks.core(p)
	}
	sweeping, stopSweeps := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSweeps()
	onBus, err := bus.StartWorker(ctx, bus.WorkerConfig{
		Conn: w.conn, Subjects: w.subjects, Tokens: c, Accounts: c, Observer: c, ID: w.id, Version: semver(), Logger: w.log,
	})
	if err != nil {
		return errors.Join(err, w.drain(nil, p))
	}
	w.registry.MustRegister(newProviderMetrics(metricSources{
		stats: p.Stats, platforms: func() []string { return w.endpoint.now().Platforms() }, refused: onBus.Refused,
	}))
	tasks.Go(func() {
		if err := p.Run(sweeping); err != nil && sweeping.Err() == nil {
			w.fail(fmt.Errorf("look for due refreshes: %w", err))
		}
	})
	tasks.Go(func() { w.reloadOnHangup(sweeping, p) })
	w.health.note(depWorker, nil)
	w.log.Info("worker answers requests", "version", version(), "platforms", w.endpoint.now().Platforms())
	close(w.serving)
	<-ctx.Done()
	w.health.note(depWorker, errors.New("stopping"))
	w.log.Info("worker stops; a second signal ends it at once")
	stopSweeps() // nothing more is begun ahead of need
	err = w.drain(onBus, p)
	if err == nil {
		w.log.Info("worker has stopped")
	}
	return err
}

// drain stops in two phases: first nothing more is taken and what was taken is
// answered, then the refreshes that run come to their end and are saved.
func (w *worker) drain(onBus *bus.Worker, p *provider.Provider) error {
	var errs []error
	phase := func(stop func(context.Context) error) {
		ctx, cancel := context.WithTimeout(context.Background(), w.endpoint.now().slowest+drainMargin)
		defer cancel()
		errs = append(errs, stop(ctx))
	}
	if onBus != nil {
		phase(onBus.Drain)
	}
	phase(p.Close)
	if onBus != nil {
		onBus.Close()
	}
	if w.hooks.drained != nil {
		w.hooks.drained(w)
	}
	return errors.Join(errs...)
}

func (w *worker) newProvider() (*provider.Provider, error) {
	var store ledger.Store = w.store
	if w.hooks.store != nil {
		store = w.hooks.store(store)
	}
	publisher := w.publisher
	if w.hooks.publisher != nil {
		publisher = w.hooks.publisher(publisher)
	}
	return provider.New(provider.Config{
		Store: store, Cache: w.cache, Locker: w.locker, Journal: w.journal, Spool: w.spool,
		Endpoint: &w.endpoint, Publisher: publisher, Sealer: &w.sealer,
		WorkerID: w.id, Host: w.host, Timing: w.cfg.timing(), MaxL1: w.cfg.L1MaxAccounts, Clock: w.clock, Logger: w.log,
	})
}
