package mongostore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/ledger/storetest"
	"github.com/tokenbus/tokenbus/mongostore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, cfg mongostore.Config) *mongostore.Store {
	t.Helper()
	s, err := mongostore.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// database connects to the database of the URL without the store.
func database(t *testing.T, uri string) *mongo.Database {
	t.Helper()
	client, err := mongo.Connect(options.Client().ApplyURI(uri))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Disconnect(context.Background()) })
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	return client.Database(strings.TrimPrefix(u.Path, "/"))
}

func TestStore(t *testing.T) {
	for name, query := range map[string]string{
		"majority":     "",
		"linearizable": "?readConcernLevel=linearizable",
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) ledger.Store {
				s := open(t, mongostore.Config{URL: rig.Mongo(t) + query})
				if err := s.EnsureIndexes(t.Context()); err != nil {
					t.Fatal(err)
				}
				return s
			})
		})
	}
}

func testAccount(id string) account.Account {
	key, err := account.NewKey("openai", id)
	if err != nil {
		panic(err)
	}
	return storetest.Minimal(key)
}

func TestPingAndClose(t *testing.T) {
	s, err := mongostore.Open(t.Context(), mongostore.Config{URL: rig.Mongo(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := s.Ping(t.Context()); err == nil {
		t.Error("ping after Close: no error")
	}
}

func TestWrongCredentials(t *testing.T) {
	uri := strings.Replace(rig.Mongo(t), "://", "://user:hunter2@", 1)
	s := open(t, mongostore.Config{URL: uri})
	calls := []struct {
		name string
		call func() error
	}{
		{"Ping", func() error { return s.Ping(t.Context()) }},
		{"Ping once more", func() error { return s.Ping(t.Context()) }}, // perhaps while the driver's pool is closed
		{"EnsureIndexes", func() error { return s.EnsureIndexes(t.Context()) }},
		{"Get", func() error { _, err := s.Get(t.Context(), testAccount("a").Key); return err }},
		{"Create", func() error { return s.Create(t.Context(), testAccount("a")) }},
		{"List", func() error { _, err := s.List(t.Context(), ledger.ListQuery{Limit: 1}); return err }},
	}
	for _, c := range calls {
		name, err := c.name, c.call()
		if !errors.Is(err, mongostore.ErrCredentials) {
			t.Errorf("%s: got error %v, want %q", name, err, mongostore.ErrCredentials)
		}
		if strings.Contains(fmt.Sprint(err), "hunter2") {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
	}
}

func TestUnreachableAtStart(t *testing.T) {
	proxy := proxied(t)
	proxy.Cut()
	s := open(t, mongostore.Config{URL: proxy.url, Timeout: 50 * time.Millisecond})
	if err := s.Ping(t.Context()); err == nil || errors.Is(err, mongostore.ErrCredentials) {
		t.Fatalf("ping without a server: %v", err)
	}
	proxy.Restore()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); s.Ping(t.Context()) != nil; <-tick.C {
		if time.Now().After(end) {
			t.Fatal("the store doesn't find the server that has come up")
		}
	}
	proxy.Freeze()
	if err := s.Ping(t.Context()); err == nil || strings.Contains(err.Error(), "out of reach") {
		t.Errorf("ping of a server that is slow now, and was out of reach: %v", err)
	}
}

type proxy struct {
	*rig.Proxy
	url string
}

// proxied returns a new database behind a proxy. The driver looks for a lost
// server every half second.
func proxied(t *testing.T) proxy {
	t.Helper()
	u, err := url.Parse(rig.Mongo(t))
	if err != nil {
		t.Fatal(err)
	}
	p := rig.NewProxy(t, u.Host)
	u.Host, u.RawQuery = p.Addr(), "heartbeatFrequencyMS=500"
	return proxy{p, u.String()}
}

// Every write asks for a majority and the journal, every read of an account
// for what the URL says.
func TestConcerns(t *testing.T) {
	for _, level := range []string{"majority", "linearizable"} {
		t.Run(level, func(t *testing.T) {
			p := proxied(t)
			s := open(t, mongostore.Config{URL: p.url + "&readConcernLevel=" + level})
			a := testAccount("a")
			count := func(part bson.D) int {
				raw, err := bson.Marshal(part)
				if err != nil {
					t.Fatal(err)
				}
				return bytes.Count(p.Sent(), raw)
			}
			write := bson.D{{Key: "w", Value: "majority"}, {Key: "j", Value: true}}
			read := bson.D{{Key: "level", Value: level}}
			for _, c := range []struct {
				name          string
				call          func() error
				writes, reads int
			}{
				{"Create", func() error { return s.Create(t.Context(), a) }, 1, 0},
				{"Update", func() error {
					_, err := s.Update(t.Context(), a.Key, account.Guard{}, account.Change{At: time.Now()})
					return err
				}, 1, 0},
				{"Get", func() error { _, err := s.Get(t.Context(), a.Key); return err }, 0, 1},
				{"CheckValue", func() error { _, err := s.CheckValue(t.Context(), "name", []byte("x")); return err }, 1, 1},
			} {
				writes, reads := count(write), count(read)
				if err := c.call(); err != nil {
					t.Fatal(err)
				}
				if writes, reads = count(write)-writes, count(read)-reads; writes != c.writes || reads != c.reads {
					t.Errorf("%s: %d durable writes and %d %s reads, want %d and %d", c.name, writes, reads, level, c.writes, c.reads)
				}
			}
		})
	}
}

// A reply that is late leaves the outcome open, and the store gives up by its
// own timeout.
func TestLateReply(t *testing.T) {
	p := proxied(t)
	s := open(t, mongostore.Config{URL: p.url, Timeout: 300 * time.Millisecond})
	a := testAccount("a")
	if err := s.Create(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	p.Mute()
	_, err := s.Update(t.Context(), a.Key, account.Guard{Rev: 1}, account.Change{BumpRev: true, At: time.Now()})
	if err == nil || errors.Is(err, ledger.ErrConflict) || errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("Update: got error %v, want one that leaves the outcome open", err)
	}
	p.Restore()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		got, err := s.Get(t.Context(), a.Key)
		if err == nil {
			if got.Rev != 2 {
				t.Errorf("rev %d, want 2: the write went through, the reply didn't", got.Rev)
			}
			return
		}
		if time.Now().After(end) {
			t.Fatalf("Get after the network is back: %v", err)
		}
	}
}

// Somebody else's document doesn't hide ours, nor is it lost.
func TestForeignDocuments(t *testing.T) {
	uri := rig.Mongo(t)
	var logged bytes.Buffer
	s := open(t, mongostore.Config{URL: uri, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	a := testAccount("a")
	a.RefreshAt, a.AnnouncePending = time.UnixMilli(1), true
	if err := s.Create(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	c := database(t, uri).Collection("accounts")
	_, err := c.InsertMany(t.Context(), []any{
		bson.M{"_id": "no key", "status": "active", "refresh_at": time.UnixMilli(0), "announce_pending": true},
		bson.M{"_id": "a.b", "version": "text", "status": "active"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, list := range map[string]func() (int, error){
		"List":    func() (int, error) { l, err := s.List(t.Context(), ledger.ListQuery{Limit: 10}); return len(l), err },
		"Due":     func() (int, error) { l, err := s.Due(t.Context(), time.Now(), 10); return len(l), err },
		"Pending": func() (int, error) { l, err := s.Pending(t.Context(), 10); return len(l), err },
	} {
		if n, err := list(); n != 1 || err != nil {
			t.Errorf("%s: %d documents, %v, want ours", name, n, err)
		}
	}
	if !strings.Contains(logged.String(), "no key") {
		t.Errorf("no warning about the foreign document:\n%s", logged.String())
	}
	key, _ := account.ParseKey("a.b")
	if _, err := s.Get(t.Context(), key); err == nil || errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("Get of a damaged document: %v", err)
	}

	// Fields that another program has added survive our writes.
	if _, err := c.UpdateByID(t.Context(), a.Key.String(), bson.M{"$set": bson.M{"later": "field"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(t.Context(), a.Key, account.Guard{}, account.Change{Fields: ^account.Fields(0), To: a, At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	raw, err := c.FindOne(t.Context(), bson.M{"_id": a.Key.String()}).Raw()
	if err != nil || raw.Lookup("later").StringValue() != "field" {
		t.Errorf("document after our write: %v, %v", raw, err)
	}
}

func TestCheckValue(t *testing.T) {
	uri := rig.Mongo(t)
	s := open(t, mongostore.Config{URL: uri})
	if _, err := s.CheckValue(t.Context(), "keyset", nil); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("got error %v, want %q", err, ledger.ErrNotFound)
	}
	var wg sync.WaitGroup
	got := make([]string, 20)
	for i := range got {
		wg.Go(func() {
			value, err := s.CheckValue(t.Context(), "keyset", []byte{0, byte(i)})
			if err != nil {
				t.Error(err)
			}
			got[i] = string(value)
		})
	}
	wg.Wait()
	for _, value := range got {
		if value != got[0] || len(value) != 2 {
			t.Fatalf("callers got different values: %q", got)
		}
	}
	if other, err := s.CheckValue(t.Context(), "other", []byte("x")); err != nil || string(other) != "x" {
		t.Errorf("other value: %q, %v", other, err)
	}
	again := open(t, mongostore.Config{URL: uri})
	if value, err := again.CheckValue(t.Context(), "keyset", []byte("late")); err != nil || string(value) != got[0] {
		t.Errorf("after a restart: %q, %v, want %q", value, err, got[0])
	}
}
