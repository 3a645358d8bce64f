package bus_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
)

// violationLogger sends the error of each permission violation.
func violationLogger(ch chan<- string) *slog.Logger { return slog.New(violationHandler{ch}) }

type violationHandler struct{ ch chan<- string }

func (violationHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h violationHandler) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h violationHandler) WithGroup(string) slog.Handler          { return h }
func (h violationHandler) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok && errors.Is(err, nats.ErrPermissionViolation) {
			h.ch <- err.Error()
		}
		return true
	})
	return nil
}

func publisher(t testing.TB, nc *nats.Conn) *bus.Publisher {
	t.Helper()
	p, err := bus.NewPublisher(bus.PublisherConfig{Conn: nc, Subjects: subjects(t), Source: "worker-1"})
	check(t, err)
	return p
}

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func bump(t testing.TB, rev account.Rev) events.Bump {
	return events.Bump{Key: key(t, "openai.a"), Version: 1, Rev: rev, At: at}
}

func TestP3LateBumpReplacesNothing(t *testing.T) {
	nc := as(t, startServer(t), bus.RoleWorker)
	js := streams(t, nc)
	p := publisher(t, nc)
	heard := make(chan *nats.Msg, 10)
	_, err := nc.ChanSubscribe(subjects(t).AllBumps(), heard)
	check(t, err)
	for _, rev := range []account.Rev{3, 1, 3, 2} {
		check(t, p.Bump(t.Context(), bump(t, rev)))
	}
	last, err := p.LastBump(t.Context(), key(t, "openai.a"))
	check(t, err)
	if last.Rev != 3 || last.Version != 1 || !last.At.Equal(at) {
		t.Errorf("last bump is %+v", last)
	}
	s, err := js.Stream(t.Context(), events.StreamBumps)
	check(t, err)
	if seq := s.CachedInfo().State.LastSeq; seq != 1 {
		t.Errorf("%d bumps were stored", seq)
	}
	m := receive(t, heard, "broadcast")
	if got, want := m.Header["ce-id"], "openai.a:3"; len(got) != 1 || got[0] != want {
		t.Errorf("ce-id is %v", got)
	}
	if len(heard) > 0 {
		t.Error("a bump that says nothing new was broadcast")
	}
}

// A bump rests on the last one that this process has seen, and reads it where
// another has published meanwhile: a late one replaces nothing then either.
func TestP3BumpRestsOnTheLastOneSeen(t *testing.T) {
	server := startServer(t, func(c *bus.ServerConfig) { c.Auth = bus.AuthNone })
	nc := as(t, server, bus.RoleWorker, func(c *bus.Config) { c.NKey = "" })
	streams(t, nc)
	var reads atomic.Int64
	_, err := nc.Subscribe("$JS.API.STREAM.MSG.GET.TOKENBUS_BUMPS", func(*nats.Msg) { reads.Add(1) })
	check(t, err)
	check(t, nc.Flush())
	p, other := publisher(t, nc), publisher(t, nc)
	for rev := range account.Rev(3) {
		check(t, p.Bump(t.Context(), bump(t, 1+rev)))
	}
	check(t, nc.Flush())
	if n := reads.Load(); n > 1 {
		t.Errorf("%d reads for three bumps, want that before the first", n)
	}
	check(t, other.Bump(t.Context(), bump(t, 9)))
	check(t, p.Bump(t.Context(), bump(t, 7)))
	if b, err := other.LastBump(t.Context(), key(t, "openai.a")); err != nil || b.Rev != 9 {
		t.Errorf("the last bump has rev %d, %v", b.Rev, err)
	}
	check(t, p.Bump(t.Context(), bump(t, 10)))
	if b, err := other.LastBump(t.Context(), key(t, "openai.a")); err != nil || b.Rev != 10 {
		t.Errorf("the last bump has rev %d, %v", b.Rev, err)
	}
}

