package main

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
)

// fleet starts n workers in this process, the first with the NATS server.
func fleet(t *testing.T, n int, change map[string]string, h hooks) []*running {
	t.Helper()
	workers := []*running{start(t, testConfig(t, change), h)}
	workers[0].serves(t)
	for i := 1; i < n; i++ {
		cfg := workers[0].joining(t, fmt.Sprintf("w%d", i+1))
		first := workers[0].cfg
		cfg.Providers, cfg.StoreURL, cfg.CacheURL, cfg.LeaseTTL = first.Providers, first.StoreURL, first.CacheURL, first.LeaseTTL
		workers = append(workers, start(t, cfg, h))
		workers[i].serves(t)
	}
	return workers
}

// halt stops workers, the one with the NATS server last.
func halt(t *testing.T, workers []*running) {
	t.Helper()
	for _, w := range slices.Backward(workers) {
		w.stop()
		w.ends(t)
		if w.err != nil {
			t.Errorf("stop %s: %v", w.id, w.err)
		}
	}
}

// gatewayOf returns a client in the role of a gateway.
func gatewayOf(t *testing.T, w *running) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: w.server.URL(), NKey: w.server.KeyFile(bus.RoleClient)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// grant is an account at an OAuth server of the test.
type grant struct {
	server    *oauthtest.Server
	key       account.Key
	providers string // file
}

