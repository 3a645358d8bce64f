package natskv_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
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

// deaf is a connection that hears nothing from when it has sent certain bytes
// until it is cured: what it asked for is carried out, and it can't know.
type deaf struct {
	net.Conn
	mu      sync.Mutex
	change  *sync.Cond
	trigger []byte // nil: none
	hears   bool
}

func (d *deaf) Write(p []byte) (int, error) {
	d.mu.Lock()
	if d.trigger != nil && bytes.Contains(p, d.trigger) {
		d.trigger, d.hears = nil, false
	}
	d.mu.Unlock()
	return d.Conn.Write(p)
}

func (d *deaf) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.hears {
		d.change.Wait()
	}
	return n, err
}

func (d *deaf) set(hears bool, trigger string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hears, d.trigger = hears, nil
	if trigger != "" {
		d.trigger = []byte(trigger)
	}
	d.change.Broadcast()
}

// after makes the connection go deaf once it sends a request to the subject.
func (d *deaf) after(subject string) { d.set(true, "PUB "+subject) }

// cure lets it hear again, also the answers that it missed.
func (d *deaf) cure() { d.set(true, "") }

type deafServer struct {
	s *server.Server
	d *deaf
}

func (s *deafServer) InProcessConn() (net.Conn, error) {
	c, err := s.s.InProcessConn()
	s.d.Conn = c
	return s.d, err
}

// TestAnswersLost: a write is carried out and its answer gets lost. The error
// claims nothing, and doing the same again does it no second time.
func TestAnswersLost(t *testing.T) {
	d := &deaf{hears: true}
	d.change = sync.NewCond(&d.mu)
	srv := start(t, nil)
	nc, err := nats.Connect("", nats.InProcessServer(&deafServer{srv, d}), nats.NoReconnect())
	must(t, err)
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	t.Cleanup(func() { d.cure(); nc.Close(); <-closed })
	js, err := jetstream.New(nc)
	must(t, err)

	c := config(js)
	c.LeaseTTL = time.Minute
	s, cache, l, j := newStore(t, c), newCache(t, c), newLeases(t, c), newJournal(t, c)
	ctx, key := t.Context(), mustKey("openai.a")
	// lost makes a call whose answer gets lost.
	lost := func(t *testing.T, subject string, call func(context.Context) error) {
		t.Helper()
		d.after(subject)
		defer d.cure()
		ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		err := call(ctx)
		if err == nil {
			t.Fatal("the answer was not lost")
		}
		for _, certain := range []error{ledger.ErrNotFound, ledger.ErrConflict, refresh.ErrHeld, lease.ErrLost} {
			if errors.Is(err, certain) {
				t.Errorf("%v is taken for %v", err, certain)
			}
		}
	}
	want := func(t *testing.T, err, target error) {
		t.Helper()
		if !errors.Is(err, target) {
			t.Errorf("got error %v, want %v", err, target)
		}
	}

	t.Run("Create", func(t *testing.T) {
		create := func(ctx context.Context) error { return s.Create(ctx, storetest.Minimal(key)) }
		lost(t, "$KV."+c.Prefix+"_ACCOUNTS", create)
		want(t, create(ctx), ledger.ErrConflict)
		a, err := s.Get(ctx, key)
		must(t, err)
		if a.Rev != 1 {
			t.Errorf("got rev %d", a.Rev)
		}
	})
	t.Run("Update", func(t *testing.T) {
		update := func(ctx context.Context) error {
			_, err := s.Update(ctx, key, account.Guard{Rev: 1}, account.Change{BumpRev: true})
			return err
		}
		lost(t, "$KV."+c.Prefix+"_ACCOUNTS", update)
		want(t, update(ctx), ledger.ErrConflict)
		a, err := s.Get(ctx, key)
		must(t, err)
		if a.Rev != 2 {
			t.Errorf("got rev %d, want one update", a.Rev)
		}
	})
	t.Run("Cache", func(t *testing.T) {
		var ok bool
		put := func(ctx context.Context) (err error) { ok, err = cache.Put(ctx, key, ledger.Entry{Rev: 7}); return err }
		lost(t, "$KV."+c.Prefix+"_CACHE", put)
		if err := put(ctx); err != nil || ok {
			t.Errorf("put again: got %v, %v, want that it is there", ok, err)
		}
	})
	t.Run("Leases", func(t *testing.T) {
		var tok lease.Token
		acquire := func(ctx context.Context) (err error) { tok, err = l.Acquire(ctx, key.String(), "me"); return err }
		lost(t, "$KV."+c.Prefix+"_LEASES", acquire)
		_, err := l.Acquire(ctx, key.String(), "other")
		want(t, err, refresh.ErrHeld)
		must(t, acquire(ctx))
		renew := func(ctx context.Context) error { _, err := l.Renew(ctx, key.String(), tok); return err }
		lost(t, "$KV."+c.Prefix+"_LEASES", renew)
		want(t, renew(ctx), lease.ErrLost) // so it is read back
		tok, err = l.Read(ctx, key.String())
		if err != nil || tok.Owner != "me" {
			t.Errorf("read back: got %+v, %v", tok, err)
		}
		release := func(ctx context.Context) error { return l.Release(ctx, key.String(), tok) }
		lost(t, "$KV."+c.Prefix+"_LEASES", release)
		want(t, release(ctx), lease.ErrLost)
		_, err = l.Acquire(ctx, key.String(), "other")
		must(t, err)
	})
	t.Run("Journal", func(t *testing.T) {
		r := journaltest.Record(key, "r1")
		count := func(n int) {
			t.Helper()
			if records, err := j.Records(ctx, key); err != nil || len(records) != n {
				t.Errorf("got %d records and %v, want %d", len(records), err, n)
			}
		}
		put := func(ctx context.Context) error { return j.Put(ctx, r) }
		lost(t, "$KV."+c.Prefix+"_JOURNAL", put)
		count(1)
		must(t, put(ctx))
		count(1)
		remove := func(ctx context.Context) error { return j.Delete(ctx, r.Key, r.RotationID) }
		lost(t, "$JS.API.STREAM.PURGE", remove)
		count(0)
		must(t, remove(ctx))
	})
	t.Run("CheckValue", func(t *testing.T) {
		v, err := natskv.NewValues(ctx, c)
		must(t, err)
		lost(t, "$KV."+c.Prefix+"_META", func(ctx context.Context) error {
			_, err := v.CheckValue(ctx, "keyset", []byte("first"))
			return err
		})
		got, err := v.CheckValue(ctx, "keyset", []byte("second"))
		if err != nil || string(got) != "first" {
			t.Errorf("got %q and %v, want what was stored first", got, err)
		}
	})
}