func TestP3RacingBumpsEndWithTheNewest(t *testing.T) {
	nc := as(t, startServer(t), bus.RoleWorker)
	streams(t, nc)
	var wg sync.WaitGroup
	for rev := account.Rev(1); rev <= 20; rev++ {
		p := publisher(t, nc)
		wg.Go(func() {
			if err := p.Bump(t.Context(), bump(t, rev)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	last, err := publisher(t, nc).LastBump(t.Context(), key(t, "openai.a"))
	check(t, err)
	if last.Rev != 20 {
		t.Errorf("last bump has rev %d", last.Rev)
	}
}

func TestBumpReplacesWhatCannotBeRead(t *testing.T) {
	nc := as(t, startServer(t), bus.RoleWorker)
	js := streams(t, nc)
	p := publisher(t, nc)
	for name, garbage := range map[string][]byte{
		"no JSON":         []byte("x"),
		"another account": events.Bump{Key: key(t, "openai.b"), Version: 1, Rev: 99, At: at}.Encode(),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := js.Publish(t.Context(), subjects(t).Bump(key(t, "openai.a")), garbage)
			check(t, err)
			if b, err := p.LastBump(t.Context(), key(t, "openai.a")); err == nil || errors.Is(err, ledger.ErrNotFound) {
				t.Errorf("last bump is %+v, %v", b, err)
			}
			check(t, p.Bump(t.Context(), bump(t, 7)))
			last, err := p.LastBump(t.Context(), key(t, "openai.a"))
			check(t, err)
			if last.Rev != 7 {
				t.Errorf("last bump has rev %d", last.Rev)
			}
		})
	}
}

func TestLastBumpOfNobody(t *testing.T) {
	nc := as(t, startServer(t), bus.RoleWorker)
	streams(t, nc)
	if _, err := publisher(t, nc).LastBump(t.Context(), key(t, "openai.a")); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("error is %v", err)
	}
}

func TestEventsAreStoredOnce(t *testing.T) {
	nc := as(t, startServer(t), bus.RoleWorker)
	js := streams(t, nc)
	p := publisher(t, nc)
	k := key(t, "openai.a")
	for range 2 {
		check(t, p.Refreshed(t.Context(), events.Refreshed{Key: k, Version: 4, Reason: events.ReasonExpiry, By: "worker-1", At: at}))
		check(t, p.Status(t.Context(), events.Status{Key: k, Status: account.Active, Code: events.StatusInDoubt, At: at}))
	}
	check(t, p.Status(t.Context(), events.Status{Key: k, Status: account.Active, Code: events.StatusRecovered, At: at}))
	s, err := js.Stream(t.Context(), events.StreamEvents)
	check(t, err)
	if n := s.CachedInfo().State.Msgs; n != 3 {
		t.Errorf("%d events are stored, want 3", n)
	}
	m, err := s.GetMsg(t.Context(), 1)
	check(t, err)
	for name, want := range map[string]string{"Nats-Msg-Id": "openai.a:4", "ce-type": "dev.tokenbus.refreshed.v1", "ce-source": "worker-1", "ce-specversion": "1.0", "ce-id": "openai.a:4"} {
		if got := m.Header[name]; len(got) != 1 || got[0] != want {
			t.Errorf("header %s is %v, want %s", name, got, want)
		}
	}
	if m.Subject != "tokenbus.v1.refreshed.openai.a" {
		t.Errorf("subject is %s", m.Subject)
	}
}

func TestPublishWithoutStream(t *testing.T) {
	nc := as(t, startServer(t), bus.RoleWorker)
	p := publisher(t, nc)
	if err := p.Bump(t.Context(), bump(t, 1)); err == nil {
		t.Error("a bump without a stream is said to be published")
	}
	if err := p.Refreshed(t.Context(), events.Refreshed{Key: key(t, "openai.a"), Version: 1, At: at}); err == nil {
		t.Error("an event without a stream is said to be published")
	}
}
