package natskv_test

import (
	"encoding/json"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/ledger/storetest"
	"github.com/tokenbus/tokenbus/natskv"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/refresh/journaltest"
)

func dueIs(t *testing.T, s *natskv.Store, what string, want ...string) {
	t.Helper()
	eventually(t, what, func() bool {
		keys, err := s.Due(t.Context(), time.Now(), 100)
		must(t, err)
		var got []string
		for _, k := range keys {
			got = append(got, k.String())
		}
		return strings.Join(got, " ") == strings.Join(want, " ")
	})
}

func overdue(key string, by time.Duration) account.Account {
	a := storetest.Minimal(mustKey(key))
	a.RefreshAt = time.Now().Add(-by)
	return a
}

// TestIndexFindsWhatWasThere: a store that is opened later knows all accounts,
// also one that was written by other means and one that can't be read.
func TestIndexFindsWhatWasThere(t *testing.T) {
	js := single(t)
	c := config(js)
	first := newStore(t, c)
	must(t, first.Create(t.Context(), overdue("openai.a", time.Hour)))
	must(t, first.Create(t.Context(), overdue("openai.b", 2*time.Hour)))
	kv, err := js.KeyValue(t.Context(), c.Prefix+"_ACCOUNTS")
	must(t, err)
	plain, err := json.Marshal(overdue("openai.plain", 3*time.Hour))
	must(t, err)
	for key, value := range map[string][]byte{"openai.plain": plain, "openai.damaged": []byte("{"), "openai.moved": plain, "no-account": plain} {
		_, err = kv.Put(t.Context(), key, value)
		must(t, err)
	}
	var logs syncBuffer
	c.Logger = logTo(&logs)
	second := newStore(t, c)
	dueIs(t, second, "the index is complete", "openai.plain", "openai.b", "openai.a")
	for _, part := range []string{"account=openai.damaged", "account=openai.moved", "key=no-account"} {
		if !strings.Contains(logs.String(), part) {
			t.Errorf("the log doesn't say %q:\n%s", part, logs.String())
		}
	}
	for _, key := range []string{"openai.damaged", "openai.moved"} {
		if _, err := second.Get(t.Context(), mustKey(key)); err == nil || errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("Get of %s: got error %v", key, err)
		}
		if err := second.Create(t.Context(), storetest.Minimal(mustKey(key))); err == nil {
			t.Errorf("%s was overwritten", key)
		}
	}
	second.Close()
	second.Close()
}

// TestNewerSchema: a document that a newer program wrote is read, but not
// rewritten without the fields that we don't know.
func TestNewerSchema(t *testing.T) {
	s := newStore(t, config(single(t)))
	a := storetest.Minimal(mustKey("openai.a"))
	a.SchemaVersion = account.SchemaVersion + 1
	must(t, s.Create(t.Context(), a))
	_, err := s.Get(t.Context(), a.Key)
	must(t, err)
	if _, err := s.Update(t.Context(), a.Key, account.Guard{}, account.Change{BumpRev: true}); err == nil || !strings.Contains(err.Error(), "schema version") {
		t.Errorf("Update: got error %v", err)
	}
}

// TestWrittenDocumentIsTheStores: a later update rests on what was written, not
// on what callers have done since to what they gave and got.
func TestWrittenDocumentIsTheStores(t *testing.T) {
	s := newStore(t, config(single(t)))
	a := storetest.Minimal(mustKey("openai.a"))
	a.Credentials = []byte("sealed")
	must(t, s.Create(t.Context(), a))
	a.Credentials[0] = 'X'
	for _, label := range []string{"first", "second", "third"} {
		b, err := s.Update(t.Context(), a.Key, account.Guard{}, account.Change{Fields: account.FieldLabel, To: account.Account{Label: label}, At: time.Now()})
		must(t, err)
		if b.Label != label || string(b.Credentials) != "sealed" {
			t.Errorf("updated to %+v", b)
		}
		b.Credentials[0] = 'X'
	}
	stored, err := s.Get(t.Context(), a.Key)
	must(t, err)
	if stored.Label != "third" || string(stored.Credentials) != "sealed" {
		t.Errorf("stored is %+v", stored)
	}
}

// TestTimesToLive: tombstones and cache entries end by themselves, living
// accounts never.
func TestTimesToLive(t *testing.T) {
	js := single(t)
	c := config(js)
	s, cache := newStore(t, c), newCache(t, c)
	a := storetest.Minimal(mustKey("openai.a"))
	must(t, s.Create(t.Context(), a))
	ttl := func(bucket string) time.Duration {
		t.Helper()
		stream, err := js.Stream(t.Context(), "KV_"+c.Prefix+bucket)
		must(t, err)
		m, err := stream.GetLastMsgForSubject(t.Context(), "$KV."+c.Prefix+bucket+".openai.a")
		must(t, err)
		text := m.Header.Get(jetstream.MsgTTLHeader)
		if text == "" {
			return 0
		}
		d, err := time.ParseDuration(text)
		must(t, err)
		return d
	}
	change := func(c account.Change) {
		t.Helper()
		_, err := s.Update(t.Context(), a.Key, account.Guard{}, c)
		must(t, err)
	}
	near := func(got, want time.Duration) bool { return got > want-time.Minute && got < want+time.Minute }
	if got := ttl("_ACCOUNTS"); got != 0 {
		t.Errorf("living: got TTL %v", got)
	}
	deleted := account.Account{DeletedAt: time.Now(), AnnouncePending: true}
	change(account.Change{Fields: account.FieldDeleted | account.FieldAnnounce, To: deleted})
	if got := ttl("_ACCOUNTS"); got != 0 {
		t.Errorf("tombstone that is to be announced: got TTL %v", got)
	}
	change(account.Change{Fields: account.FieldAnnounce})
	if got := ttl("_ACCOUNTS"); !near(got, 30*24*time.Hour) {
		t.Errorf("tombstone: got TTL %v, want 30 days", got)
	}
	change(account.Change{Fields: account.FieldDeleted, To: account.Account{}})
	if got := ttl("_ACCOUNTS"); got != 0 {
		t.Errorf("living again: got TTL %v", got)
	}
	for _, e := range []struct {
		until time.Duration
		want  time.Duration
	}{{-time.Hour, time.Hour}, {2 * time.Hour, 3 * time.Hour}} {
		rev := account.Rev(e.want)
		_, err := cache.Put(t.Context(), a.Key, ledger.Entry{Rev: rev, Until: time.Now().Add(e.until)})
		must(t, err)
		if got := ttl("_CACHE"); !near(got, e.want) {
			t.Errorf("cache entry that ends in %v: got TTL %v, want %v", e.until, got, e.want)
		}
	}
}

