package natskv_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/natskv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a NATS server in this process until the test ends.
func start(t *testing.T, change func(*server.Options)) *server.Server {
	t.Helper()
	s, ok := tryStart(t, 30*time.Second, change)
	if !ok {
		t.Fatal("the NATS server doesn't start")
	}
	return s
}

func tryStart(t *testing.T, patience time.Duration, change func(*server.Options)) (*server.Server, bool) {
	t.Helper()
	opts := &server.Options{
		ServerName: t.Name(), DontListen: true, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 1 << 30, JetStreamMaxMemory: 1 << 28,
	}
	if change != nil {
		change(opts)
	}
	s, err := server.NewServer(opts)
	must(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s, s.ReadyForConnections(patience)
}

// connect returns a connection to a server in this process.
func connect(t *testing.T, s *server.Server) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	must(t, err)
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	t.Cleanup(func() { nc.Close(); <-closed })
	js, err := jetstream.New(nc)
	must(t, err)
	return js
}

// single returns a connection to a server of the test's own.
func single(t *testing.T) jetstream.JetStream { t.Helper(); return connect(t, start(t, nil)) }

// cluster runs three servers on loopback and returns a connection to each.
func cluster(t *testing.T) []jetstream.JetStream {
	t.Helper()
	servers := tryCluster(t)
	for tries := 1; servers == nil && tries < 5; tries++ {
		servers = tryCluster(t) // another program took one of the ports
	}
	if servers == nil {
		t.Fatal("the cluster doesn't start")
	}
	var out []jetstream.JetStream
	for _, s := range servers {
		out = append(out, connect(t, s))
	}
	// A cluster takes a moment to find its leader and its members.
	eventually(t, "the cluster takes a replicated stream", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := out[2].CreateStream(ctx, jetstream.StreamConfig{Name: "READY", Replicas: 3, Storage: jetstream.MemoryStorage})
		return err == nil
	})
	return out
}

// tryCluster returns nil if a port was taken before its server got to it: the
// servers must know each other's ports before they start.
func tryCluster(t *testing.T) (servers []*server.Server) {
	t.Helper()
	var ports []int
	var routes []*url.URL
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
		must(t, l.Close())
	}
	for i, port := range ports {
		s, ok := tryStart(t, 10*time.Second, func(o *server.Options) {
			o.ServerName, o.DontListen, o.Host, o.Port = fmt.Sprintf("n%d", i), false, "127.0.0.1", server.RANDOM_PORT
			o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port}
			o.Routes = routes
		})
		if !ok {
			for _, s := range append(servers, s) {
				s.Shutdown()
				s.WaitForShutdown()
			}
			return nil
		}
		servers = append(servers, s)
	}
	return servers
}

var prefixes atomic.Int64

// config returns a Config with buckets of its own.
func config(js jetstream.JetStream) natskv.Config {
	return natskv.Config{JetStream: js, Prefix: fmt.Sprint("T", prefixes.Add(1)), LeaseTTL: time.Second, Timeout: 10 * time.Second}
}

func logTo(w *syncBuffer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// eventually polls for a condition that a server brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
