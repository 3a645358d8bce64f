// Package clienttest is a tokenbus fleet for the tests of programs that use
// package client: a NATS server and two workers inside the test's process, which
// listen nowhere and speak the real protocol, with a clock to turn and failures to
// order.
//
//	fleet := clienttest.Start(t)
//	key := fleet.Login("openai.alice", time.Hour)
//	c := fleet.Client()
//	token, err := c.Token(ctx, key)   // "openai.alice-1"
//	fleet.Advance(time.Hour)
//	token, err = c.Token(ctx, key)    // "openai.alice-2"
//
// The workers refresh by themselves: a look-up that no living token serves brings
// the next version, unless [Fleet.FailRefresh] says what it brings. A bump is
// heard a moment after the call that sends it; where a test needs a version at
// once it asks for it with client.WithMinVersion.
package clienttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/events"
)

// Workers is how many workers a fleet has.
const Workers = 2

// startPatience is how long the server may take to start, on a busy machine.
const startPatience = time.Minute

// Fleet is a NATS server with workers. Use [Start]. Its methods are safe for
// concurrent use, and end the test where they fail.
type Fleet struct {
	t        testing.TB
	subjects events.Subjects
	server   *server.Server
	js       jetstream.JetStream
	workers  [Workers]worker
	offset   atomic.Int64   // of the clock
	tasks    sync.WaitGroup // requests
	over     chan struct{}  // closed when the test ends

	mu       sync.Mutex // guards what follows
	accounts map[account.Key]*login
	asked    map[account.Key][]events.TokenRequest
	override func(account.Key, events.TokenRequest) []byte
	delay    time.Duration
	cut      bool
	ended    bool
	conns    []net.Conn // of clients
}

// login is an account of the fleet.
type login struct {
	version    account.Version
	rev        account.Rev
	ttl        time.Duration
	expires    time.Time
	extra      account.Extra
	err        *events.Error // the answer to everything
	refreshErr *events.Error // the answer to what no living token serves
}

// worker is one member of the queue group. It is stopped for as long as frozen
// is locked.
type worker struct {
	nc       *nats.Conn
	subs     []*nats.Subscription
	frozen   sync.Mutex
	isFrozen atomic.Bool
}

// Start starts a fleet, which ends with the test.
func Start(t testing.TB) *Fleet {
	t.Helper()
	subjects, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	f := &Fleet{t: t, subjects: subjects, accounts: map[account.Key]*login{}, asked: map[account.Key][]events.TokenRequest{}, over: make(chan struct{})}
	if f.server, err = server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true}); err != nil {
		t.Fatalf("configure NATS server: %v", err)
	}
	t.Cleanup(func() { f.server.Shutdown(); f.server.WaitForShutdown() })
	f.server.Start()
	if !f.server.ReadyForConnections(startPatience) {
		t.Fatal("start NATS server: not ready")
	}
	for i := range f.workers {
		w := &f.workers[i]
		if w.nc, err = nats.Connect("", nats.InProcessServer(f.server), nats.Name(fmt.Sprintf("worker %d", i))); err != nil {
			t.Fatalf("connect worker: %v", err)
		}
	}
	t.Cleanup(f.end)
	if f.js, err = jetstream.New(f.workers[0].nc); err != nil {
		t.Fatal(err)
	}
	_, err = f.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: events.StreamBumps, Subjects: []string{subjects.AllBumps()}, Storage: jetstream.MemoryStorage, MaxMsgsPerSubject: 1, AllowDirect: true,
	})
	if err != nil {
		t.Fatalf("create stream: %v", err)
	}
	f.Join()
	return f
}

// end ends the workers.
func (f *Fleet) end() {
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	close(f.over)
	for i := range f.workers {
		f.Thaw(i)
		f.workers[i].nc.Close()
	}
	f.tasks.Wait()
}