func newGrant(t *testing.T) grant {
	t.Helper()
	server, err := oauthtest.New(oauthtest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(server)
	t.Cleanup(web.Close)
	key, err := account.NewKey("demo", "alice")
	if err != nil {
		t.Fatal(err)
	}
	return grant{server, key, write(t, "providers.yaml", fmt.Sprintf("providers:\n  demo:\n    token_url: %s/token\n    client_id: c\n", web.URL))}
}

// put logs the account in by the operators' API; its token has so much left.
func (g grant) put(t *testing.T, conn *nats.Conn, left time.Duration) {
	t.Helper()
	access, refresh := g.server.NewGrant(g.key.ID())
	c := account.Credentials{AccessToken: account.NewSecret(access), RefreshToken: account.NewSecret(refresh), ExpiresAt: time.Now().Add(left)}
	subjects, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	if err := putAccount(t.Context(), conn, subjects, g.key, c); err != nil {
		t.Fatal(err)
	}
}

// putAt is put at a worker of this process.
func (g grant) putAt(t *testing.T, w *running, left time.Duration) {
	t.Helper()
	conn, err := bus.Connect(bus.Config{URLs: []string{w.server.URL()}, NKey: w.server.KeyFile(bus.RoleOperator), InboxPrefix: bus.InboxPrefix(bus.RoleOperator)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	g.put(t, conn, left)
}

// stored returns the account as the store has it.
func stored(t *testing.T, w *running, key account.Key) account.Account {
	t.Helper()
	a, err := w.store.Get(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// A thousand requests at once for an expired account, over three workers.
func TestP1StormMakesOneExchange(t *testing.T) {
	noLeaks(t)
	g := newGrant(t)
	workers := fleet(t, 3, map[string]string{"providers": g.providers}, hooks{})
	defer halt(t, workers)
	g.putAt(t, workers[0], -time.Minute)
	gw := gatewayOf(t, workers[0])
	defer gw.Close()
	const askers = 1000
	var wg sync.WaitGroup
	gate := make(chan struct{})
	var wrong atomic.Int64
	for range askers {
		wg.Go(func() {
			<-gate
			token, err := gw.Token(t.Context(), g.key)
			if err != nil || token.Version != 2 || !g.server.Valid(token.AccessToken()) {
				wrong.Add(1)
				t.Logf("version %d, %v", token.Version, err)
			}
		})
	}
	close(gate)
	wg.Wait()
	if wrong.Load() > 0 {
		t.Errorf("%d of %d got no token of version 2", wrong.Load(), askers)
	}
	if s := g.server.Stats(); s.Requests != 1 || s.Exchanges != 1 || s.Reused != 0 {
		t.Errorf("the endpoint saw %+v, want one exchange", s)
	}
}

// failingStore refuses the first writes after an exchange.
type failingStore struct {
	ledger.Store
	server *oauthtest.Server
	left   atomic.Int64
}

func (s *failingStore) Update(ctx context.Context, key account.Key, guard account.Guard, change account.Change) (account.Account, error) {
	if s.server.Exchanges() > 0 && s.left.Add(-1) >= 0 {
		return account.Account{}, errors.New("the disk is full")
	}
	return s.Store.Update(ctx, key, guard, change)
}

func TestP2StoreThatRefusesThreeWritesLosesNothing(t *testing.T) {
	noLeaks(t)
	g := newGrant(t)
	var failing *failingStore
	workers := fleet(t, 1, map[string]string{"providers": g.providers}, hooks{store: func(s ledger.Store) ledger.Store {
		failing = &failingStore{Store: s, server: g.server}
		failing.left.Store(3)
		return failing
	}})
	defer halt(t, workers)
	g.putAt(t, workers[0], -time.Minute)
	gw := gatewayOf(t, workers[0])
	defer gw.Close()
	token, err := gw.Token(t.Context(), g.key)
	if err != nil || token.Version != 2 {
		t.Errorf("version %d, %v; want 2", token.Version, err)
	}
	if failing.left.Load() >= 0 {
		t.Error("the store refused nothing")
	}
	if a := stored(t, workers[0], g.key); a.Version != 2 || a.Rotation != nil {
		t.Errorf("the store has version %d, rotation %+v; want 2 and none", a.Version, a.Rotation)
	}
	if s := g.server.Stats(); s.Exchanges != 1 || s.Reused != 0 {
		t.Errorf("the endpoint saw %+v, want one exchange", s)
	}
}

func TestP2RequesterWhoGivesUpLosesNothing(t *testing.T) {
	noLeaks(t)
	g := newGrant(t)
	workers := fleet(t, 1, map[string]string{"providers": g.providers}, hooks{})
	defer halt(t, workers)
	g.putAt(t, workers[0], -time.Minute)
	gate := make(chan struct{})
	g.server.Inject(oauthtest.HoldAfter(gate))
	gw := gatewayOf(t, workers[0])
	defer gw.Close()
	ctx, giveUp := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() { _, err := gw.Token(ctx, g.key); asked <- err }()
	eventually(t, func() error {
		if g.server.Exchanges() == 0 {
			return errors.New("no exchange")
		}
		return nil
	})
	giveUp()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Errorf("the requester got %v", err)
	}
	close(gate)
	eventually(t, func() error {
		if a := stored(t, workers[0], g.key); a.Version != 2 {
			return fmt.Errorf("the store has version %d, want 2", a.Version)
		}
		return nil
	})
}

func TestWorkerWithMongoAndRedis(t *testing.T) {
	mongo, redis := rig.Mongo(t), rig.Redis(t)
	g := newGrant(t)
	workers := fleet(t, 2, map[string]string{"providers": g.providers, "store-url": mongo, "cache-url": redis}, hooks{})
	defer halt(t, workers)
	for _, w := range workers {
		eventually(t, func() error {
			if checks, ready := w.health.checks(); !ready {
				return fmt.Errorf("%s is not ready: %+v", w.id, checks)
			}
			return nil
		})
	}
	g.putAt(t, workers[0], -time.Minute)
	gw := gatewayOf(t, workers[0])
	defer gw.Close()
	for range 20 {
		token, err := gw.Token(t.Context(), g.key)
		if err != nil || token.Version != 2 {
			t.Fatalf("version %d, %v; want 2", token.Version, err)
		}
	}
	if a := stored(t, workers[1], g.key); a.Version != 2 {
		t.Errorf("MongoDB has version %d, want 2", a.Version)
	}
	if s := g.server.Stats(); s.Exchanges != 1 || s.Reused != 0 {
		t.Errorf("the endpoint saw %+v, want one exchange", s)
	}
}

func TestWorkerWaitsForDatabases(t *testing.T) {
	w := start(t, testConfig(t, map[string]string{
		"store-url": "mongodb://127.0.0.1:1/db?serverSelectionTimeoutMS=200", "cache-url": "redis://127.0.0.1:1",
	}), hooks{})
	w.serves(t) // it answers: from the other one, where that is there
	eventually(t, func() error {
		checks, _ := w.health.checks()
		for _, c := range checks {
			out := c.Name == depStore || c.Name == depCache
			if out && !strings.Contains(c.Reason, "refused") || !out && !c.Ready {
				return fmt.Errorf("%+v", checks)
			}
		}
		return nil
	})
	w.stop()
	w.ends(t)
	if w.err != nil {
		t.Errorf("stop: %v", w.err)
	}
}

func TestDatabaseThatRefusesCredentialsEndsTheWorker(t *testing.T) {
	mongo, redis := rig.Mongo(t), rig.Redis(t, "--requirepass", "right")
	for _, c := range []struct{ setting, url string }{
		{"store-url", strings.Replace(mongo, "mongodb://", "mongodb://user:hunter2@", 1)},
		{"cache-url", strings.Replace(redis, "redis://", "redis://:hunter2@", 1)},
	} {
		t.Run(c.setting, func(t *testing.T) {
			w := start(t, testConfig(t, map[string]string{c.setting: c.url}), hooks{})
			w.ends(t)
			if _, ok := errors.AsType[*usageError](w.err); !ok || !strings.HasPrefix(w.err.Error(), "--"+c.setting+" (") {
				t.Errorf("got %v, want a usage error about --%s", w.err, c.setting)
			}
			if w.err != nil && (strings.Contains(w.err.Error(), "hunter2") || strings.Contains(w.err.Error(), "\n")) {
				t.Errorf("not one line without secrets: %v", w.err)
			}
		})
	}
}
