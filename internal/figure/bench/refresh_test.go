package bench

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"golang.org/x/sync/errgroup"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/figure"
	"github.com/tokenbus/tokenbus/internal/rig"
)

// BenchmarkRefresh has one worker refresh accounts that are all due, before an
// endpoint that answers at once. The rival does nothing but the writes of it, of
// the same sizes, to the same servers, as many accounts at once: what a commit
// costs there.
func BenchmarkRefresh(b *testing.B) {
	b.Run("r1", func(b *testing.B) {
		f := newFleet(b, fleetConfig{durable: true})
		f.refreshes(figure.Size(40, 1000), f.bareJetStream)
	})
	b.Run("r3", func(b *testing.B) {
		f := newFleet(b, fleetConfig{durable: true, servers: 3})
		f.refreshes(figure.Size(20, 1000), f.bareJetStream)
	})
	b.Run("mongo", func(b *testing.B) {
		f := newFleet(b, fleetConfig{durable: true, mongo: rig.Mongo(b), redis: rig.Redis(b)})
		f.refreshes(figure.Size(40, 400), f.bareDatabases)
	})
}

// refreshes compares n refreshes with the writes of as many. bare is given an
// account that was refreshed, and the accounts that the rival writes; what it
// returns makes the writes of one.
func (f *fleet) refreshes(n int, bare func(of account.Key, keys []account.Key) writes) {
	const concurrent = 32 // as newFleet has it
	b := f.b
	w := f.worker()
	first := keys(b, 0, 1)
	f.due(w, first)
	f.pass(w, first)
	x := keys(b, 1, n)
	write := bare(first[0], x)
	from := 1 + n
	figure.Compare(b,
		func() []float64 {
			accounts := keys(b, from, n)
			from += n
			if f.cfg.mongo != "" { // the stand-in looks at every document, the rival's are n
				_, err := mongoAccounts(b, f.cfg.mongo).DeleteMany(b.Context(), bson.M{})
				check(b, err)
			}
			f.due(w, accounts)
			return []float64{float64(n) / f.pass(w, accounts).Seconds()}
		},
		func() []float64 {
			began := time.Now()
			each(b, concurrent, x, func(key account.Key) error { return write(b.Context(), key.String()) })
			return []float64{float64(n) / time.Since(began).Seconds()}
		},
		figure.Column{Unit: "refreshes/s", AtLeast: 0.5})
}

// BenchmarkDuePass has one worker refresh accounts that are all due, before an
// endpoint that takes its time. The rival is arithmetic: what as many exchanges
// take of which max_concurrent are under way at any time.
func BenchmarkDuePass(b *testing.B) {
	const concurrent = 64
	n := figure.Size(200, 10_000)
	exchange := time.Duration(figure.Size(20, 300)) * time.Millisecond
	f := newFleet(b, fleetConfig{exchange: exchange, concurrent: concurrent})
	w := f.worker()
	accounts := keys(b, 0, n)
	f.due(w, accounts)
	round := 0
	figure.Compare(b,
		func() []float64 {
			if round++; round > 1 {
				f.dueAgain(w, accounts)
			}
			return []float64{f.pass(w, accounts).Seconds()}
		},
		func() []float64 { return []float64{(time.Duration(n) * exchange / concurrent).Seconds()} },
		figure.Column{Unit: "s", AtMost: 1.2})
}

// due puts new accounts that are due.
func (f *fleet) due(w *worker, accounts []account.Key) {
	b := f.b
	b.Helper()
	for part := range slices.Chunk(accounts, 64) { // more at once outlast the cache's patience
		each(b, len(part), part, func(key account.Key) error {
			access, refresh := f.endpoint.NewGrant(key.ID())
			return w.put(key, access, refresh, time.Now().Add(time.Minute))
		})
		w.announced()
	}
}

// dueAgain makes accounts due that were refreshed: it is an hour later for them.
func (f *fleet) dueAgain(w *worker, accounts []account.Key) {
	f.b.Helper()
	each(f.b, 64, accounts, func(key account.Key) error {
		a, err := w.store.Get(f.b.Context(), key)
		if err != nil {
			return err
		}
		for _, at := range []*time.Time{&a.IssuedAt, &a.ExpiresAt, &a.RefreshAt} {
			*at = at.Add(-time.Hour)
		}
		_, err = w.store.Update(f.b.Context(), key, account.Guard{Rev: a.Rev},
			account.Change{Fields: account.FieldCredentials | account.FieldRefreshAt, To: a, At: a.UpdatedAt})
		return err
	})
}

// pass has the worker refresh accounts that are due, and returns how long that
// took from the first that began until everybody was told of all. Each is
// refreshed once, and nothing else is.
func (f *fleet) pass(w *worker, due []account.Key) time.Duration {
	b := f.b
	b.Helper()
	before, versions := f.endpoint.Exchanges(), f.versions(w, due)
	ctx, cancel := context.WithCancel(b.Context())
	ran := make(chan struct{})
	go func() { defer close(ran); _ = w.Run(ctx) }()
	defer func() { cancel(); <-ran }()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var began time.Time
	for late := time.Now().Add(3 * patience); ; <-tick.C {
		flights := w.Provider.Stats().Flights
		if began.IsZero() && flights > 0 {
			began = time.Now()
		}
		if f.endpoint.Exchanges()-before >= len(due) && flights == 0 {
			break
		}
		if time.Now().After(late) {
			b.Fatalf("%d of %d accounts were refreshed", f.endpoint.Exchanges()-before, len(due))
		}
	}
	w.announced()
	took := time.Since(began)
	if n := f.endpoint.Exchanges() - before; n != len(due) || f.endpoint.Reused() > 0 {
		b.Fatalf("%d exchanges for %d accounts", n, len(due))
	}
	for i, version := range f.versions(w, due) {
		if version != versions[i]+1 {
			b.Fatalf("%s went from version %d to %d", due[i], versions[i], version)
		}
	}
	return took
}

func (f *fleet) versions(w *worker, accounts []account.Key) []account.Version {
	f.b.Helper()
	list := make([]account.Version, len(accounts))
	numbers := make(map[account.Key]int, len(accounts))
	for i, key := range accounts {
		numbers[key] = i
	}
	each(f.b, 16, accounts, func(key account.Key) error {
		a, err := w.store.Get(f.b.Context(), key)
		list[numbers[key]] = a.Version
		return err
	})
	return list
}

// each calls do for each account, so many at once.
func each(b *testing.B, atOnce int, accounts []account.Key, do func(key account.Key) error) {
	b.Helper()
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, key := range accounts {
		g.Go(func() error {
			if err := do(key); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			return nil
		})
	}
	check(b, g.Wait())
}
