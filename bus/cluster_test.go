package bus_test

import (
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	testrig "github.com/tokenbus/tokenbus/internal/rig"
)

// TestP3RacingBumpsInACluster: streams get three replicas, and of bumps that
// race over three servers the newest is the last on every one.
func TestP3RacingBumpsInACluster(t *testing.T) {
	cluster := testrig.NewNATSCluster(t, 3)
	conns := []*nats.Conn{cluster.Connect(0).Conn(), cluster.Connect(1).Conn(), cluster.Connect(2).Conn()}
	js := streams(t, conns[0])
	var log logs
	check(t, bus.EnsureStreams(t.Context(), js, bus.StreamsConfig{Subjects: subjects(t), Logger: log.logger()}))
	if log.String() != "" {
		t.Errorf("what we made differs from what we make: %s", log.String())
	}
	var wg sync.WaitGroup
	for rev := account.Rev(1); rev <= 15; rev++ {
		p := publisher(t, conns[rev%3])
		wg.Go(func() {
			if err := p.Bump(t.Context(), bump(t, rev)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, nc := range conns {
		last, err := publisher(t, nc).LastBump(t.Context(), key(t, "openai.a"))
		check(t, err)
		if last.Rev != 15 {
			t.Errorf("last bump has rev %d", last.Rev)
		}
	}
	s, err := js.Stream(t.Context(), events.StreamBumps)
	check(t, err)
	if c := s.CachedInfo().Config; c.Replicas != 3 || c.Storage != jetstream.FileStorage {
		t.Errorf("stream is %+v", c)
	}
}
