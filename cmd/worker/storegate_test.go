package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/mongostore"
	"github.com/tokenbus/tokenbus/natskv"
	"github.com/tokenbus/tokenbus/seal"
)

// The ends of the sentence that a worker with another store says.
const (
	otherStorePrefix = "--store-url (TOKENBUS_STORE_URL): this fleet keeps its accounts "
	otherStoreRest   = "; give the fleet's own store. If it has moved here: stop all workers, remove what says so (nats kv del TOKENBUS_META store), start again"
)

// site is a NATS server that outlives the workers of a test, and a keyset.
type site struct {
	server *server.Server
	js     jetstream.JetStream
	keyset string
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{server: rig.NATS(t), keyset: filepath.Join(t.TempDir(), "keyset.json")}
	var err error
	if s.js, err = jetstream.New(rig.Connect(t, s.server)); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Create(s.keyset); err != nil {
		t.Fatal(err)
	}
	return s
}

// config is the configuration of a worker at the site, with an account store.
func (s *site) config(t *testing.T, store string) config {
	t.Helper()
	return testConfig(t, map[string]string{
		"nats-listen": "", "nats-url": s.server.ClientURL(), "keyset": s.keyset, "store-url": store, "worker-id": "",
	})
}

// fleets returns what NATS says is the fleet's store; "" if it says nothing.
func (s *site) fleets(t *testing.T) string {
	t.Helper()
	kv, err := s.js.KeyValue(t.Context(), "TOKENBUS_META")
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	entry, err := kv.Get(t.Context(), storeCheck)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(entry.Value())
}

// contents returns all that is in an account store; "" if nothing ever was.
func (s *site) contents(t *testing.T, store string) string {
	t.Helper()
	if store == onNATS {
		stream, err := s.js.Stream(t.Context(), "KV_TOKENBUS_ACCOUNTS")
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return ""
		}
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("last message %d", stream.CachedInfo().State.LastSeq)
	}
	u, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	client, err := mongo.Connect(options.Client().ApplyURI(store))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Disconnect(context.Background())
	db := client.Database(strings.TrimPrefix(u.Path, "/"))
	names, err := db.ListCollectionNames(t.Context(), bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range []string{"accounts", "meta"} {
		cursor, err := db.Collection(name).Find(t.Context(), bson.D{}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
		if err != nil {
			t.Fatal(err)
		}
		var documents []bson.Raw
		if err := cursor.All(t.Context(), &documents); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&all, name, documents)
	}
	if len(names) == 0 {
		return ""
	}
	return all.String()
}

// ready runs a worker until everything is at hand.
func ready(t *testing.T, cfg config) *running {
	t.Helper()
	w := start(t, cfg, hooks{})
	w.serves(t)
	for _, name := range []string{depStore, depJetStream, depCache} {
		waitFor(t, w, name)
	}
	return w
}

func (r *running) endsClean(t *testing.T) {
	t.Helper()
	r.stop()
	r.ends(t)
	if r.err != nil {
		t.Errorf("stop: %v", r.err)
	}
}

// endsWith checks that the worker ends with a usage error of that text.
func (r *running) endsWith(t *testing.T, want string) {
	t.Helper()
	r.ends(t)
	if _, ok := errors.AsType[*usageError](r.err); !ok || r.err.Error() != want {
		t.Errorf("got  %v\nwant a usage error: %s", r.err, want)
	}
}

// A worker that joins with another account store ends, and neither store hears
// of it.
func TestOtherStoreEndsTheWorker(t *testing.T) {
	for _, c := range []struct{ name, fleets, its, where string }{
		{"store URL forgotten in a MongoDB fleet", rig.Mongo(t), onNATS, "in MongoDB, not in JetStream"},
		{"MongoDB in a JetStream fleet", onNATS, rig.Mongo(t), "in JetStream, not in MongoDB"},
		{"another database", rig.Mongo(t), rig.Mongo(t), "in another MongoDB database"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			first := ready(t, s.config(t, c.fleets))
			before, named := s.contents(t, c.fleets), s.fleets(t)
			if before == "" || named == "" {
				t.Fatalf("the first worker left nothing: store %q, name %q", before, named)
			}
			start(t, s.config(t, c.its), hooks{}).endsWith(t, otherStorePrefix+c.where+otherStoreRest)
			if got := s.contents(t, c.its); got != "" {
				t.Errorf("the other store was written to: %s", got)
			}
			if got := s.contents(t, c.fleets); got != before {
				t.Errorf("the fleet's store was written to: it has %s, had %s", got, before)
			}
			if got := s.fleets(t); got != named {
				t.Errorf("the fleet's store is now %q, was %q", got, named)
			}
			first.endsClean(t)
		})
	}
}

