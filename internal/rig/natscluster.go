package rig

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// NATSCluster is NATS servers with JetStream in this process, joined by routes
// over loopback. Server 0 can be cut off from the others.
type NATSCluster struct {
	t       testing.TB
	options []*server.Options
	servers []*server.Server
	routes  *Proxy // all of server 0's
}

// NewNATSCluster starts a cluster of that size. It returns when a stream can
// have a replica on each server. Options change the configuration of server i
// before it starts.
func NewNATSCluster(t testing.TB, size int, options ...func(i int, o *server.Options)) *NATSCluster {
	t.Helper()
	const tries = 5 // another program may take a port before its server gets to it
	for range tries {
		c := newNATSCluster(t, size, options)
		if c.start() {
			c.awaitStreams()
			return c
		}
		c.stopAll()
	}
	t.Fatal("start a cluster of nats-servers: not ready for connections")
	return nil
}

func newNATSCluster(t testing.TB, size int, options []func(int, *server.Options)) *NATSCluster {
	t.Helper()
	c := &NATSCluster{t: t, servers: make([]*server.Server, size)}
	ports := make([]int, size) // servers must know each other's before they start
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		ports[i] = l.Addr().(*net.TCPAddr).Port
		check(t, l.Close())
	}
	c.routes = NewProxy(t, fmt.Sprint("127.0.0.1:", ports[0]))
	for i, port := range ports {
		o := &server.Options{
			ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
			JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 1 << 30, JetStreamMaxMemory: 1 << 28,
			Cluster: server.ClusterOpts{Name: "rig", Host: "127.0.0.1", Port: port},
		}
		for j, other := range ports {
			address := fmt.Sprint("127.0.0.1:", other)
			if j == 0 || i == 0 { // server 0 dials nobody but itself: others find it, and only through the proxy
				address = c.routes.Addr()
			}
			o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: address})
		}
		if i == 0 {
			o.Cluster.Advertise = c.routes.Addr()
		}
		for _, option := range options {
			option(i, o)
		}
		c.options = append(c.options, o)
	}
	t.Cleanup(c.stopAll)
	return c
}

// start starts all servers, number 0 last: the others have found each other by
// then, so that it hears of no address that it could dial past the proxy.
func (c *NATSCluster) start() bool {
	for i := len(c.servers) - 1; i >= 0; i-- {
		if !c.tryStart(i) {
			return false
		}
		if i == 1 && len(c.servers) > 2 && !c.poll(func() bool { return c.servers[1].NumRemotes() == len(c.servers)-2 }) {
			return false
		}
	}
	return true
}

func (c *NATSCluster) tryStart(i int) bool {
	s, err := server.NewServer(c.options[i].Clone())
	check(c.t, err)
	c.servers[i] = s
	s.Start()
	return s.ReadyForConnections(10 * time.Second)
}

// awaitStreams waits until a stream can be on all servers: a cluster takes a
// moment to find its leader and its members.
func (c *NATSCluster) awaitStreams() {
	c.t.Helper()
	js, err := jetstream.New(c.connect(0))
	check(c.t, err)
	defer js.Conn().Close()
	config := jetstream.StreamConfig{Name: "RIG", Replicas: len(c.servers), Storage: jetstream.MemoryStorage}
	if !c.poll(func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if _, err := js.CreateStream(ctx, config); err != nil {
			return false
		}
		return js.DeleteStream(ctx, config.Name) == nil
	}) {
		c.t.Fatal("start a cluster of nats-servers: it takes no replicated stream")
	}
}

// poll calls ok until it is true, or for a minute.
func (c *NATSCluster) poll(ok func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(startTimeout); !ok(); <-tick.C {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

func (c *NATSCluster) stopAll() {
	for i := range c.servers {
		c.Stop(i)
	}
}

// Size returns how many servers there are.
func (c *NATSCluster) Size() int { return len(c.servers) }

// Server returns server i.
func (c *NATSCluster) Server(i int) *server.Server { return c.servers[i] }

// Connect connects to server i without the network between, and closes the
// connection at the end of the test. It does not move on to another server.
func (c *NATSCluster) Connect(i int) jetstream.JetStream {
	c.t.Helper()
	nc := c.connect(i)
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	c.t.Cleanup(func() { nc.Close(); <-closed })
	js, err := jetstream.New(nc)
	check(c.t, err)
	return js
}

func (c *NATSCluster) connect(i int) *nats.Conn {
	c.t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(inProcess{c, i}), nats.Timeout(10*time.Second), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	check(c.t, err)
	return nc
}

// inProcess connects to whichever server is number i now.
type inProcess struct {
	c *NATSCluster
	i int
}

func (p inProcess) InProcessConn() (net.Conn, error) { return p.c.servers[p.i].InProcessConn() }

// Stop stops server i. It may be stopped already.
func (c *NATSCluster) Stop(i int) {
	if s := c.servers[i]; s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// Isolate cuts server 0 off from the others, without a word to either side:
// nothing is closed, and nothing arrives until [NATSCluster.Rejoin].
func (c *NATSCluster) Isolate() { c.routes.Freeze() }

// Rejoin ends an isolation. What was sent meanwhile arrives now.
func (c *NATSCluster) Rejoin() { c.routes.Restore() }

// Leader returns the number of the server that believes it leads the stream of
// the global account, the lowest if several do, or -1.
func (c *NATSCluster) Leader(stream string) int {
	for i, s := range c.servers {
		if s.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream) {
			return i
		}
	}
	return -1
}

// MoveLeader makes server i lead the stream.
func (c *NATSCluster) MoveLeader(stream string, i int) {
	c.t.Helper()
	nc := c.connect(i)
	defer nc.Close()
	request := fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, c.options[i].ServerName)
	if !c.poll(func() bool {
		if c.Leader(stream) == i {
			return true
		}
		_, _ = nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, request, time.Second) // refused until the follower is ready
		return c.Leader(stream) == i
	}) {
		c.t.Fatalf("move stream %s to server %d: it leads on %d", stream, i, c.Leader(stream))
	}
}
