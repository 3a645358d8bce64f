package bus_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	testrig "github.com/tokenbus/tokenbus/internal/rig"
)

// A worker that stops doesn't wait for a server that is gone, or silent.
func TestCloseWithoutAServer(t *testing.T) {
	for name, lose := range map[string]func(*testrig.Proxy, *bus.Server){
		"gone":   func(_ *testrig.Proxy, s *bus.Server) { s.Shutdown() },
		"silent": func(p *testrig.Proxy, _ *bus.Server) { p.Freeze() },
	} {
		t.Run(name, func(t *testing.T) {
			server, fleet := startServer(t), newFleet()
			proxy := testrig.NewProxy(t, strings.TrimPrefix(server.URL(), "nats://"))
			disconnected := make(chan struct{}, 10)
			conn := as(t, server, bus.RoleWorker, func(c *bus.Config) {
				c.URLs = []string{"nats://" + proxy.Addr()}
				c.Hooks.Disconnected = func(error) { disconnected <- struct{}{} }
			})
			streams(t, conn)
			taken := make(chan account.Version, 1)
			fleet.refresh = func(_ context.Context, e events.Refreshed) error { taken <- e.Version; return nil }
			w := startWorker(t, conn, fleet)
			check(t, publisher(t, conn).Refreshed(t.Context(), refreshedEvent(t, 5)))
			receive(t, taken, "refreshed event")
			lose(proxy, server)
			if name == "gone" {
				receive(t, disconnected, "the loss of the connection")
			}
			closed := make(chan struct{})
			go func() { w.Close(); close(closed) }()
			select {
			case <-closed:
			case <-time.After(8 * time.Second): // the library alone waits for 10
				t.Error("the worker still waits for the server")
				<-closed
			}
		})
	}
}
