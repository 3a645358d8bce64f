package bus_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"sync"
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

// cluster runs three servers and returns a connection to each.
func cluster(t *testing.T) []*nats.Conn {
	t.Helper()
	var routes []*url.URL
	for range 3 { // the servers must know each other before they start
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
		check(t, l.Close())
	}
	var out []*nats.Conn
	for i, route := range routes {
		s := testrig.NATS(t, func(o *server.Options) {
			o.ServerName = fmt.Sprint("n", i)
			host, port, _ := net.SplitHostPort(route.Host)
			o.Cluster = server.ClusterOpts{Name: "test", Host: host}
			_, err := fmt.Sscan(port, &o.Cluster.Port)
			check(t, err)
			o.Routes = routes
		})
		out = append(out, testrig.Connect(t, s))
	}
	return out
}

// TestP3RacingBumpsInACluster: streams get three replicas, and of bumps that
// race over three servers the newest is the last on every one.
func TestP3RacingBumpsInACluster(t *testing.T) {
	conns := cluster(t)
	js := stream(t, conns[0])
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); { // a cluster takes a moment to find its leader
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		// Asked for, so that a cluster that is not complete yet is tried again.
		err = bus.EnsureStreams(ctx, js, bus.StreamsConfig{Subjects: subjects(t), Replicas: 3})
		cancel()
		if err == nil {
			break
		}
	}
	check(t, err)
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
