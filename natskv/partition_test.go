package natskv_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/ledger/storetest"
	"github.com/tokenbus/tokenbus/natskv"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/refresh/journaltest"
)

// split is a cluster whose server 0 is cut off, with buckets on both sides.
type split struct {
	cluster            *rig.NATSCluster
	c                  natskv.Config
	alone, most        *natskv.Store
	aloneJ, mostJ      *natskv.Journal
	aloneL, mostL      *natskv.Leases
	aloneCache, mostCh *natskv.Cache
	key                account.Key
}

// newSplit makes a bucket of each kind with a message in it, and then cuts
// server 0 off: as a follower, or as the leader of all of them.
func newSplit(t *testing.T, leader bool) *split {
	t.Helper()
	s := &split{cluster: rig.NewNATSCluster(t, 3), key: mustKey("openai.a")}
	s.c = config(s.cluster.Connect(1))
	s.c.Replicas, s.c.LeaseTTL = 3, time.Minute
	far := s.c
	far.JetStream = s.cluster.Connect(0)
	s.most, s.mostJ, s.mostL, s.mostCh = newStore(t, s.c), newJournal(t, s.c), newLeases(t, s.c), newCache(t, s.c)
	far.Timeout = time.Second // of calls that wait for nothing
	s.alone, s.aloneJ, s.aloneL, s.aloneCache = newStore(t, far), newJournal(t, far), newLeases(t, far), newCache(t, far)
	for _, bucket := range []string{"ACCOUNTS", "CACHE", "LEASES", "JOURNAL"} {
		to := 0
		if !leader {
			to = 2
		}
		s.cluster.MoveLeader("KV_"+s.c.Prefix+"_"+bucket, to)
	}
	must(t, s.most.Create(t.Context(), storetest.Minimal(s.key)))
	_, err := s.mostCh.Put(t.Context(), s.key, ledger.Entry{Rev: 1})
	must(t, err)
	if !leader {
		// A follower takes a moment before it answers look-ups at all.
		eventually(t, "server 0, cut off, answers a look-up itself", func() bool {
			s.cluster.Isolate()
			defer s.cluster.Rejoin()
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			_, err := s.aloneCache.Get(ctx, s.key)
			return err == nil
		})
	}
	eventually(t, "the store answers on server 0", func() bool { _, err := s.alone.Get(t.Context(), s.key); return err == nil })
	s.cluster.Isolate()
	return s
}

// lookup returns what server 0 has in the cache. It passes some look-ups on to
// others, where they get lost.
func (s *split) lookup(t *testing.T) (rev account.Rev) {
	t.Helper()
	eventually(t, "server 0 answers a look-up itself", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		e, err := s.aloneCache.Get(ctx, s.key)
		rev = e.Rev
		return err == nil
	})
	return rev
}

// TestFollowerLags: what is read on a server that is cut off is old, and no
// decision comes of it.
func TestFollowerLags(t *testing.T) {
	t.Parallel()
	s, ctx := newSplit(t, false), t.Context()
	_, err := s.most.Update(ctx, s.key, account.Guard{Rev: 1}, account.Change{BumpRev: true})
	must(t, err)
	must(t, s.mostJ.Put(ctx, journaltest.Record(s.key, "r1")))
	_, err = s.mostL.Acquire(ctx, s.key.String(), "theirs")
	must(t, err)
	ok, err := s.mostCh.Put(ctx, s.key, ledger.Entry{Rev: 2})
	if err != nil || !ok {
		t.Fatalf("got %v, %v", ok, err)
	}

	// This is the lagging replica, without which the rest proves nothing.
	if rev := s.lookup(t); rev != 1 {
		t.Errorf("the look-up in the cache: got rev %d, want the old one", rev)
	}
	uncertain(t, "Get", func() error { _, err := s.alone.Get(ctx, s.key); return err })
	uncertain(t, "Create", func() error { return s.alone.Create(ctx, storetest.Minimal(mustKey("openai.b"))) })
	uncertain(t, "Update", func() error {
		_, err := s.alone.Update(ctx, s.key, account.Guard{Rev: 1}, account.Change{BumpRev: true})
		return err
	})
	uncertain(t, "Records", func() error { _, err := s.aloneJ.Records(ctx, s.key); return err })
	uncertain(t, "Acquire", func() error { _, err := s.aloneL.Acquire(ctx, s.key.String(), "mine"); return err })
	uncertain(t, "Put", func() error { _, err := s.aloneCache.Put(ctx, s.key, ledger.Entry{Rev: 3}); return err })
	// A follower that knows of no leader answers what leaders are asked for:
	// to whoever looks for work it says that there is none. Whoever is about to
	// send a refresh token again gets no such answer.
	eventually(t, "server 0 knows of no leader", func() bool {
		records, err := s.aloneJ.Records(ctx, account.Key{})
		return err == nil && len(records) == 0
	})
	uncertain(t, "Records", func() error { _, err := s.aloneJ.Records(ctx, s.key); return err })
	s.healed(t, 2, "theirs")
}

