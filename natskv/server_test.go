package natskv_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/natskv"
)

// What may be left: a watcher that is closed while nats.go makes its consumer
// anew. Stop ends the old one, and the new one stays (nats.go 1.55, its
// orderedSubscription); TestCloseLeavesNothing is about all others.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*pullSubscription).pullMessages"),
		goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*pullConsumer).Messages.func2"))
}

func TestCloseLeavesNothing(t *testing.T) {
	js := single(t)
	pulling := func() int {
		stacks := make([]byte, 8<<20)
		return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "pullSubscription).pullMessages(")
	}
	before := pulling()
	s, err := natskv.NewStore(t.Context(), config(js))
	must(t, err)
	eventually(t, "it watches", func() bool { return pulling() > before })
	s.Close()
	eventually(t, "the watcher's goroutine ends", func() bool { return pulling() <= before })
}

// start runs a NATS server in this process until the test ends.
func start(t *testing.T, change func(*server.Options)) *server.Server {
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
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the NATS server doesn't start")
	}
	return s
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

func asJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	must(t, err)
	return string(data)
}