func TestDamagedCacheEntry(t *testing.T) {
	js := single(t)
	c := config(js)
	cache, key := newCache(t, c), mustKey("openai.a")
	kv, err := js.KeyValue(t.Context(), c.Prefix+"_CACHE")
	must(t, err)
	_, err = kv.PutString(t.Context(), "openai.a", "")
	must(t, err)
	if _, err := cache.Get(t.Context(), key); err == nil || errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("damaged: got error %v", err)
	}
	if ok, err := cache.Put(t.Context(), key, ledger.Entry{Rev: 1}); err != nil || !ok {
		t.Errorf("Put over a damaged entry: got %v, %v", ok, err)
	}
	// A later program's format: it can't be read, but its rev holds.
	later := natskv.EncodeEntry(ledger.Entry{Rev: 5})
	later[0]++
	_, err = kv.Put(t.Context(), "openai.a", later)
	must(t, err)
	if _, err := cache.Get(t.Context(), key); err == nil || errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("later format: got error %v", err)
	}
	for rev, want := range map[account.Rev]bool{4: false, 5: false} {
		if ok, err := cache.Put(t.Context(), key, ledger.Entry{Rev: rev}); err != nil || ok != want {
			t.Errorf("Put of rev %d over a later format's rev 5: got %v, %v", rev, ok, err)
		}
	}
}

func TestTornJournalRecord(t *testing.T) {
	js := single(t)
	c := config(js)
	j := newJournal(t, c)
	must(t, j.Put(t.Context(), journaltest.Record(mustKey("openai.b"), "r1")))
	kv, err := js.KeyValue(t.Context(), c.Prefix+"_JOURNAL")
	must(t, err)
	_, err = kv.PutString(t.Context(), "openai.a.r1", `{"key":`)
	must(t, err)
	_, err = kv.PutString(t.Context(), "foreign", "x")
	must(t, err)
	records, err := j.Records(t.Context(), account.Key{})
	if len(records) != 1 {
		t.Errorf("got %d records, want the good one", len(records))
	}
	for _, where := range []string{"key openai.a.r1", "key foreign"} {
		if err == nil || !strings.Contains(err.Error(), where) {
			t.Errorf("error %v doesn't name %q", err, where)
		}
	}
	_, err = j.Records(t.Context(), mustKey("openai.a"))
	if torn, ok := errors.AsType[*refresh.TornError](err); !ok || torn.Key != mustKey("openai.a") {
		t.Errorf("got error %v, want a TornError of openai.a", err)
	}
	if _, err := j.Records(t.Context(), mustKey("openai.b")); err != nil {
		t.Errorf("another account: got error %v", err)
	}
	if _, err := kv.Get(t.Context(), "openai.a.r1"); err != nil {
		t.Errorf("the torn record: %v", err)
	}
}

// restartable hands out connections to whichever server runs now.
type restartable struct{ s atomic.Pointer[server.Server] }

func (r *restartable) InProcessConn() (net.Conn, error) { return r.s.Load().InProcessConn() }

// TestIndexSurvivesRestart: the server goes away and comes back; the index
// learns of what was written since.
func TestIndexSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	var r restartable
	run := func() *server.Server {
		s := start(t, func(o *server.Options) { o.StoreDir = dir })
		r.s.Store(s)
		return s
	}
	first := run()
	nc, err := nats.Connect("", nats.InProcessServer(&r), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	must(t, err)
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	t.Cleanup(func() { nc.Close(); <-closed })
	js, err := jetstream.New(nc)
	must(t, err)
	s := newStore(t, config(js))
	must(t, s.Create(t.Context(), overdue("openai.a", time.Hour)))
	dueIs(t, s, "the first account is due", "openai.a")

	first.Shutdown()
	first.WaitForShutdown()
	if keys, err := s.Due(t.Context(), time.Now(), 10); err != nil || len(keys) != 1 {
		t.Errorf("while the server is down: got %v, %v, want what was known", keys, err)
	}
	run()
	eventually(t, "the store takes writes again", func() bool {
		err := s.Create(t.Context(), overdue("openai.b", 2*time.Hour))
		return err == nil || errors.Is(err, ledger.ErrConflict)
	})
	dueIs(t, s, "the second account is due", "openai.b", "openai.a")
}