// TestDeposedLeader: a leader that is cut off goes on answering reads for a
// while, though the others have elected another and write. Nobody decides by
// it: what it answers is not written, and not believed where no write follows.
func TestDeposedLeader(t *testing.T) {
	t.Parallel()
	s, ctx := newSplit(t, true), t.Context()
	lease := func(s *natskv.Leases, owner string) error { _, err := s.Acquire(ctx, "openai.a", owner); return err }
	if a, err := s.alone.Get(ctx, s.key); err != nil || a.Rev != 1 {
		t.Errorf("a leader that has just been cut off: got rev %d and %v", a.Rev, err)
	}
	eventually(t, "the others take a write", func() bool {
		_, err := s.most.Update(ctx, s.key, account.Guard{Rev: 1}, account.Change{BumpRev: true})
		// One whose answer got lost has been carried out.
		return err == nil || errors.Is(err, ledger.ErrConflict)
	})
	eventually(t, "the others take a record", func() bool { return s.mostJ.Put(ctx, journaltest.Record(s.key, "r1")) == nil })
	eventually(t, "the others grant a lease", func() bool { return lease(s.mostL, "theirs") == nil })

	for _, call := range []struct {
		name string
		call func() error
	}{
		{"Update", func() error {
			_, err := s.alone.Update(ctx, s.key, account.Guard{Rev: 1}, account.Change{BumpRev: true})
			return err
		}},
		{"Records", func() error { _, err := s.aloneJ.Records(ctx, s.key); return err }},
		{"Acquire", func() error { return lease(s.aloneL, "mine") }},
	} {
		uncertain(t, call.name, call.call)
	}
	s.healed(t, 2, "theirs")
}

// uncertain wants an error that claims nothing.
func uncertain(t *testing.T, what string, call func() error) {
	t.Helper()
	err := call()
	if err == nil {
		t.Errorf("%s on the side that is cut off succeeds", what)
	}
	for _, certain := range []error{ledger.ErrNotFound, ledger.ErrConflict, refresh.ErrHeld} {
		if errors.Is(err, certain) {
			t.Errorf("%s on the side that is cut off claims to know: %v", what, err)
		}
	}
}

// healed ends the partition and wants what the majority wrote, on both sides.
func (s *split) healed(t *testing.T, rev account.Rev, owner string) {
	t.Helper()
	ctx := t.Context()
	s.cluster.Rejoin()
	eventually(t, "server 0 is one of them again", func() bool {
		e, err := s.aloneL.Read(ctx, s.key.String())
		return err == nil && e.Owner == owner
	})
	for name, store := range map[string]*natskv.Store{"server 0": s.alone, "server 1": s.most} {
		// A leader that was deposed answers as one until it hears of the other.
		eventually(t, name+" has what the others wrote", func() bool {
			a, err := store.Get(ctx, s.key)
			return err == nil && a.Rev == rev
		})
	}
	eventually(t, "server 0 finds the record", func() bool {
		records, err := s.aloneJ.Records(ctx, s.key)
		return err == nil && len(records) == 1
	})
}

// behind returns the same JetStream behind another prefix, where somebody in
// between may take a request for himself.
func behind(t *testing.T, nc *nats.Conn, takes func(subject string, m *nats.Msg) bool) jetstream.JetStream {
	t.Helper()
	const prefix = "behind.API."
	_, err := nc.Subscribe(prefix+">", func(m *nats.Msg) {
		to := strings.TrimPrefix(m.Subject, prefix)
		if takes(to, m) {
			return
		}
		if !strings.HasPrefix(to, "$KV.") {
			to = "$JS.API." + to
		}
		_ = nc.PublishMsg(&nats.Msg{Subject: to, Reply: m.Reply, Header: m.Header, Data: m.Data})
	})
	must(t, err)
	js, err := jetstream.NewWithAPIPrefix(nc, prefix)
	must(t, err)
	return js
}

// TestIndexAsksAgain: a request for messages that gets lost costs the index
// seconds, as the contract allows, and no more.
func TestIndexAsksAgain(t *testing.T) {
	var lost atomic.Int64
	js := behind(t, single(t).Conn(), func(subject string, _ *nats.Msg) bool {
		return strings.HasPrefix(subject, "CONSUMER.MSG.NEXT.") && lost.Add(1) == 1
	})
	c := config(js)
	first := newStore(t, c)
	must(t, first.Create(t.Context(), overdue("openai.a", time.Hour)))
	dueIs(t, first, "the account is due", "openai.a")
	lost.Store(0)
	began := time.Now()
	s := newStore(t, c) // which has to read what is there
	dueIs(t, s, "the account that was there is due", "openai.a")
	if took := time.Since(began); lost.Load() < 2 || took > 20*time.Second {
		t.Errorf("the index took %v after a request that got lost", took)
	}
}

