package natskv_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/ledger/storetest"
	"github.com/tokenbus/tokenbus/natskv"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/refresh/journaltest"
)

// filler is a stream that takes what room there is.
const filler = "FILLER"

// TestNoRoom: with no room left, whatever took it, a write is an error that
// says so and what to do, and changes nothing; and with room again all is well.
func TestNoRoom(t *testing.T) {
	limit := func(change func(*jetstream.StreamConfig)) func(*testing.T, jetstream.JetStream, string) func() {
		return func(t *testing.T, js jetstream.JetStream, bucket string) func() {
			stream, err := js.Stream(t.Context(), bucket)
			must(t, err)
			was := stream.CachedInfo().Config
			limited := was
			change(&limited)
			_, err = js.UpdateStream(t.Context(), limited)
			must(t, err)
			return func() { _, err := js.UpdateStream(t.Context(), was); must(t, err) }
		}
	}
	fill := func(t *testing.T, js jetstream.JetStream, _ string) func() {
		_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: filler, Subjects: []string{"fill"}})
		must(t, err)
		for _, size := range []int{100 << 10, 10 << 10, 1 << 10, 100, 1} {
			for err = nil; err == nil; {
				_, err = js.Publish(t.Context(), "fill", make([]byte, size))
			}
		}
		return func() { must(t, js.DeleteStream(t.Context(), filler)) }
	}
	one := func(change func(*server.Options)) func(*testing.T) jetstream.JetStream {
		return func(t *testing.T) jetstream.JetStream { return connect(t, start(t, change)) }
	}
	for _, c := range []struct {
		name  string
		start func(*testing.T) jetstream.JetStream
		shortage
	}{
		{"max_bytes", one(nil), shortage{limit(func(s *jetstream.StreamConfig) { s.MaxBytes = 500 }), "the stream's max_bytes is reached; nats stream edit KV_", false}},
		{"max_msgs", one(nil), shortage{limit(func(s *jetstream.StreamConfig) { s.MaxMsgs = 1 }), "the stream's max_msgs is reached; nats stream edit KV_", true}},
		{"server", one(func(o *server.Options) { o.JetStreamMaxStore = 1 << 20 }), shortage{fill, "the server's storage is used up; raise max_file_store", false}},
		{"account", withAccountLimit, shortage{fill, "our NATS account has used up its limits", false}},
		{"cluster, max_bytes", func(t *testing.T) jetstream.JetStream { return rig.NewNATSCluster(t, 3).Connect(0) },
			shortage{limit(func(s *jetstream.StreamConfig) { s.MaxBytes = 500 }), "the stream's max_bytes is reached; nats stream edit KV_", false}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			js := c.start(t)
			t.Run("store", func(t *testing.T) { testStoreNoRoom(t, js, c.shortage) })
			t.Run("journal", func(t *testing.T) { testJournalNoRoom(t, js, c.shortage) })
			t.Run("cache", func(t *testing.T) { testCacheNoRoom(t, js, c.shortage) })
			t.Run("leases", func(t *testing.T) { testLeasesNoRoom(t, js, c.shortage) })
		})
	}
}

// withAccountLimit starts a server whose global account may store one MiB.
func withAccountLimit(t *testing.T) jetstream.JetStream {
	s := start(t, nil)
	must(t, s.GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": {
		MaxMemory: -1, MaxStore: 1 << 20, MaxStreams: -1, MaxConsumers: -1, MaxAckPending: -1, MemoryMaxStreamBytes: -1, StoreMaxStreamBytes: -1,
	}}))
	return connect(t, s)
}

// shortage is one way in which a bucket can be out of room.
type shortage struct {
	// fill takes all room of the bucket's stream and returns what gives it
	// back.
	fill     func(t *testing.T, js jetstream.JetStream, stream string) func()
	says     string
	replaces bool // a message may still take the place of another
}

// refuses wants the error of a write that was not carried out.
func (s shortage) refuses(t *testing.T, err error) {
	t.Helper()
	wantLine(t, err, "JetStream has no room: "+s.says)
	for _, certain := range []error{ledger.ErrNotFound, ledger.ErrConflict, refresh.ErrHeld, lease.ErrLost} {
		if errors.Is(err, certain) {
			t.Errorf("%v is taken for %v", err, certain)
		}
	}
}