// Client returns a client of the fleet that goes by its clock. It is closed at
// the end of the test.
func (f *Fleet) Client(change ...func(*client.Config)) *client.Client {
	f.t.Helper()
	cfg := client.Config{Conn: f.Connect(), Now: f.Now}
	for _, c := range change {
		c(&cfg)
	}
	c, err := client.New(cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Connect returns a connection as a gateway has it, which [Fleet.Cut] cuts. It is
// closed at the end of the test.
func (f *Fleet) Connect(opts ...nats.Option) *nats.Conn {
	f.t.Helper()
	nc, err := nats.Connect("", append([]nats.Option{
		nats.InProcessServer(f), nats.Name("gateway"), nats.CustomInboxPrefix(client.InboxPrefix), nats.MaxReconnects(-1),
		nats.ReconnectWait(5 * time.Millisecond), nats.ReconnectJitter(0, 0), nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2),
	}, opts...)...)
	if err != nil {
		f.t.Fatalf("connect: %v", err)
	}
	f.t.Cleanup(nc.Close)
	return nc
}

// InProcessConn implements [nats.InProcessConnProvider] for gateways.
func (f *Fleet) InProcessConn() (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cut {
		return nil, errors.New("the connection is cut")
	}
	conn, err := f.server.InProcessConn()
	if err == nil {
		f.conns = append(f.conns, conn)
	}
	return conn, err
}

// Cut cuts the gateways' connections, until [Fleet.Heal].
func (f *Fleet) Cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = true
	for _, conn := range f.conns {
		_ = conn.Close()
	}
	f.conns = nil
}

// Heal lets gateways connect again, which takes them a moment.
func (f *Fleet) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = false
}

// Leave takes all workers away: requests find no responders.
func (f *Fleet) Leave() {
	for i := range f.workers {
		w := &f.workers[i]
		var err error
		for _, sub := range w.subs {
			err = errors.Join(err, sub.Unsubscribe())
		}
		w.subs = nil
		if err = errors.Join(err, w.nc.Flush()); err != nil {
			f.t.Errorf("leave: %v", err)
		}
	}
}

// Join brings the workers back after [Fleet.Leave].
func (f *Fleet) Join() {
	for i := range f.workers {
		w := &f.workers[i]
		var err error
		for subject, answer := range map[string]func(*nats.Msg) ([]byte, error){f.subjects.AllRequests(): f.reply, f.subjects.AllCatchUps(): f.lastBumps} {
			sub, subErr := w.nc.QueueSubscribe(subject, events.QueueGroup, func(m *nats.Msg) { f.serve(w, m, answer) })
			w.subs, err = append(w.subs, sub), errors.Join(err, subErr)
		}
		if err = errors.Join(err, w.nc.Flush()); err != nil {
			f.t.Errorf("join: %v", err)
		}
	}
}

// Freeze stops worker i, counted from 0, as SIGSTOP does: it is handed requests
// and answers none, until [Fleet.Thaw].
func (f *Fleet) Freeze(i int) {
	w := &f.workers[i]
	w.frozen.Lock()
	w.isFrozen.Store(true)
}

// Thaw lets worker i go on: what it was handed meanwhile is answered.
func (f *Fleet) Thaw(i int) {
	if w := &f.workers[i]; w.isFrozen.Swap(false) {
		w.frozen.Unlock()
	}
}

// Delay makes each answer take so long; 0 ends that.
func (f *Fleet) Delay(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay = d
}

// Now is the fleet's clock.
func (f *Fleet) Now() time.Time { return time.Now().Add(time.Duration(f.offset.Load())) }

// Advance turns the clock, of the fleet and of its clients.
func (f *Fleet) Advance(d time.Duration) { f.offset.Add(int64(d)) }

// publish sends a bump and waits until the stream has it.
func (f *Fleet) publish(b events.Bump) {
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	if _, err := f.js.PublishMsg(ctx, &nats.Msg{Subject: f.subjects.Bump(b.Key), Header: b.Header("worker"), Data: b.Encode()}); err != nil {
		f.t.Errorf("publish bump of %s: %v", b.Key, err)
	}
}
