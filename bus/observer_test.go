package bus_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
)

func TestBumpsAreHeard(t *testing.T) {
	var log logs
	r := rig(t, func(c *bus.WorkerConfig) { c.Logger = log.logger() })
	check(t, r.conn.Publish("tokenbus.v1.bump.openai.a", []byte("garbage")))
	check(t, r.conn.Publish("tokenbus.v1.bump.openai.b", bump(t, 9).Encode())) // of openai.a
	check(t, r.conn.FlushTimeout(patience))
	other := as(t, r.server, bus.RoleWorker)
	check(t, publisher(t, other).Bump(t.Context(), bump(t, 4)))
	b := receive(t, r.fleet.bumps, "bump")
	if b.Rev != 4 || b.Key != key(t, "openai.a") {
		t.Errorf("heard %+v", b)
	}
	if n := strings.Count(log.String(), "bump can't be read"); n != 2 {
		t.Errorf("%d warnings: %s", n, log.String())
	}
}

func TestStatusEventsAreHeard(t *testing.T) {
	r := rig(t)
	check(t, r.conn.Publish("tokenbus.v1.status.openai.a", []byte("garbage")))
	e := events.Status{Key: key(t, "openai.a"), Status: account.Active, Code: events.StatusInDoubt, Message: "m", At: at}
	check(t, r.conn.Publish("tokenbus.v1.status.openai.b", e.Encode())) // of openai.a
	check(t, r.conn.FlushTimeout(patience))
	check(t, publisher(t, as(t, r.server, bus.RoleWorker)).Status(t.Context(), e))
	if got := receive(t, r.fleet.status, "status event"); got != e {
		t.Errorf("heard %+v, want %+v", got, e)
	}
}

func TestP4ResyncAfterALostConnection(t *testing.T) {
	r := rig(t)
	for len(r.fleet.resyncs) > 0 {
		<-r.fleet.resyncs
	}
	check(t, r.conn.ForceReconnect())
	receive(t, r.fleet.resyncs, "resync when the connection is lost")
	receive(t, r.fleet.resyncs, "resync when it is back")
	check(t, r.conn.FlushTimeout(patience))
	check(t, publisher(t, r.conn).Bump(t.Context(), bump(t, 2)))
	receive(t, r.fleet.bumps, "bump after the reconnect")
}

// slowFleet takes no bump until it may.
type slowFleet struct {
	*fleet
	begun, release chan struct{}
}

func (f slowFleet) ObserveBump(events.Bump) {
	select {
	case f.begun <- struct{}{}:
	default:
	}
	<-f.release
}

func TestP4ResyncAfterMissedBumps(t *testing.T) {
	server := startServer(t)
	slow := make(chan string, 10)
	conn := as(t, server, bus.RoleWorker, func(c *bus.Config) {
		c.Hooks.SlowConsumer = func(subject string) { slow <- subject }
	})
	// No streams: bumps are broadcast without them too.
	f := slowFleet{newFleet(), make(chan struct{}, 1), make(chan struct{})}
	startWorker(t, conn, f.fleet, func(c *bus.WorkerConfig) { c.Observer = f })
	t.Cleanup(func() { close(f.release) }) // before the worker is stopped
	for len(f.resyncs) > 0 {
		<-f.resyncs
	}
	// Nearly a megabyte a message: the 64 MB that the library keeps for a
	// subscription are full soon. JSON may be padded.
	other := as(t, server, bus.RoleWorker)
	body := append(bump(t, 1).Encode(), []byte(strings.Repeat(" ", 900<<10))...)
	check(t, other.Publish("tokenbus.v1.bump.openai.a", body))
	receive(t, f.begun, "first bump")
	for range 80 {
		check(t, other.Publish("tokenbus.v1.bump.openai.a", body))
		check(t, other.FlushTimeout(patience))
	}
	receive(t, f.resyncs, "resync when bumps are dropped")
	if subject := receive(t, slow, "hook"); subject != "tokenbus.v1.bump.>" {
		t.Errorf("slow consumer of %s", subject)
	}
}

func refreshedEvent(t testing.TB, v account.Version) events.Refreshed {
	return events.Refreshed{Key: key(t, "openai.a"), Version: v, Reason: events.ReasonExternal, By: "login-tool", At: at}
}

func TestRefreshedEventsComeUntilTheyAreDoneWith(t *testing.T) {
	r := rig(t)
	got := make(chan account.Version, 10)
	var calls atomic.Int32
	r.fleet.refresh = func(ctx context.Context, e events.Refreshed) error {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("no deadline")
		}
		got <- e.Version
		if calls.Add(1) == 1 {
			return errors.New("database is down")
		}
		return nil
	}
	p := publisher(t, r.conn)
	check(t, p.Refreshed(t.Context(), refreshedEvent(t, 5)))
	for range 2 {
		if v := receive(t, got, "refreshed event"); v != 5 {
			t.Errorf("version is %d", v)
		}
	}
	waitAcked(t, r, 1)
}

