package natskv_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/ledger/storetest"
	"github.com/tokenbus/tokenbus/natskv"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/refresh/journaltest"
)

// constructors opens each kind of bucket.
var constructors = map[string]func(context.Context, natskv.Config) error{
	"ACCOUNTS": func(ctx context.Context, c natskv.Config) error {
		s, err := natskv.NewStore(ctx, c)
		if err == nil {
			s.Close()
		}
		return err
	},
	"CACHE":   func(ctx context.Context, c natskv.Config) error { _, err := natskv.NewCache(ctx, c); return err },
	"LEASES":  func(ctx context.Context, c natskv.Config) error { _, err := natskv.NewLeases(ctx, c); return err },
	"JOURNAL": func(ctx context.Context, c natskv.Config) error { _, err := natskv.NewJournal(ctx, c); return err },
	"META":    func(ctx context.Context, c natskv.Config) error { _, err := natskv.NewValues(ctx, c); return err },
}

func TestConfig(t *testing.T) {
	for name, open := range constructors {
		err := open(t.Context(), natskv.Config{Prefix: "a.b", Replicas: 7, LeaseTTL: time.Hour, Timeout: -1})
		for _, part := range []string{"no JetStream", `prefix "a.b"`, "replicas 7", "lease TTL 1h0m0s", "timeout -1ns"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: error %v doesn't say %q", name, err, part)
			}
		}
	}
}

// TestBuckets: buckets are those that other clients of JetStream KV know, and
// opening them again changes nothing and says nothing.
func TestBuckets(t *testing.T) {
	js := single(t)
	var logs syncBuffer
	c := natskv.Config{JetStream: js, Logger: logTo(&logs)}
	for range 2 {
		for name, open := range constructors {
			must(t, open(t.Context(), c))
			kv, err := js.KeyValue(t.Context(), "TOKENBUS_"+name)
			must(t, err)
			status, err := kv.Status(t.Context())
			must(t, err)
			want := map[string]time.Duration{"LEASES": natskv.DefaultLeaseTTL}[name]
			if status.TTL() != want || status.History() != 1 {
				t.Errorf("%s: got TTL %v and history %d, want %v and 1", name, status.TTL(), status.History(), want)
			}
			stream, err := js.Stream(t.Context(), "KV_TOKENBUS_"+name)
			must(t, err)
			if direct := stream.CachedInfo().Config.AllowDirect; direct != (name == "CACHE") {
				t.Errorf("%s: direct reads are allowed: %v", name, direct)
			}
		}
	}
	if logs.String() != "" {
		t.Errorf("got the log:\n%s", logs.String())
	}
}

// TestDecisionsAskTheLeader: also where the bucket allows direct reads, which
// a follower may answer, nothing but a lookup in the cache makes one.
func TestDecisionsAskTheLeader(t *testing.T) {
	js := single(t)
	c := config(js)
	for name := range constructors {
		kv := jetstream.KeyValueConfig{Bucket: c.Prefix + "_" + name} // allows direct reads
		if name == "LEASES" {
			kv.TTL = time.Minute
		}
		_, err := js.CreateKeyValue(t.Context(), kv)
		must(t, err)
	}
	var direct, leader atomic.Int64
	count := func(subject string, n *atomic.Int64) {
		_, err := js.Conn().Subscribe(subject, func(*nats.Msg) { n.Add(1) })
		must(t, err)
	}
	count("$JS.API.DIRECT.GET.>", &direct)
	count("$JS.API.STREAM.MSG.GET.>", &leader)
	must(t, js.Conn().Flush())

	ctx, key := t.Context(), mustKey("openai.a")
	s, j, l, cache := newStore(t, c), newJournal(t, c), newLeases(t, c), newCache(t, c)
	must(t, s.Create(ctx, storetest.Minimal(key)))
	_, err := s.Get(ctx, key)
	must(t, err)
	_, err = s.Update(ctx, key, account.Guard{}, account.Change{BumpRev: true})
	must(t, err)
	must(t, j.Put(ctx, journaltest.Record(key, "r1")))
	_, err = j.Records(ctx, key)
	must(t, err)
	tok, err := l.Acquire(ctx, "openai.a", "me")
	must(t, err)
	_, err = l.Read(ctx, "openai.a")
	must(t, err)
	must(t, l.Release(ctx, "openai.a", tok))
	_, err = l.Acquire(ctx, "openai.a", "next") // over the mark of the release
	must(t, err)
	for _, rev := range []account.Rev{1, 2} {
		_, err = cache.Put(ctx, key, ledger.Entry{Rev: rev})
		must(t, err)
	}
	const reads = 5 // Get, Records, Read, Acquire, the first Put; Update and the second Put rest on what came before
	eventually(t, "all reads have been counted", func() bool { return leader.Load() >= reads })
	if direct.Load() != 0 {
		t.Errorf("%d direct reads, want none", direct.Load())
	}
	_, err = cache.Get(ctx, key)
	must(t, err)
	eventually(t, "the look-up in the cache is a direct read", func() bool { return direct.Load() == 1 })
}

