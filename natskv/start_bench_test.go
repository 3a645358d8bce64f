package natskv_test

import (
	"encoding/json"
	"runtime"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/figure"
	"github.com/tokenbus/tokenbus/natskv"
)

// BenchmarkStart is the start of a worker with its own server, whose store has
// very many accounts: until the first Get is answered, against the bare server
// on the same folder, until it answers a get of the same document's message.
// Of the index, which is built beside, it tells when it is complete and what
// it takes. With a million accounts it runs for two minutes, most of it to write
// them and to build the index once.
func BenchmarkStart(b *testing.B) {
	accounts := figure.Size(1_000, 1_000_000)
	dir := b.TempDir()
	began := time.Now()
	fillStore(b, dir, accounts)
	b.ReportMetric(time.Since(began).Seconds(), "fill/s")

	last := benchKey(accounts - 1)
	get := func() (*server.Server, jetstream.JetStream, *natskv.Store) {
		s, js := startBench(b, dir)
		st, err := natskv.NewStore(b.Context(), benchConfig(js))
		fatal(b, err)
		a, err := st.Get(b.Context(), last)
		fatal(b, err)
		if a.Key != last {
			b.Fatalf("got %v", a.Key)
		}
		return s, js, st
	}
	ours := func() []float64 {
		began := time.Now()
		s, js, st := get()
		took := time.Since(began)
		st.Close()
		stopBench(s, js)
		return []float64{took.Seconds() * 1000}
	}
	rival := func() []float64 {
		began := time.Now()
		s, js := startBench(b, dir)
		stream, err := js.Stream(b.Context(), "KV_BENCH_ACCOUNTS")
		fatal(b, err)
		msg, err := stream.GetLastMsgForSubject(b.Context(), benchSubject(last))
		took := time.Since(began)
		fatal(b, err)
		if n := stream.CachedInfo().State.Msgs; len(msg.Data) == 0 || n != uint64(accounts) {
			b.Fatalf("the stream has %d messages, want %d", n, accounts)
		}
		stopBench(s, js)
		return []float64{took.Seconds() * 1000}
	}
	figure.Compare(b, ours, rival, figure.Column{Unit: "ms", AtMost: 1.2})

	began = time.Now()
	s, js, st := get()
	due, err := st.Due(b.Context(), time.UnixMilli(1<<50), 2*accounts) // waits for the index
	fatal(b, err)
	b.ReportMetric(time.Since(began).Seconds(), "complete/s")
	if len(due) != accounts {
		b.Fatalf("the index has %d accounts of %d", len(due), accounts)
	}
	clear(due)
	st.Close()
	with := heap()
	runtime.KeepAlive(st)
	b.ReportMetric(float64(with-heap())/float64(accounts), "index/B")
	stopBench(s, js)
}

func benchConfig(js jetstream.JetStream) natskv.Config {
	return natskv.Config{JetStream: js, Prefix: "BENCH", Timeout: time.Minute}
}

func benchSubject(key account.Key) string { return "$KV.BENCH_ACCOUNTS." + key.String() }

// startBench starts a server on the folder, as a worker does, but that writes
// are acknowledged before they are on disk.
func startBench(b *testing.B, dir string) (*server.Server, jetstream.JetStream) {
	b.Helper()
	s, err := server.NewServer(&server.Options{
		ServerName: "bench", DontListen: true, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: dir, JetStreamMaxStore: 16 << 30, JetStreamMaxMemory: 1 << 28, SyncInterval: time.Minute,
	})
	fatal(b, err)
	s.Start()
	if !s.ReadyForConnections(time.Minute) {
		b.Fatal("the NATS server doesn't start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	fatal(b, err)
	js, err := jetstream.New(nc)
	fatal(b, err)
	return s, js
}

func stopBench(s *server.Server, js jetstream.JetStream) {
	closed := make(chan struct{})
	js.Conn().SetClosedHandler(func(*nats.Conn) { close(closed) })
	js.Conn().Close()
	<-closed
	s.Shutdown()
	s.WaitForShutdown()
}

// fillStore writes accounts past the store, which would wait for each. Their
// documents have some 600 bytes.
func fillStore(b *testing.B, dir string, accounts int) {
	b.Helper()
	s, js := startBench(b, dir)
	defer stopBench(s, js)
	st, err := natskv.NewStore(b.Context(), benchConfig(js))
	fatal(b, err)
	st.Close()
	pub, err := jetstream.New(js.Conn(), jetstream.WithPublishAsyncMaxPending(4000))
	fatal(b, err)
	now := time.UnixMilli(1_700_000_000_000)
	a := account.Account{
		Type: "oauth", Status: account.Active, Version: 1, Rev: 1, Credentials: make([]byte, 256),
		CreatedAt: now, UpdatedAt: now, SchemaVersion: account.SchemaVersion,
	}
	for n := range accounts {
		a.Key, a.RefreshAt = benchKey(n), benchTime(now, n, 0)
		data, err := json.Marshal(a)
		fatal(b, err)
		_, err = pub.PublishMsgAsync(&nats.Msg{Subject: benchSubject(a.Key), Header: nats.Header{natskv.FactsHeader: {natskv.EncodeFacts(a)}}, Data: data})
		fatal(b, err)
	}
	<-pub.PublishAsyncComplete() // how many there are is seen at each start
}

func fatal(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
