package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/figure"
	"github.com/tokenbus/tokenbus/internal/memory"
	"github.com/tokenbus/tokenbus/natskv"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/seal"
)

// core is a worker as it runs with everything built in: the real core, with
// accounts and cache in the embedded server's JetStream.
type core struct {
	*provider.Provider
	store *natskv.Store
	js    jetstream.JetStream // a connection of its own, over TCP like the command's
	args  []string
}

func startCore(b *testing.B) *core {
	b.Helper()
	dir := b.TempDir()
	subjects := must(events.NewSubjects(events.DefaultPrefix))(b)
	server := must(bus.StartServer(bus.ServerConfig{Listen: "127.0.0.1:0", DataDir: dir, Auth: bus.AuthNone, Subjects: subjects}))(b)
	b.Cleanup(server.Shutdown)
	nc := must(bus.Connect(bus.Config{Server: server}))(b)
	b.Cleanup(nc.Close)
	js := must(jetstream.New(nc))(b)
	if err := bus.EnsureStreams(b.Context(), js, bus.StreamsConfig{Subjects: subjects}); err != nil {
		b.Fatal(err)
	}
	c := &core{args: []string{"--nats-url", server.URL(), "--data-dir", dir}}
	c.store = must(natskv.NewStore(b.Context(), natskv.Config{JetStream: js}))(b)
	b.Cleanup(c.store.Close)
	cache := must(natskv.NewCache(b.Context(), natskv.Config{JetStream: js}))(b)
	endpoint := must(oauth.New(oauth.Config{Definitions: oauth.Definitions{"acme": {
		TokenURL: "http://127.0.0.1:1/token", ClientID: "test", Auth: oauth.AuthNone, Encoding: oauth.EncodingForm, Timeout: 5 * time.Second,
		DeadGrantErrors: []string{"invalid_grant"}, MaxConcurrent: 32, ServeWhileRefreshing: true,
	}}}))(b)
	c.Provider = must(provider.New(provider.Config{
		Store: c.store, Cache: cache, Locker: &memory.Locker{}, Journal: &memory.Journal{}, Spool: &memory.Journal{}, Endpoint: endpoint,
		Publisher: must(bus.NewPublisher(bus.PublisherConfig{Conn: nc, Subjects: subjects, Source: "w"}))(b),
		Sealer:    must(seal.New())(b), WorkerID: "w", Host: "host",
	}))(b)
	worker := must(bus.StartWorker(b.Context(), bus.WorkerConfig{Conn: nc, Subjects: subjects, Tokens: c, Accounts: c, Observer: c, ID: "w"}))(b)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = c.Run(ctx) })
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = worker.Drain(ctx)
		stop()
		running.Wait()
		_ = c.Close(ctx)
		worker.Close()
	})
	outside := must(bus.Connect(bus.Config{URLs: []string{server.URL()}}))(b)
	b.Cleanup(outside.Close)
	c.js = must(jetstream.New(outside))(b)
	return c
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// announced waits until nothing of an import is under way in the background, so
// that the rival doesn't pay for it. The sweep makes up for what failed.
func (c *core) announced(b *testing.B) {
	b.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(time.Minute); ; {
		left := must(c.store.Pending(b.Context(), 1000))(b)
		if len(left) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			b.Fatalf("%d accounts or more are not announced, such as %v", len(left), left[0])
		}
	}
}

// BenchmarkImport is tokenctl accounts import of one file, from the command line
// to the summary, against bare creates of keys in the same server: documents of
// the same size, as many under way at once. Both go over TCP, and the server
// syncs each write to disk, as it does by default.
func BenchmarkImport(b *testing.B) {
	n := figure.Size(100, 5000)
	c := startCore(b)
	bare := must(c.js.CreateKeyValue(b.Context(), jetstream.KeyValueConfig{Bucket: "BARE"}))(b)
	accounts := must(c.js.KeyValue(b.Context(), natskv.DefaultPrefix+"_ACCOUNTS"))(b)
	token := strings.Repeat("a", 1200)
	round := 0
	file := func() string {
		round++
		var text bytes.Buffer
		for i := range n {
			text.WriteByte("[,"[min(i, 1)])
			fmt.Fprintf(&text, `{"platform":"acme","id":"r%d-%d","label":"a@example.com","credentials":{"access_token":"%s","refresh_token":"r%[1]d-%[2]d","expires_at":"%[4]s"}}`,
				round, i, token, time.Now().Add(240*time.Hour).UTC().Format(time.RFC3339))
		}
		text.WriteByte(']')
		path := filepath.Join(b.TempDir(), "logins.json")
		if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
			b.Fatal(err)
		}
		return path
	}
	run := func(path string) {
		var stdout, stderr bytes.Buffer
		code := newApp(&stdout, &stderr).run(b.Context(), append([]string{"tokenctl", "accounts", "import", path}, c.args...))
		if want := fmt.Sprintf("\n%d created\n", n); code != 0 || !strings.HasSuffix(stdout.String(), want) {
			b.Fatalf("exit code %d, want %q: %.2000s", code, want, stderr.String())
		}
	}
	rate := func(began time.Time) []float64 { return []float64{float64(n) / time.Since(began).Seconds()} }
	ours := func() []float64 {
		path := file()
		began := time.Now()
		run(path)
		r := rate(began)
		c.announced(b)
		return r
	}
	// One account tells what a document is made of.
	size := func() int {
		one := filepath.Join(b.TempDir(), "one.json")
		body := fmt.Sprintf(`{"platform":"acme","id":"r0-0","label":"a@example.com","credentials":{"access_token":"%s","refresh_token":"r0-00000","expires_at":"2100-01-01T00:00:00Z"}}`, token)
		if err := os.WriteFile(one, []byte(body), 0o600); err != nil {
			b.Fatal(err)
		}
		if code := newApp(io.Discard, os.Stderr).run(b.Context(), append([]string{"tokenctl", "accounts", "import", one}, c.args...)); code != 0 {
			b.Fatalf("exit code %d", code)
		}
		c.announced(b)
		return len(must(accounts.Get(b.Context(), "acme.r0-0"))(b).Value())
	}()
	written := 0
	rival := func() []float64 {
		document := bytes.Repeat([]byte("a"), size)
		var next atomic.Int64
		var failed atomic.Pointer[error]
		var wg sync.WaitGroup
		began := time.Now()
		for range inFlight {
			wg.Go(func() {
				for i := next.Add(1); i <= int64(n); i = next.Add(1) {
					if _, err := bare.Create(b.Context(), fmt.Sprintf("acme.%d", written+int(i)), document); err != nil {
						failed.Store(&err)
					}
				}
			})
		}
		wg.Wait()
		r := rate(began)
		if err := failed.Load(); err != nil {
			b.Fatal(*err)
		}
		written += n
		return r
	}
	figure.Compare(b, ours, rival, figure.Column{Unit: "accounts/s", AtLeast: 0.3})
	for bucket, want := range map[jetstream.KeyValue]int{accounts: round*n + 1, bare: written} {
		if status := must(bucket.Status(b.Context()))(b); status.Values() != uint64(want) {
			b.Fatalf("bucket %s: %d documents, want %d", status.Bucket(), status.Values(), want)
		}
	}
}
