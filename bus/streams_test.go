package bus_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	testrig "github.com/tokenbus/tokenbus/internal/rig"
)

// TestUnusableStreams: a stream that would lose events or bumps is refused, in
// a line that says which setting, what it is, what it must be and what to do,
// and stays as it is.
func TestUnusableStreams(t *testing.T) {
	js := stream(t, testrig.Connect(t, testrig.NATS(t)))
	cfg := bus.StreamsConfig{Subjects: subjects(t)}
	const cantChange = "that can't be changed: remove it (nats stream rm "
	both := []string{events.StreamEvents, events.StreamBumps}
	for _, c := range []struct {
		streams []string
		name    string
		change  func(*jetstream.StreamConfig)
		want    string
		remedy  string
	}{
		{both, "no ack", func(s *jetstream.StreamConfig) { s.NoAck = true }, "no_ack is true, needed false", "--ack"},
		{both, "interest", func(s *jetstream.StreamConfig) { s.Retention = jetstream.InterestPolicy }, "retention is Interest, needed Limits", "--retention=limits"},
		{both, "work queue", func(s *jetstream.StreamConfig) { s.Retention = jetstream.WorkQueuePolicy }, "retention is WorkQueue, needed Limits", cantChange},
		{both, "transform", func(s *jetstream.StreamConfig) {
			s.SubjectTransform = &jetstream.SubjectTransformConfig{Source: s.Subjects[0], Destination: "x.>"}
		}, "subject_transform is set, needed none", "--no-transform"},
		{both, "counter", func(s *jetstream.StreamConfig) { s.AllowMsgCounter = true }, "allow_msg_counter is true, needed false", cantChange},
		{both, "discard per subject", func(s *jetstream.StreamConfig) {
			s.Discard, s.DiscardNewPerSubject, s.MaxMsgsPerSubject = jetstream.DiscardNew, true, 1
		}, "discard_new_per_subject is true, needed false", "--no-discard-per-subject"},
		{both[:1], "refuses news", func(s *jetstream.StreamConfig) { s.Discard, s.MaxBytes = jetstream.DiscardNew, 1<<20 }, "discard is new with a limit, needed old", "--discard=old"},
		{both[1:], "drops bumps", func(s *jetstream.StreamConfig) { s.MaxMsgs = 10 }, "discard is old with a limit, needed new", "--discard=new"},
		{both[1:], "history", func(s *jetstream.StreamConfig) { s.MaxMsgsPerSubject = -1 }, "max_msgs_per_subject is -1, needed 1", "--max-msgs-per-subject=1"},
		{both[1:], "age", func(s *jetstream.StreamConfig) { s.MaxAge = time.Hour }, "max_age is 1h0m0s, needed 0s", "--max-age=0s"},
		{both[1:], "memory", func(s *jetstream.StreamConfig) { s.Storage = jetstream.MemoryStorage }, "storage is Memory, needed File", cantChange},
		{both[1:], "async", func(s *jetstream.StreamConfig) { s.PersistMode = jetstream.AsyncPersistMode }, "persist_mode is Async, needed Default", cantChange},
		{both[1:], "no direct reads", func(s *jetstream.StreamConfig) { s.AllowDirect = false }, "allow_direct is false, needed true", "--allow-direct"},
		{both[1:], "two at once", func(s *jetstream.StreamConfig) { s.NoAck, s.MaxAge = true, time.Hour }, "no_ack is true, needed false; max_age is 1h0m0s, needed 0s", "--ack --max-age=0s"},
	} {
		for _, name := range c.streams {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				check(t, bus.EnsureStreams(t.Context(), js, cfg))
				s, err := js.Stream(t.Context(), name)
				check(t, err)
				ours := s.CachedInfo().Config
				ours.Metadata = nil
				check(t, js.DeleteStream(t.Context(), name))
				theirs := ours
				c.change(&theirs)
				s, err = js.CreateStream(t.Context(), theirs)
				check(t, err)
				before := s.CachedInfo()
				wantLine(t, bus.EnsureStreams(t.Context(), js, cfg), "stream "+name, c.want, c.remedy)
				after, err := s.Info(t.Context())
				check(t, err)
				if !after.Created.Equal(before.Created) || after.Config.MaxAge != theirs.MaxAge || after.Config.NoAck != theirs.NoAck || after.Config.Discard != theirs.Discard {
					t.Errorf("the stream was changed: got %+v, want %+v", after.Config, before.Config)
				}
				// What the line says about a change is true.
				_, err = js.UpdateStream(t.Context(), ours)
				if can := c.remedy != cantChange; can != (err == nil) {
					t.Errorf("changed as the line says: %v", err)
				} else if can {
					check(t, bus.EnsureStreams(t.Context(), js, cfg))
				}
				check(t, js.DeleteStream(t.Context(), name))
			})
		}
	}
}

