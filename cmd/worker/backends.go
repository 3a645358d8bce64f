package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/mongostore"
	"github.com/tokenbus/tokenbus/natskv"
	"github.com/tokenbus/tokenbus/rediskv"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/seal"
)

// The dependencies as /readyz names them.
const (
	depCache     = "cache"
	depJetStream = "jetstream"
	depNATS      = "nats"
	depSpool     = "spool"
	depStore     = "store"
	depWorker    = "worker" // this process: it answers requests
)

// backends are the ports that URLs choose.
type backends struct {
	store   *storeGate
	cache   ledger.Cache
	leases  lease.Backend
	journal refresh.Journal

	mongo *mongostore.Store // nil unless --store-url names one
	redis *rediskv.Client   // nil unless --cache-url names one
}

// retrying is how often a dependency that is out of reach is tried again.
func retrying() backoff.Policy {
	return backoff.Policy{Base: 250 * time.Millisecond, Cap: 5 * time.Second, Floor: 50 * time.Millisecond}
}

// openDatabases checks the URLs of databases. It waits for none of them.
func (w *worker) openDatabases() error {
	ctx := context.Background()
	if w.cfg.StoreURL != onNATS {
		if err := w.openMongo(ctx); err != nil {
			if _, ok := errors.AsType[*net.DNSError](err); !ok {
				return settingError("store-url", err)
			}
			w.health.set(depStore, err) // setUp tries again
		}
	}
	if w.cfg.CacheURL != onNATS {
		client, err := rediskv.Open(ctx, rediskv.Config{URL: w.cfg.CacheURL, Prefix: w.cfg.SubjectPrefix, LeaseTTL: w.cfg.LeaseTTL, Logger: w.log})
		if err != nil {
			return settingError("cache-url", err)
		}
		w.redis = client
		w.onClose(func() { _ = client.Close() })
		w.cache, w.leases = client.Cache(), client.Leases()
	}
	return nil
}

func (w *worker) openMongo(ctx context.Context) error {
	s, err := mongostore.Open(ctx, mongostore.Config{URL: w.cfg.StoreURL, Logger: w.log})
	if err != nil {
		return err
	}
	w.mongo = s
	w.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
		defer cancel()
		_ = s.Close(ctx) // what is cut off is reads
	})
	w.store = &storeGate{kind: inMongoDB, store: s, values: s, sealer: &w.sealer}
	return nil
}

// setUp makes what the worker needs in NATS, and waits until it has it. What
// keeps it waiting is in the health.
func (w *worker) setUp(ctx context.Context) error {
	err := backoff.Retry(ctx, retrying(), func(ctx context.Context) error {
		if err := w.reachStore(ctx); err != nil {
			return err
		}
		err := w.openBuckets(ctx)
		w.health.set(depJetStream, err)
		return err
	})
	if err != nil {
		return err
	}
	if w.publisher, err = bus.NewPublisher(bus.PublisherConfig{Conn: w.conn, Subjects: w.subjects, Source: w.id, Logger: w.log}); err != nil {
		return err
	}
	w.locker, err = lease.New(lease.Config{Backend: w.leases, Owner: w.id, Logger: w.log})
	return err
}

// reachStore opens the store, if it isn't open yet. With MongoDB that needs no
// more than its address. One in JetStream is checked before it is opened, which
// makes it where it is missing. It may be called again after an error, unless
// that is marked [backoff.Permanent].
func (w *worker) reachStore(ctx context.Context) (err error) {
	if w.store != nil {
		return nil
	}
	defer func() {
		if err != nil {
			w.health.set(depStore, err)
		}
	}()
	if w.cfg.StoreURL != onNATS {
		return w.openMongo(ctx)
	}
	if w.conn.Status() != nats.CONNECTED {
		return errors.New("waits for NATS, which is not connected")
	}
	cfg := w.bucketConfig()
	values, err := natskv.NewValues(ctx, cfg)
	if err != nil {
		return err
	}
	gate := &storeGate{kind: inJetStream, values: values, fleet: values, sealer: &w.sealer}
	if err := gate.check(ctx); err != nil {
		if wrong := w.wrongStore(err); wrong != nil {
			return backoff.Permanent(wrong)
		}
		return err
	}
	s, err := natskv.NewStore(ctx, cfg)
	if err != nil {
		return err
	}
	w.onClose(s.Close)
	gate.store = s
	w.store = gate
	return nil
}

