package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/mongostore"
	"github.com/tokenbus/tokenbus/seal"
)

// resealPatience is how long reseal waits for the store to be there.
const resealPatience = 30 * time.Second

// resealCommand is the command reseal: it seals every account in the store with
// the keyset's primary key. Workers of the fleet may run meanwhile.
func (a app) resealCommand(ctx context.Context, cmd *cli.Command) error {
	cfg, err := a.config(cmd)
	if err != nil {
		return err
	}
	ctx, stop := a.signals(ctx)
	defer stop()
	cfg.NATSListen, cfg.HTTPAddr, cfg.CacheURL = none, none, onNATS
	w, err := newWorker(cfg, newLogger(a.stderr, cfg.LogLevel, cfg.LogFormat, a.env), hooks{})
	if err != nil {
		return err
	}
	steps := []func() error{w.loadKeyset, w.openDatabases}
	if cfg.StoreURL == onNATS && cfg.Embedded() {
		steps = []func() error{w.loadKeyset, w.openDataDir, w.openServer}
	}
	if err := w.open(steps...); err != nil {
		return err
	}
	defer w.close()
	if err := w.openStore(ctx); err != nil {
		return err
	}
	n, total, err := ledger.Reseal(ctx, w.store, &w.sealer)
	if err != nil {
		return fmt.Errorf("reseal: %d of the accounts seen so far (%d) were resealed; run it again: %w", n, total, err)
	}
	_, err = fmt.Fprintf(a.stdout, "resealed %d of %d accounts with key %d\n", n, total, w.sealer.now().Primary())
	return err
}

// loadKeyset loads the keyset and never makes one: with a new one nothing that is
// stored could be opened.
func (w *worker) loadKeyset() error {
	path := w.cfg.keysetPath()
	sealer, err := seal.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%q: there is no such file; name the fleet's keyset", path)
	}
	if err != nil {
		return settingError("keyset", err)
	}
	w.sealer.p.Store(sealer)
	return nil
}

// openStore opens the store alone, and checks that it takes us.
func (w *worker) openStore(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, resealPatience, fmt.Errorf("the store was not there within %s", resealPatience))
	defer cancel()
	if w.cfg.StoreURL == onNATS {
		if err := w.connect(ctx); err != nil {
			return err
		}
	}
	return backoff.Retry(ctx, retrying(), func(ctx context.Context) error {
		if err := w.reachStore(ctx); err != nil {
			return err
		}
		err := w.store.check(ctx)
		switch {
		case errors.Is(err, seal.ErrOtherKeyset):
			return backoff.Permanent(w.foreignKeyset(err))
		case mongostore.Final(err):
			return backoff.Permanent(settingError("store-url", err))
		}
		return err
	})
}