// waitAcked waits until the consumer has nothing pending after n messages.
func waitAcked(t testing.TB, r rigged, n uint64) {
	t.Helper()
	js := stream(t, r.conn)
	deadline := time.Now().Add(patience)
	for {
		c, err := js.Consumer(t.Context(), events.StreamEvents, "tokenbus-workers")
		var i *jetstream.ConsumerInfo
		if !errors.Is(err, jetstream.ErrConsumerNotFound) { // the worker is about to make it
			check(t, err)
			if i = c.CachedInfo(); i.AckFloor.Stream == n && i.NumAckPending == 0 && i.NumPending == 0 {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("consumer is at %+v", i)
		}
	}
}

func TestRefreshedEventsThatCannotBeReadAreGivenUp(t *testing.T) {
	var log logs
	r := rig(t, func(c *bus.WorkerConfig) { c.Logger = log.logger() })
	r.fleet.refresh = func(context.Context, events.Refreshed) error {
		t.Error("an event that can't be read got through")
		return nil
	}
	js := stream(t, r.conn)
	_, err := js.Publish(t.Context(), "tokenbus.v1.refreshed.openai.a", []byte("{"))
	check(t, err)
	_, err = js.Publish(t.Context(), "tokenbus.v1.refreshed.openai.b", refreshedEvent(t, 1).Encode()) // of openai.a
	check(t, err)
	waitAcked(t, r, 2)
	if n := strings.Count(log.String(), "refreshed event is given up"); n != 2 {
		t.Errorf("%d warnings: %s", n, log.String())
	}
}

func TestRefreshedEventsWaitForWorkers(t *testing.T) {
	server := startServer(t)
	conn := as(t, server, bus.RoleWorker)
	streams(t, conn)
	check(t, publisher(t, conn).Refreshed(t.Context(), refreshedEvent(t, 3)))
	f := newFleet()
	got := make(chan account.Version, 10)
	f.refresh = func(_ context.Context, e events.Refreshed) error { got <- e.Version; return nil }
	startWorker(t, conn, f)
	if v := receive(t, got, "event from before"); v != 3 {
		t.Errorf("version is %d", v)
	}
}

// TestRefreshedEventUnderWayMovesOn stops a worker in the middle of an event:
// another takes it at once.
func TestRefreshedEventUnderWayMovesOn(t *testing.T) {
	r := rig(t)
	begun := make(chan struct{}, 1)
	r.fleet.refresh = func(ctx context.Context, _ events.Refreshed) error {
		begun <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	check(t, publisher(t, r.conn).Refreshed(t.Context(), refreshedEvent(t, 3)))
	receive(t, begun, "event")
	r.worker.Close()
	second := newFleet()
	got := make(chan account.Version, 10)
	second.refresh = func(_ context.Context, e events.Refreshed) error { got <- e.Version; return nil }
	startWorker(t, as(t, r.server, bus.RoleWorker), second)
	receive(t, got, "event at the other worker")
}

// TestRefreshedConsumerIsMadeAgain: a worker that starts before there is a
// stream, or whose consumer an operator deletes, goes on by itself.
func TestRefreshedConsumerIsMadeAgain(t *testing.T) {
	conn := as(t, startServer(t), bus.RoleWorker)
	f := newFleet()
	got := make(chan account.Version, 10)
	f.refresh = func(_ context.Context, e events.Refreshed) error { got <- e.Version; return nil }
	startWorker(t, conn, f)
	js := streams(t, conn)
	p := publisher(t, conn)
	check(t, p.Refreshed(t.Context(), refreshedEvent(t, 1)))
	receive(t, got, "first event")
	check(t, js.DeleteConsumer(t.Context(), events.StreamEvents, "tokenbus-workers"))
	check(t, p.Refreshed(t.Context(), refreshedEvent(t, 2)))
	for receive(t, got, "event after the consumer was deleted") != 2 {
	}
}

func TestStreamsAreAdoptedAsTheyAre(t *testing.T) {
	nc := as(t, startServer(t), bus.RoleWorker)
	js := stream(t, nc)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: events.StreamBumps, Subjects: []string{"tokenbus.v1.bump.>", "more.>"}, MaxMsgsPerSubject: 5, MaxConsumers: 100, AllowDirect: true,
	})
	check(t, err)
	var log logs
	cfg := bus.StreamsConfig{Subjects: subjects(t), Logger: log.logger()}
	check(t, bus.EnsureStreams(t.Context(), js, cfg))
	for _, setting := range []string{"max_msgs_per_subject found=5 wanted=1", "max_consumers found=100", "subjects"} {
		if !strings.Contains(log.String(), "setting="+setting) {
			t.Errorf("no warning of %s in %s", setting, log.String())
		}
	}
	s, err := js.Stream(t.Context(), events.StreamBumps)
	check(t, err)
	if n := s.CachedInfo().Config.MaxMsgsPerSubject; n != 5 {
		t.Errorf("the stream was changed: %d messages per subject", n)
	}
	if strings.Contains(log.String(), events.StreamEvents) {
		t.Errorf("warned of a stream of our own: %s", log.String())
	}
	before := log.String()
	check(t, bus.EnsureStreams(t.Context(), js, cfg))
	if got := strings.TrimPrefix(log.String(), before); strings.Contains(got, events.StreamEvents) {
		t.Errorf("our own settings differ from themselves: %s", got)
	}
}

func TestStreamOfAnotherPrefixIsAnError(t *testing.T) {
	nc := as(t, startServer(t), bus.RoleWorker)
	js := stream(t, nc)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: events.StreamEvents, Subjects: []string{"other.v1.refreshed.>"}})
	check(t, err)
	wantLine(t, bus.EnsureStreams(t.Context(), js, bus.StreamsConfig{Subjects: subjects(t)}), events.StreamEvents, "another fleet")
}