// TestOldAnswer: where a server that is cut off and one that is not both hear a
// question, the first answer may be the old one. It is told by its age.
func TestOldAnswer(t *testing.T) {
	real := single(t)
	nc := real.Conn()
	var mu sync.Mutex
	var stale, answer string
	old := func(question, a string) {
		mu.Lock()
		defer mu.Unlock()
		stale, answer = question, a
	}
	js := behind(t, nc, func(subject string, m *nats.Msg) bool {
		mu.Lock()
		defer mu.Unlock()
		if stale == "" || !strings.HasPrefix(subject, stale) {
			return false
		}
		_ = m.Respond([]byte(answer))
		return true
	})
	ctx, key, c := t.Context(), mustKey("openai.a"), config(js)
	j := newJournal(t, c)
	before, err := nc.Request("$JS.API.STREAM.INFO.KV_"+c.Prefix+"_JOURNAL", nil, 5*time.Second)
	must(t, err)
	must(t, j.Put(ctx, journaltest.Record(key, "r1")))

	for question, answer := range map[string]string{
		"STREAM.INFO.":    string(before.Data),
		"STREAM.MSG.GET.": `{"type":"io.nats.jetstream.api.v1.stream_msg_get_response","error":{"code":404,"err_code":10037,"description":"no message found"}}`,
	} {
		old(question, answer)
		records, err := j.Records(ctx, key)
		wantLine(t, err, "the answer is older than what a majority of the servers has")
		if len(records) != 0 {
			t.Errorf("got %d records of an answer that is old", len(records))
		}
	}
	old("", "")
	if records, err := j.Records(ctx, key); err != nil || len(records) != 1 {
		t.Errorf("got %d records and %v, want one", len(records), err)
	}
}

// TestLeaderLost: the server that leads everything stops while workers write.
// Each version of a document still has one successor, and each lease one
// holder.
func TestLeaderLost(t *testing.T) {
	t.Parallel()
	cluster := rig.NewNATSCluster(t, 3)
	c := config(cluster.Connect(1))
	c.Replicas, c.LeaseTTL, c.Timeout = 3, time.Minute, 2*time.Second
	key, first := mustKey("openai.a"), newStore(t, c)
	newLeases(t, c)
	must(t, first.Create(t.Context(), storetest.Minimal(key)))
	for _, bucket := range []string{"ACCOUNTS", "LEASES"} {
		cluster.MoveLeader("KV_"+c.Prefix+"_"+bucket, 0)
	}
	const before, after = 50, 100
	var mu sync.Mutex
	heirs, holder, unknown := map[account.Rev]string{}, "", 0
	half := make(chan struct{})
	stopped := make(chan struct{})
	var wg sync.WaitGroup
	work := func(me string, s *natskv.Store, l *natskv.Leases) {
		retry := time.NewTicker(10 * time.Millisecond)
		defer retry.Stop()
		for n := 0; ; n++ {
			mu.Lock()
			done := len(heirs) >= after
			mu.Unlock()
			if done || t.Context().Err() != nil {
				return
			}
			a, err := s.Get(t.Context(), key)
			if err != nil {
				<-retry.C // no leader for the moment
				continue
			}
			id := fmt.Sprint(me, n)
			_, err = s.Update(t.Context(), key, account.Guard{Rev: a.Rev}, account.Change{
				BumpRev: true, Fields: account.FieldLastRotation, To: account.Account{LastRotationID: id},
			})
			tok, leased := l.Acquire(t.Context(), key.String(), id)
			mu.Lock()
			switch {
			case err == nil:
				if other := heirs[a.Rev]; other != "" {
					t.Errorf("rev %d was replaced by %s and by %s", a.Rev, other, id)
				}
				if heirs[a.Rev] = id; len(heirs) == before {
					close(half)
				}
			case !errors.Is(err, ledger.ErrConflict):
				unknown++
			}
			if leased == nil {
				if holder != "" {
					t.Errorf("%s has the lease of %s", id, holder)
				}
				holder = tok.Owner
			}
			mu.Unlock()
		}
	}
	for i := range 4 {
		c := c
		c.JetStream = cluster.Connect(1 + i%2)
		s, l := newStore(t, c), newLeases(t, c)
		wg.Go(func() { work(fmt.Sprint("w", i, "-"), s, l) })
	}
	wg.Go(func() { <-half; cluster.Stop(0); close(stopped) })
	wg.Wait()
	<-stopped
	got, err := first.Get(t.Context(), key)
	must(t, err)
	if n := len(heirs); int(got.Rev) < 1+n || int(got.Rev) > 1+n+unknown {
		t.Errorf("got rev %d after %d updates and %d of unknown outcome", got.Rev, n, unknown)
	}
	t.Logf("%d updates, %d of unknown outcome, rev %d", len(heirs), unknown, got.Rev)
}
