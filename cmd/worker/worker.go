package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v3"

	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/clock"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/seal"
	"github.com/tokenbus/tokenbus/spool"
)

// worker is one worker, from its configuration to its end: [openWorker], then
// [worker.run], or [worker.close] if it never runs.
type worker struct {
	cfg      config
	id, host string
	log      *slog.Logger
	clock    clock.Clock // nil: the system's
	subjects events.Subjects
	registry *prometheus.Registry
	health   *health

	sealer   keyring
	endpoint endpoints
	spool    *spool.Spool
	server   *bus.Server  // nil: NATS is elsewhere
	http     net.Listener // nil: none
	pprof    net.Listener // nil: none

	backends
	conn      *nats.Conn
	natsError atomic.Pointer[error] // why there is no connection; nil while nothing has said
	js        jetstream.JetStream
	publisher ledger.Publisher
	locker    *lease.Locker

	hooks   hooks
	hangups <-chan os.Signal // each asks to read files anew; nil: nobody does
	// serving is closed once requests are answered.
	serving chan struct{}
	// fail ends the worker for a reason; run sets it.
	fail    context.CancelCauseFunc
	closers []func()
}

// hooks let the demo watch a worker and tests get between its parts. All may be
// nil.
type hooks struct {
	core      func(core) core                         // between the bus and the provider
	store     func(ledger.Store) ledger.Store         // between the provider and the store
	publisher func(ledger.Publisher) ledger.Publisher // between the provider and the bus
	drained   func(w *worker)                         // after the drain, with everything still open
}

// openWorker does everything that needs nothing but this machine: it checks
// files, takes the data folder, opens the listeners and starts the embedded
// server. An error is a [*usageError], and then nothing is left open.
func openWorker(cfg config, log *slog.Logger, h hooks) (*worker, error) {
	w, err := newWorker(cfg, log, h)
	if err != nil {
		return nil, err
	}
	err = w.open(w.openDataDir, w.openProviders, w.openKeyset, w.openSpool, w.openDatabases, w.openHTTP, w.openPprof, w.openServer)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// newWorker returns a worker that has nothing open yet.
func newWorker(cfg config, log *slog.Logger, h hooks) (*worker, error) {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	w := &worker{cfg: cfg, id: cfg.WorkerID, host: host, hooks: h, serving: make(chan struct{}), fail: func(error) {}}
	if w.id == "" {
		w.id = newWorkerID(host)
	}
	w.log = log.With("worker", w.id)
	w.registry = newRegistry(w.id)
	w.health = newHealth(w.log, cfg.scrubber(), w.registry, depWorker, depNATS, depJetStream, depStore, depCache, depSpool)
	if w.clock, err = testClock(); err != nil {
		return nil, err
	}
	if w.subjects, err = events.NewSubjects(cfg.SubjectPrefix); err != nil {
		return nil, settingError("subject-prefix", err)
	}
	return w, nil
}

// open takes the steps one after the other. After an error nothing is left
// open.
func (w *worker) open(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			w.close()
			return err
		}
	}
	return nil
}

// onClose notes how to undo what was just done.
func (w *worker) onClose(f func()) { w.closers = append(w.closers, f) }

// close undoes everything, the newest first. It may be called again.
func (w *worker) close() {
	for len(w.closers) > 0 {
		last := len(w.closers) - 1
		f := w.closers[last]
		w.closers = w.closers[:last]
		f()
	}
}

func (w *worker) openDataDir() error {
	lock, err := openDataDir(w.cfg.DataDir)
	if err == nil {
		w.onClose(func() { _ = lock.Close() })
	}
	return err
}

func (w *worker) openProviders() error {
	read, err := w.readProviders()
	if err != nil {
		return err
	}
	w.endpoint.set(read)
	w.warnOfUnknown(read.variables)
	return nil
}

func (w *worker) openKeyset() error {
	path := w.cfg.keysetPath()
	load := func(path string) (s *seal.Sealer, created bool, err error) { s, err = seal.Load(path); return }
	if w.cfg.Embedded() {
		load = seal.LoadOrCreate
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && hasData(w.cfg.DataDir) {
			return settingError("keyset", fmt.Errorf("%q is missing beside accounts that were sealed with it; put the fleet's copy there", path))
		}
	}
	sealer, created, err := load(path)
	if err != nil {
		return settingError("keyset", err)
	}
	if created {
		w.log.Warn("made a new keyset; keep a copy of it: without it every account must log in again", "file", path)
	}
	w.sealer.p.Store(sealer)
	return nil
}

// hasData reports whether an embedded server has kept anything in the folder.
func hasData(dir string) bool {
	entries, err := os.ReadDir(filepath.Join(dir, "nats", "jetstream"))
	return err == nil && len(entries) > 0
}

func (w *worker) openSpool() error {
	s, err := spool.Open(spool.Config{Dir: filepath.Join(w.cfg.DataDir, "spool"), Logger: w.log})
	if err != nil {
		return settingError("data-dir", err)
	}
	w.spool = s
	return nil
}

func (w *worker) openHTTP() error {
	l, err := listen("http-addr", w.cfg.HTTPAddr)
	if l != nil {
		w.http = l
		w.onClose(func() { _ = l.Close() })
	}
	return err
}

func (w *worker) openServer() error {
	if !w.cfg.Embedded() {
		return nil
	}
	server, err := bus.StartServer(bus.ServerConfig{
		Listen: w.cfg.NATSListen, DataDir: w.cfg.DataDir, Auth: bus.Auth(w.cfg.NATSAuth), Subjects: w.subjects, Logger: w.log,
	})
	if err != nil {
		return &usageError{err}
	}
	w.server = server
	w.onClose(server.Shutdown)
	if url := server.URL(); url != "" {
		w.log.Info("embedded NATS server listens", "url", url, "auth", w.cfg.NATSAuth, "operator_key", server.KeyFile(bus.RoleOperator))
	}
	return nil
}

// settingError says that the value of a setting can't be used.
func settingError(name string, err error) error {
	o := option{name: name}
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		lines[i] = "--" + name + " (" + o.env() + "): " + line
	}
	return &usageError{&retold{strings.Join(lines, "\n"), err}}
}

// retold is an error in other words.
type retold struct {
	text string
	err  error
}

func (e *retold) Error() string { return e.text }
func (e *retold) Unwrap() error { return e.err }

// newWorkerID makes up a name that no other worker has: host, process, chance.
func newWorkerID(host string) string {
	clean := strings.Map(func(r rune) rune {
		if r < 128 && (r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z') {
			return r
		}
		return '-'
	}, host)
	return fmt.Sprintf("%.40s-%d-%s", clean, os.Getpid(), strings.ToLower(rand.Text()[:6]))
}

// runCommand is the command run: a worker until a signal.
func (a app) runCommand(ctx context.Context, cmd *cli.Command) error {
	cfg, err := a.config(cmd)
	if err != nil {
		return err
	}
	cfg.Unknown = unknownVariables(a.environ())
	ctx, stop := a.signals(ctx)
	defer stop()
	hangups, stopHangups := notifyHangups()
	defer stopHangups()
	w, err := openWorker(cfg, newLogger(a.stderr, cfg.LogLevel, cfg.LogFormat, a.env), hooks{})
	if err != nil {
		return err
	}
	w.hangups = hangups
	return w.run(ctx)
}