// TestWritesRestOnWhatWasSeen: an update by who has just seen the document reads
// nothing, and loses nothing of what others wrote in between.
func TestWritesRestOnWhatWasSeen(t *testing.T) {
	js := single(t)
	c, ctx, key := config(js), t.Context(), mustKey("openai.a")
	s, other, cache, otherCache := newStore(t, c), newStore(t, c), newCache(t, c), newCache(t, c)
	var reads atomic.Int64
	_, err := js.Conn().Subscribe("$JS.API.STREAM.MSG.GET.>", func(*nats.Msg) { reads.Add(1) })
	must(t, err)
	must(t, js.Conn().Flush())
	label := func(s *natskv.Store, rev account.Rev, label string) (account.Account, error) {
		return s.Update(ctx, key, account.Guard{Rev: rev}, account.Change{Fields: account.FieldLabel, To: account.Account{Label: label}})
	}
	must(t, s.Create(ctx, storetest.Minimal(key)))
	for i := range 3 {
		_, err = label(s, 1, fmt.Sprint("mine ", i))
		must(t, err)
	}
	must(t, js.Conn().Flush())
	if n := reads.Load(); n != 0 {
		t.Errorf("%d reads before writes of a document that this process wrote last", n)
	}
	// Another worker writes: what was seen is not the newest any more.
	_, err = other.Update(ctx, key, account.Guard{Rev: 1}, account.Change{Fields: account.FieldFailure, To: account.Account{Failures: 7}})
	must(t, err)
	a, err := label(s, 1, "mine")
	if err != nil || a.Failures != 7 || a.Label != "mine" {
		t.Errorf("after another's write: %d failures, label %q, %v", a.Failures, a.Label, err)
	}
	_, err = other.Update(ctx, key, account.Guard{Rev: 1}, account.Change{BumpRev: true})
	must(t, err)
	if _, err = label(s, 1, "late"); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("the guard of what was seen holds, the document's doesn't: %v", err)
	}
	_, err = other.Update(ctx, key, account.Guard{Rev: 2}, account.Change{BumpRev: true})
	must(t, err)
	if _, err = label(s, 3, "newer than seen"); err != nil {
		t.Errorf("the document's guard holds, that of what was seen doesn't: %v", err)
	}
	// The shared cache: an older entry never replaces a newer one.
	for _, rev := range []account.Rev{1, 2} {
		if ok, err := cache.Put(ctx, key, ledger.Entry{Rev: rev, Value: []byte("v")}); !ok || err != nil {
			t.Errorf("put rev %d: %v, %v", rev, ok, err)
		}
	}
	if ok, err := otherCache.Put(ctx, key, ledger.Entry{Rev: 9, Value: []byte("v9")}); !ok || err != nil {
		t.Errorf("put rev 9: %v, %v", ok, err)
	}
	if ok, err := cache.Put(ctx, key, ledger.Entry{Rev: 5, Value: []byte("v5")}); ok || err != nil {
		t.Errorf("rev 5 is put over rev 9: %v, %v", ok, err)
	}
	if e, err := cache.Get(ctx, key); err != nil || e.Rev != 9 {
		t.Errorf("the entry has rev %d, %v", e.Rev, err)
	}
}

