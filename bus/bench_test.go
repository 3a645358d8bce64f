package bus_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
)

// The two benchmarks do the same but for the bus: the same server, TCP on
// loopback, the same size of messages, requests that wait for their reply
// (latency) or many at once (throughput). What a cached look-up costs beyond
// a bare echo is the difference.
//
//	go test -run '^$' -bench 'Echo|Cached' -count 5 ./bus

func BenchmarkEcho(b *testing.B) {
	server := startServer(b)
	body := cachedReply(b)
	worker := as(b, server, bus.RoleWorker)
	_, err := worker.QueueSubscribe("tokenbus.v1.request.>", "tokenbus", func(m *nats.Msg) { _ = m.Respond(body) })
	check(b, err)
	check(b, worker.Flush())
	requests(b, server)
}

func BenchmarkCachedRequest(b *testing.B) {
	server := startServer(b)
	body := cachedReply(b)
	worker := as(b, server, bus.RoleWorker)
	f := newFleet()
	f.cached = func(account.Key, events.TokenRequest) ([]byte, bool) { return body, true }
	startWorker(b, worker, f)
	requests(b, server)
}

// cachedReply is a reply of the usual size.
func cachedReply(b *testing.B) []byte {
	r := reply(key(b, "openai.alice"), 42)
	r.AccessToken = account.NewSecret(longToken)
	r.ExpiresAt = time.Now().Add(time.Hour)
	return r.Encode()
}

var longToken = func() string {
	b := make([]byte, 1200)
	for i := range b {
		b[i] = 'a' + byte(i%26)
	}
	return string(b)
}()

// asker sends requests to one server.
type asker struct {
	conn  *nats.Conn
	inbox string
	slots chan struct{} // one taken by each request under way
}

const window = 512

func newAsker(b *testing.B, server *bus.Server) *asker {
	a := &asker{conn: as(b, server, bus.RoleClient), slots: make(chan struct{}, window)}
	a.inbox = a.conn.NewInbox()
	_, err := a.conn.Subscribe(a.inbox, func(*nats.Msg) { <-a.slots })
	check(b, err)
	return a
}

// send sends a request, up to window at once.
func (a *asker) send(b *testing.B) {
	a.slots <- struct{}{}
	if err := a.conn.PublishRequest("tokenbus.v1.request.openai.alice", a.inbox, nil); err != nil {
		b.Fatal(err)
	}
}

// wait waits for all replies.
func (a *asker) wait() {
	for range window {
		a.slots <- struct{}{}
	}
	for range window {
		<-a.slots
	}
}

func requests(b *testing.B, server *bus.Server) {
	b.Run("one", func(b *testing.B) {
		client := as(b, server, bus.RoleClient)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := client.Request("tokenbus.v1.request.openai.alice", nil, patience); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("many", func(b *testing.B) {
		a := newAsker(b, server)
		for b.Loop() {
			a.send(b)
		}
		a.wait()
	})
}

// BenchmarkCachedOverEcho alternates between a bare echo, the request service
// and a service of the micro package, so that what else the machine does
// meets all three alike, and reports how much longer the two services take.
func BenchmarkCachedOverEcho(b *testing.B) {
	body := cachedReply(b)
	echo := func(nc *nats.Conn) {
		_, err := nc.QueueSubscribe("tokenbus.v1.request.>", "tokenbus", func(m *nats.Msg) { _ = m.Respond(body) })
		check(b, err)
	}
	cached := func(nc *nats.Conn) {
		f := newFleet()
		f.cached = func(account.Key, events.TokenRequest) ([]byte, bool) { return body, true }
		startWorker(b, nc, f)
	}
	library := func(nc *nats.Conn) {
		_, err := micro.AddService(nc, micro.Config{Name: "x", Version: "0.0.0", QueueGroup: "tokenbus", Endpoint: &micro.EndpointConfig{
			Subject: "tokenbus.v1.request.>",
			Handler: micro.HandlerFunc(func(r micro.Request) { _ = r.Respond(body) }),
		}})
		check(b, err)
	}
	var askers []*asker
	for _, start := range []func(*nats.Conn){echo, cached, library} {
		server := startServer(b)
		nc := as(b, server, bus.RoleWorker)
		start(nc)
		check(b, nc.Flush())
		askers = append(askers, newAsker(b, server))
	}
	var took [3]time.Duration
	for b.Loop() {
		for i, a := range askers {
			began := time.Now()
			for range 2 * window {
				a.send(b)
			}
			a.wait()
			took[i] += time.Since(began)
		}
	}
	b.ReportMetric(float64(took[0].Nanoseconds())/float64(b.N*2*window), "echo-ns")
	b.ReportMetric(float64(took[1])/float64(took[0]), "cached/echo")
	b.ReportMetric(float64(took[2])/float64(took[0]), "micro/echo")
}