// A database that another fleet of the same keyset has used is another one too.
func TestDatabaseOfAnotherFleetEndsTheWorker(t *testing.T) {
	s, other := newSite(t), newSite(t)
	other.keyset = s.keyset
	first, second := rig.Mongo(t), rig.Mongo(t)
	ready(t, s.config(t, first)).endsClean(t)
	ready(t, other.config(t, second)).endsClean(t)
	before := s.contents(t, second)
	start(t, s.config(t, second), hooks{}).endsWith(t, otherStorePrefix+"in another MongoDB database"+otherStoreRest)
	if got := s.contents(t, second); got != before {
		t.Errorf("the other fleet's store was written to: it has %s, had %s", got, before)
	}
}

// The same database by another host name is the same store.
func TestStoreByAnotherNameIsTheSame(t *testing.T) {
	s, store := newSite(t), rig.Mongo(t)
	ready(t, s.config(t, store)).endsClean(t)
	named := s.fleets(t)
	if !strings.HasPrefix(named, "mongodb ") || len(named) != len("mongodb ")+32 {
		t.Errorf("the fleet's store is named %q", named)
	}
	ready(t, s.config(t, strings.Replace(store, "127.0.0.1", "localhost", 1))).endsClean(t)
	if got := s.fleets(t); got != named {
		t.Errorf("the fleet's store is now %q, was %q", got, named)
	}
}

// A fleet that has moved starts when the value is removed as the error says,
// and takes in no worker with the old store.
func TestMovedFleetStarts(t *testing.T) {
	s, store := newSite(t), rig.Mongo(t)
	ready(t, s.config(t, onNATS)).endsClean(t)
	start(t, s.config(t, store), hooks{}).endsWith(t, otherStorePrefix+"in JetStream, not in MongoDB"+otherStoreRest)
	kv, err := s.js.KeyValue(t.Context(), "TOKENBUS_META")
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(t.Context(), "store"); err != nil { // nats kv del TOKENBUS_META store
		t.Fatal(err)
	}
	ready(t, s.config(t, store)).endsClean(t)
	if named := s.fleets(t); !strings.HasPrefix(named, "mongodb ") {
		t.Errorf("the fleet's store is named %q", named)
	}
	start(t, s.config(t, onNATS), hooks{}).endsWith(t, otherStorePrefix+"in MongoDB, not in JetStream"+otherStoreRest)
}

// Of several workers that start a fleet together with stores of their own, those
// with one of them go on.
func TestFirstStoreWins(t *testing.T) {
	s := newSite(t)
	stores := []string{rig.Mongo(t), rig.Mongo(t), onNATS}
	var workers []*running
	for _, store := range stores {
		workers = append(workers, start(t, s.config(t, store), hooks{}))
	}
	eventually(t, func() error {
		ended := 0
		for _, w := range workers {
			select {
			case <-w.ended:
				ended++
			default:
			}
		}
		if ended != 2 {
			return fmt.Errorf("%d of 3 workers ended, want 2", ended)
		}
		return nil
	})
	for i, w := range workers {
		select {
		case <-w.ended:
			if w.err == nil || !strings.HasPrefix(w.err.Error(), otherStorePrefix) {
				t.Errorf("worker %d ended: %v", i, w.err)
			}
		default:
			w.serves(t)
			waitFor(t, w, depStore)
			w.endsClean(t)
		}
	}
}

// While NATS is away, nothing tells which store is the fleet's: the worker waits
// and leaves its own alone, and what it had is right once NATS is back.
func TestStoreWaitsForNATS(t *testing.T) {
	s, store := newSite(t), rig.Mongo(t)
	link := rig.NewProxy(t, s.server.Addr().String())
	away := func(store string) *running {
		link.Cut()
		cfg := s.config(t, store)
		cfg.NATSURL = "nats://" + link.Addr()
		w := start(t, cfg, hooks{})
		eventually(t, func() error {
			checks, _ := w.health.checks()
			for _, c := range checks {
				if c.Name == depNATS && strings.HasPrefix(c.Reason, "not connected: ") {
					return nil
				}
			}
			return fmt.Errorf("%+v", checks)
		})
		return w
	}
	w := away(store)
	if got := s.contents(t, store); got != "" {
		t.Errorf("the store was written to without NATS: %s", got)
	}
	link.Restore()
	w.serves(t)
	waitFor(t, w, depStore)
	w.endsClean(t)
	if named := s.fleets(t); !strings.HasPrefix(named, "mongodb ") {
		t.Errorf("the fleet's store is named %q", named)
	}
	w = away(onNATS)
	link.Restore()
	w.endsWith(t, otherStorePrefix+"in MongoDB, not in JetStream"+otherStoreRest)
}