func testStoreNoRoom(t *testing.T, js jetstream.JetStream, none shortage) {
	ctx, c := t.Context(), config(js)
	s := newStore(t, c)
	old := storetest.Minimal(mustKey("openai.old"))
	must(t, s.Create(ctx, old))
	grown := account.Change{Fields: account.FieldCredentials, To: account.Account{Credentials: make([]byte, 8<<10)}}
	free := none.fill(t, js, "KV_"+c.Prefix+"_ACCOUNTS")

	added := storetest.Minimal(mustKey("openai.new"))
	added.Credentials = make([]byte, 8<<10)
	none.refuses(t, s.Create(ctx, added))
	if _, err := s.Get(ctx, added.Key); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("what was refused: got %v", err)
	}
	if !none.replaces {
		_, err := s.Update(ctx, old.Key, account.Guard{Rev: 1}, grown)
		none.refuses(t, err)
		got, err := s.Get(ctx, old.Key)
		must(t, err)
		if asJSON(t, got) != asJSON(t, old) {
			t.Errorf("a refused update: got %s, want what was there", asJSON(t, got))
		}
	}
	free()
	must(t, s.Create(ctx, added))
	_, err := s.Update(ctx, old.Key, account.Guard{Rev: 1}, grown)
	must(t, err)
}

func testJournalNoRoom(t *testing.T, js jetstream.JetStream, none shortage) {
	ctx, c := t.Context(), config(js)
	j := newJournal(t, c)
	old, added := journaltest.Record(mustKey("openai.old"), "r1"), journaltest.Record(mustKey("openai.new"), "r2")
	added.Answer = make([]byte, 8<<10)
	must(t, j.Put(ctx, old))
	free := none.fill(t, js, "KV_"+c.Prefix+"_JOURNAL")
	none.refuses(t, j.Put(ctx, added))
	records, err := j.Records(ctx, account.Key{})
	must(t, err)
	if len(records) != 1 || records[0].RotationID != old.RotationID {
		t.Errorf("got %d records, want the one that was there", len(records))
	}
	// What is settled can go all the same.
	must(t, j.Delete(ctx, old.Key, old.RotationID))
	free()
	must(t, j.Put(ctx, added))
	records, err = j.Records(ctx, added.Key)
	if err != nil || len(records) != 1 {
		t.Errorf("with room again: got %d records and %v", len(records), err)
	}
}

func testCacheNoRoom(t *testing.T, js jetstream.JetStream, none shortage) {
	ctx, c := t.Context(), config(js)
	cache, key := newCache(t, c), mustKey("openai.a")
	_, err := cache.Put(ctx, mustKey("openai.old"), ledger.Entry{Rev: 1})
	must(t, err)
	free := none.fill(t, js, "KV_"+c.Prefix+"_CACHE")
	ok, err := cache.Put(ctx, key, ledger.Entry{Rev: 1, Value: make([]byte, 8<<10)})
	none.refuses(t, err)
	if ok {
		t.Error("a refused entry counts as put")
	}
	if _, err := cache.Get(ctx, key); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("what was refused: got %v", err)
	}
	free()
	ok, err = cache.Put(ctx, key, ledger.Entry{Rev: 1, Value: make([]byte, 8<<10)})
	if err != nil || !ok {
		t.Errorf("with room again: got %v, %v", ok, err)
	}
}

func testLeasesNoRoom(t *testing.T, js jetstream.JetStream, none shortage) {
	ctx, c := t.Context(), config(js)
	c.LeaseTTL = natskv.DefaultLeaseTTL
	l := newLeases(t, c)
	_, err := l.Acquire(ctx, "openai.old", "me")
	must(t, err)
	free := none.fill(t, js, "KV_"+c.Prefix+"_LEASES")
	owner := fmt.Sprintf("%08192d", 1)
	_, err = l.Acquire(ctx, "openai.a", owner)
	none.refuses(t, err)
	if _, err := l.Read(ctx, "openai.a"); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("what was refused: got %v", err)
	}
	free()
	_, err = l.Acquire(ctx, "openai.a", owner)
	must(t, err)
}