// TestStreamsByClusterSize: how many replicas streams get is said by the
// caller, or by the size of the cluster.
func TestStreamsByClusterSize(t *testing.T) {
	t.Parallel()
	replicas := func(js jetstream.JetStream, want int) {
		t.Helper()
		for _, name := range []string{events.StreamEvents, events.StreamBumps} {
			s, err := js.Stream(t.Context(), name)
			check(t, err)
			if n := s.CachedInfo().Config.Replicas; n != want {
				t.Errorf("%s: got %d replicas, want %d", name, n, want)
			}
		}
	}
	const alone = "stream has one replica in a cluster"
	var log logs
	cfg := bus.StreamsConfig{Subjects: subjects(t), Logger: log.logger()}

	js := stream(t, testrig.Connect(t, testrig.NATS(t)))
	check(t, bus.EnsureStreams(t.Context(), js, cfg))
	replicas(js, 1)
	cfg.Replicas = 7
	wantLine(t, bus.EnsureStreams(t.Context(), js, cfg), "7 replicas: want 1 to 5")

	cfg.Replicas = 0
	js = testrig.NewNATSCluster(t, 3).Connect(0)
	check(t, bus.EnsureStreams(t.Context(), js, cfg))
	replicas(js, 3)
	if log.String() != "" {
		t.Errorf("got the log:\n%s", log.String())
	}
	// A server that has lost its last stream removes the folder of streams a
	// moment later, and creates none meanwhile.
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "LAST", Subjects: []string{"last"}, Replicas: 3})
	check(t, err)
	check(t, js.DeleteStream(t.Context(), events.StreamBumps))
	check(t, js.DeleteStream(t.Context(), events.StreamEvents))
	cfg.Replicas = 1
	check(t, bus.EnsureStreams(t.Context(), js, cfg))
	replicas(js, 1)
	if log.String() != "" {
		t.Errorf("one replica that was asked for: got the log:\n%s", log.String())
	}
	cfg.Replicas = 0
	check(t, bus.EnsureStreams(t.Context(), js, cfg))
	if !strings.Contains(log.String(), alone) || !strings.Contains(log.String(), "nats stream edit TOKENBUS_BUMPS --replicas=3") {
		t.Errorf("an adopted stream with one replica: got the log:\n%s", log.String())
	}
	check(t, js.DeleteStream(t.Context(), events.StreamBumps))
	cfg.PlacementTags = []string{"tape"}
	wantLine(t, bus.EnsureStreams(t.Context(), js, cfg), "stream TOKENBUS_BUMPS", "placement tags", "'tape'")
}

// TestServerTooOld: nothing is made on a server that would ignore what it
// doesn't know.
func TestServerTooOld(t *testing.T) {
	nc := testrig.Connect(t, testrig.NATS(t, func(o *server.Options) { o.JetStream = false }))
	// The part that matters of what nats-server 2.10.29 answers.
	const old = `{"type":"io.nats.jetstream.api.v1.account_info_response","memory":0,"storage":0,"streams":0,"consumers":0,"limits":{"max_memory":-1,"max_storage":-1,"max_streams":-1,"max_consumers":-1},"api":{"total":0,"errors":0}}`
	var others atomic.Int64
	_, err := nc.Subscribe("$JS.API.>", func(m *nats.Msg) {
		if m.Subject != "$JS.API.INFO" {
			others.Add(1)
			return
		}
		_ = m.Respond([]byte(old))
	})
	check(t, err)
	check(t, nc.Flush())
	wantLine(t, bus.EnsureStreams(t.Context(), stream(t, nc), bus.StreamsConfig{Subjects: subjects(t)}),
		"too old", "found JetStream API level 0", "needed 1", "nats-server 2.11 or later", "upgrade")
	if n := others.Load(); n != 0 {
		t.Errorf("%d requests were made of a server that is too old", n)
	}
}

// TestStreamsOutOfRoom: a publish into a full stream, or one that is gone, says
// so and what to do; with room again it is carried out, once.
func TestStreamsOutOfRoom(t *testing.T) {
	nc := testrig.Connect(t, testrig.NATS(t))
	js, p := streams(t, nc), publisher(t, nc)
	check(t, p.Bump(t.Context(), bump(t, 1)))
	s, err := js.Stream(t.Context(), events.StreamBumps)
	check(t, err)
	ours := s.CachedInfo().Config
	limited := ours
	limited.Discard, limited.MaxBytes = jetstream.DiscardNew, 10
	_, err = js.UpdateStream(t.Context(), limited)
	check(t, err)
	longer := bump(t, account.Rev(1<<40))
	wantLine(t, p.Bump(t.Context(), longer), "publish bump of openai.a", "JetStream has no room", "nats stream edit TOKENBUS_BUMPS --max-bytes=-1")
	last, err := p.LastBump(t.Context(), key(t, "openai.a"))
	check(t, err)
	if last.Rev != 1 {
		t.Errorf("got rev %d after a bump that was refused", last.Rev)
	}
	_, err = js.UpdateStream(t.Context(), ours)
	check(t, err)
	check(t, p.Bump(t.Context(), longer))
	check(t, js.DeleteStream(t.Context(), events.StreamEvents))
	wantLine(t, p.Refreshed(t.Context(), refreshedEvent(t, 1)), "publish refreshed event of openai.a", "no server answers for it")
}