// The exit code and the line of run and reseal.
func TestOtherStoreIsExitCode2(t *testing.T) {
	s := newSite(t)
	ready(t, s.config(t, rig.Mongo(t))).endsClean(t)
	for _, command := range []string{"run", "reseal"} {
		var stdout, stderr bytes.Buffer
		a := osApp()
		a.stdout, a.stderr, a.env = &stdout, &stderr, lookup(map[string]string{
			"TOKENBUS_NATS_URL": s.server.ClientURL(), "TOKENBUS_KEYSET": s.keyset, "TOKENBUS_DATA_DIR": t.TempDir(),
			"TOKENBUS_HTTP_ADDR": none, "TOKENBUS_LOG_LEVEL": "error",
		})
		code := a.run(t.Context(), []string{"worker", command})
		want := "worker: " + otherStorePrefix + "in MongoDB, not in JetStream" + otherStoreRest + "\n"
		if code != exitConfig || stderr.String() != want {
			t.Errorf("%s: code %d, stderr %s\nwant 2, %s", command, code, &stderr, want)
		}
	}
	if got := s.contents(t, onNATS); got != "" {
		t.Errorf("the JetStream store was written to: %s", got)
	}
}

// reseal works on the store it is given, and with MongoDB needs no NATS.
func TestResealNeedsNoNATSWithMongoDB(t *testing.T) {
	s, store := newSite(t), rig.Mongo(t)
	var stdout, stderr bytes.Buffer
	a := osApp()
	a.stdout, a.stderr, a.env = &stdout, &stderr, lookup(map[string]string{
		"TOKENBUS_NATS_URL": "nats://127.0.0.1:1", "TOKENBUS_KEYSET": s.keyset, "TOKENBUS_DATA_DIR": t.TempDir(),
		"TOKENBUS_STORE_URL": store, "TOKENBUS_LOG_LEVEL": "error",
	})
	if code := a.run(t.Context(), []string{"worker", "reseal"}); code != exitOK || !strings.HasPrefix(stdout.String(), "resealed 0 of 0 accounts") {
		t.Errorf("code %d, stdout %s, stderr %s", code, &stdout, &stderr)
	}
}

// checkFunc answers for each check value.
type checkFunc func() ([]byte, error)

func (f checkFunc) CheckValue(context.Context, string, []byte) ([]byte, error) { return f() }

// No call reaches the store before the check has passed: neither while NATS
// doesn't say, nor when the store is the wrong one.
func TestGateLetsNothingThrough(t *testing.T) {
	s, url := newSite(t), rig.Mongo(t)
	db, err := mongostore.Open(t.Context(), mongostore.Config{URL: url, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	fleet, err := natskv.NewValues(t.Context(), natskv.Config{JetStream: s.js})
	if err != nil {
		t.Fatal(err)
	}
	lost, err := natskv.NewValues(t.Context(), natskv.Config{JetStream: s.js, Prefix: "LOST", Timeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.Load(s.keyset)
	if err != nil {
		t.Fatal(err)
	}
	var keys keyring
	keys.p.Store(sealer)
	key, err := account.NewKey("openai", "a")
	if err != nil {
		t.Fatal(err)
	}
	gate := &storeGate{kind: inMongoDB, store: db, values: db, fleet: lost, sealer: &keys}
	calls := map[string]func() error{
		"Get":    func() error { _, err := gate.Get(t.Context(), key); return err },
		"Create": func() error { return gate.Create(t.Context(), account.Account{Key: key}) },
		"Update": func() error {
			_, err := gate.Update(t.Context(), key, account.Guard{}, account.Change{})
			return err
		},
		"Due":     func() error { _, err := gate.Due(t.Context(), time.Now(), 1); return err },
		"Pending": func() error { _, err := gate.Pending(t.Context(), 1); return err },
		"List":    func() error { _, err := gate.List(t.Context(), ledger.ListQuery{Limit: 1}); return err },
	}
	check := func(when string, final bool) {
		t.Helper()
		for name, call := range calls {
			err := call()
			_, other := errors.AsType[*otherStore](err)
			if err == nil || other != final || errors.Is(err, ledger.ErrNotFound) || errors.Is(err, ledger.ErrConflict) {
				t.Errorf("%s: %s: got %v", when, name, err)
			}
		}
		if got := s.contents(t, url); got != "" {
			t.Errorf("%s: the store was written to: %s", when, got)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := gate.check(gone); err == nil {
		t.Error("the check passed without an answer")
	}
	if err := s.js.DeleteStream(t.Context(), "KV_LOST_META"); err != nil {
		t.Fatal(err)
	}
	check("nothing answers for the bucket", false)
	gate.fleet = checkFunc(func() ([]byte, error) { return nil, ledger.ErrConflict })
	check("an error that would be an answer of the store", false)
	gate.fleet = fleet
	if _, err := fleet.CheckValue(t.Context(), storeCheck, []byte("future 7")); err != nil {
		t.Fatal(err)
	}
	check("a kind of store that we don't know", true)
	if err := gate.check(t.Context()); err == nil || !strings.Contains(err.Error(), `in "future", not in MongoDB`) {
		t.Errorf("got %v", err)
	}
}