// TestDeletedByOtherMeans: what an operator deletes or purges with other tools
// leaves a mark; the key is free again all the same.
func TestDeletedByOtherMeans(t *testing.T) {
	js := single(t)
	for name, remove := range map[string]func(jetstream.KeyValue, string) error{
		"deleted": func(kv jetstream.KeyValue, key string) error { return kv.Delete(t.Context(), key) },
		"purged":  func(kv jetstream.KeyValue, key string) error { return kv.Purge(t.Context(), key) },
	} {
		t.Run(name, func(t *testing.T) {
			c, ctx, key := config(js), t.Context(), mustKey("openai.a")
			s, cache := newStore(t, c), newCache(t, c)
			must(t, s.Create(ctx, storetest.Minimal(key)))
			_, err := cache.Put(ctx, key, ledger.Entry{Rev: 9, Value: []byte("v")})
			must(t, err)
			for _, bucket := range []string{"_ACCOUNTS", "_CACHE"} {
				kv, err := js.KeyValue(ctx, c.Prefix+bucket)
				must(t, err)
				must(t, remove(kv, key.String()))
			}
			if _, err := s.Get(ctx, key); !errors.Is(err, ledger.ErrNotFound) {
				t.Errorf("store: got %v, want %v", err, ledger.ErrNotFound)
			}
			if _, err := s.Update(ctx, key, account.Guard{}, account.Change{}); !errors.Is(err, ledger.ErrNotFound) {
				t.Errorf("update: got %v, want %v", err, ledger.ErrNotFound)
			}
			if _, err := cache.Get(ctx, key); !errors.Is(err, ledger.ErrNotFound) {
				t.Errorf("cache: got %v, want %v", err, ledger.ErrNotFound)
			}
			eventually(t, "it is no longer listed", func() bool {
				list, err := s.List(ctx, ledger.ListQuery{Limit: 10})
				must(t, err)
				return len(list) == 0
			})
			must(t, s.Create(ctx, storetest.Minimal(key)))
			ok, err := cache.Put(ctx, key, ledger.Entry{Rev: 1})
			if err != nil || !ok {
				t.Errorf("put over a %s entry: got %v, %v", name, ok, err)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	oneLine := func(t *testing.T, err error, part string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got error %v, want one line that says %q", err, part)
		}
	}
	t.Run("no JetStream", func(t *testing.T) {
		js := connect(t, start(t, func(o *server.Options) { o.JetStream = false }))
		for _, open := range constructors {
			oneLine(t, open(t.Context(), config(js)), "JetStream is not enabled on the NATS server: start nats-server with -js")
		}
	})
	t.Run("bucket is gone", func(t *testing.T) {
		js := single(t)
		c := config(js)
		s := newStore(t, c)
		must(t, js.DeleteStream(t.Context(), "KV_"+c.Prefix+"_ACCOUNTS"))
		oneLine(t, s.Create(t.Context(), storetest.Minimal(mustKey("openai.a"))), "no server answers for stream KV_")
		_, err := s.Get(t.Context(), mustKey("openai.a"))
		oneLine(t, err, "stream not found")
		if errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("a bucket that is gone is no proof that the account never was: %v", err)
		}
	})
	t.Run("no answer", func(t *testing.T) {
		srv := start(t, nil)
		js := connect(t, srv)
		c := config(js)
		c.Timeout = 100 * time.Millisecond
		l := newLeases(t, c)
		srv.Shutdown()
		_, err := l.Acquire(t.Context(), "openai.a", "me")
		oneLine(t, err, "no answer from JetStream in time")
		for _, certain := range []error{refresh.ErrHeld, lease.ErrLost, ledger.ErrNotFound} {
			if errors.Is(err, certain) {
				t.Errorf("%v claims a certain outcome", err)
			}
		}
	})
}