// wrongStore returns the error that ends the worker if err says that store or
// keyset isn't this fleet's, else nil.
func (w *worker) wrongStore(err error) error {
	if errors.Is(err, seal.ErrOtherKeyset) {
		return w.foreignKeyset(err)
	}
	if _, ok := errors.AsType[*otherStore](err); ok {
		return settingError("store-url", err)
	}
	return nil
}

func (w *worker) bucketConfig() natskv.Config {
	return natskv.Config{
		JetStream: w.js, LeaseTTL: w.cfg.LeaseTTL, Replicas: w.cfg.NATSReplicas, PlacementTags: w.cfg.NATSTags, Logger: w.log,
	}
}

// openBuckets makes streams and buckets, or adopts those that are there. It
// may be called again after an error.
func (w *worker) openBuckets(ctx context.Context) error {
	if err := bus.EnsureStreams(ctx, w.js, bus.StreamsConfig{
		Subjects: w.subjects, Replicas: w.cfg.NATSReplicas, PlacementTags: w.cfg.NATSTags, Logger: w.log,
	}); err != nil {
		return err
	}
	journal, err := natskv.NewJournal(ctx, w.bucketConfig())
	if err != nil {
		return err
	}
	w.journal = journal
	if w.store.fleet == nil { // MongoDB; the store in JetStream has it already
		values, err := natskv.NewValues(ctx, w.bucketConfig())
		if err != nil {
			return err
		}
		w.store.fleet = values
	}
	if w.cfg.CacheURL != onNATS {
		return nil
	}
	cache, err := natskv.NewCache(ctx, w.bucketConfig())
	if err != nil {
		return err
	}
	leases, err := natskv.NewLeases(ctx, w.bucketConfig())
	if err != nil {
		return err
	}
	w.cache, w.leases = cache, leases
	return nil
}

// watchBackends keeps the health of store, cache and JetStream up to date.
func (w *worker) watchBackends(ctx context.Context, tasks *sync.WaitGroup) {
	probeCache := w.probeCache
	if w.redis != nil {
		probeCache = w.redis.Ping
	}
	tasks.Go(func() { w.health.watch(ctx, depCache, w.finally("cache-url", probeCache)) })
	tasks.Go(func() { w.health.watch(ctx, depStore, w.finally("store-url", w.probeStore)) })
	tasks.Go(func() { w.health.watch(ctx, depSpool, func(context.Context) error { return w.spool.Check() }) })
	tasks.Go(func() {
		w.health.watch(ctx, depJetStream, func(ctx context.Context) error { _, err := w.js.AccountInfo(ctx); return err })
	})
	if w.mongo != nil {
		tasks.Go(func() {
			err := backoff.Retry(ctx, retrying(), func(ctx context.Context) error {
				if err := w.store.check(ctx); err != nil {
					return err
				}
				return w.mongo.EnsureIndexes(ctx)
			})
			if err != nil && ctx.Err() == nil {
				w.log.Error("indexes could not be made; look-ups of due accounts are slow", "error", err)
			}
		})
	}
}

// probeStore asks the store for a small value.
func (w *worker) probeStore(ctx context.Context) error {
	if err := w.store.check(ctx); err != nil {
		return err
	}
	if w.mongo != nil {
		return w.mongo.Ping(ctx)
	}
	_, err := w.store.values.CheckValue(ctx, keysetCheck, nil)
	return err
}

// probeCache asks the cache for an entry that isn't there.
func (w *worker) probeCache(ctx context.Context) error {
	key, err := account.NewKey("tokenbus", "probe")
	if err != nil {
		return err
	}
	if _, err := w.cache.Get(ctx, key); err != nil && !errors.Is(err, ledger.ErrNotFound) {
		return err
	}
	return nil
}

// finally makes a dependency that refuses us at the start end the worker:
// trying again would not help. Once it has taken us, a refusal is an outage.
func (w *worker) finally(setting string, probe func(context.Context) error) func(context.Context) error {
	var taken atomic.Bool
	return func(ctx context.Context) error {
		err := probe(ctx)
		wrong := w.wrongStore(err)
		switch {
		case err == nil:
			taken.Store(true)
		case wrong != nil:
			w.fail(wrong)
		case !taken.Load() && (mongostore.Final(err) || rediskv.Final(err)):
			w.fail(settingError(setting, err))
		}
		return err
	}
}

// foreignKeyset is the error of a keyset that isn't this fleet's.
func (w *worker) foreignKeyset(err error) error {
	return settingError("keyset", fmt.Errorf("%q: %w; give the fleet's own keyset", w.cfg.keysetPath(), err))
}
