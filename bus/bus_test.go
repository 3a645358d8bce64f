package bus_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// subjects are those under the default prefix.
func subjects(t testing.TB) events.Subjects {
	t.Helper()
	s, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func key(t testing.TB, text string) account.Key {
	t.Helper()
	k, err := account.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// startServer starts an embedded server that syncs nothing.
func startServer(t testing.TB, change ...func(*bus.ServerConfig)) *bus.Server {
	t.Helper()
	cfg := bus.ServerConfig{Listen: "127.0.0.1:0", DataDir: t.TempDir(), Subjects: subjects(t), SyncInterval: time.Minute}
	for _, c := range change {
		c(&cfg)
	}
	s, err := bus.StartServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

// as connects over TCP with the nkey of the role.
func as(t testing.TB, s *bus.Server, role bus.Role, change ...func(*bus.Config)) *nats.Conn {
	t.Helper()
	cfg := bus.Config{URLs: []string{s.URL()}, NKey: s.KeyFile(role), Name: string(role), InboxPrefix: bus.InboxPrefix(role)}
	for _, c := range change {
		c(&cfg)
	}
	nc, err := bus.Connect(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func stream(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// streams makes the streams and returns JetStream.
func streams(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js := stream(t, nc)
	if err := bus.EnsureStreams(t.Context(), js, bus.StreamsConfig{Subjects: subjects(t)}); err != nil {
		t.Fatal(err)
	}
	return js
}

// receive returns what comes from the channel, or fails.
func receive[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("nothing came within %s: %s", patience, what)
		panic("unreachable")
	}
}

// logs keeps what is logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// fleet is a small working stand-in for the provider: tokens, verbs and ears.
type fleet struct {
	cached  func(account.Key, events.TokenRequest) ([]byte, bool)
	token   func(context.Context, account.Key, events.TokenRequest) (events.TokenReply, error)
	verb    func(name string, req any) (events.Account, error)
	refresh func(context.Context, events.Refreshed) error

	bumps   chan events.Bump
	status  chan events.Status
	resyncs chan struct{}
}

func newFleet() *fleet {
	return &fleet{bumps: make(chan events.Bump, 100), status: make(chan events.Status, 100), resyncs: make(chan struct{}, 100)}
}

func (f *fleet) Cached(k account.Key, r events.TokenRequest) ([]byte, bool) {
	if f.cached == nil {
		return nil, false
	}
	return f.cached(k, r)
}

func (f *fleet) Ask(ctx context.Context, k account.Key, r events.TokenRequest, answer func([]byte, error)) {
	if f.token == nil {
		answer(nil, &events.Error{Code: events.CodeNotFound, Message: "no such account"})
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(ctx, r.Timeout)
		defer cancel()
		reply, err := f.token(ctx, k, r)
		if err != nil {
			answer(nil, err)
			return
		}
		answer(reply.Encode(), nil)
	}()
}

func (f *fleet) ObserveBump(b events.Bump) { f.bumps <- b }

func (f *fleet) ObserveStatus(e events.Status) { f.status <- e }

func (f *fleet) ObserveRefreshed(ctx context.Context, e events.Refreshed) error {
	if f.refresh == nil {
		return nil
	}
	return f.refresh(ctx, e)
}

func (f *fleet) Resync() {
	select {
	case f.resyncs <- struct{}{}:
	default:
	}
}

func (f *fleet) do(name string, req any) (events.Account, error) {
	if f.verb == nil {
		return events.Account{}, errors.New("no verb was expected")
	}
	return f.verb(name, req)
}

func (f *fleet) Put(_ context.Context, r events.PutRequest) (events.Account, error) {
	return f.do("put", r)
}
func (f *fleet) Patch(_ context.Context, r events.PatchRequest) (events.Account, error) {
	return f.do("patch", r)
}
func (f *fleet) Get(_ context.Context, r events.KeyRequest) (events.Account, error) {
	return f.do("get", r)
}
func (f *fleet) Delete(_ context.Context, r events.KeyRequest) (events.Account, error) {
	return f.do("delete", r)
}
func (f *fleet) Enable(_ context.Context, r events.KeyRequest) (events.Account, error) {
	return f.do("enable", r)
}
func (f *fleet) Disable(_ context.Context, r events.KeyRequest) (events.Account, error) {
	return f.do("disable", r)
}
func (f *fleet) Refresh(_ context.Context, r events.KeyRequest) (events.Account, error) {
	return f.do("refresh", r)
}
func (f *fleet) ClearError(_ context.Context, r events.KeyRequest) (events.Account, error) {
	return f.do("clear_error", r)
}
func (f *fleet) JournalList(context.Context) (events.JournalReply, error) {
	a, err := f.do("journal", events.JournalRequest{})
	return events.NewJournalReply("worker-1", []events.JournalRecord{{Platform: a.Platform, ID: a.ID, FromVersion: a.Version}}), err
}
func (f *fleet) List(_ context.Context, r events.ListRequest) (events.ListReply, error) {
	a, err := f.do("list", r)
	return events.ListReply{Accounts: []events.Account{a}}, err
}

// startWorker starts a worker over the connection and stops it at the end.
func startWorker(t testing.TB, nc *nats.Conn, f *fleet, change ...func(*bus.WorkerConfig)) *bus.Worker {
	t.Helper()
	cfg := bus.WorkerConfig{Conn: nc, Subjects: subjects(t), Tokens: f, Accounts: f, Observer: f, ID: "worker-1", Version: "1.2.3"}
	for _, c := range change {
		c(&cfg)
	}
	w, err := bus.StartWorker(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func wantLine(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	text := err.Error()
	if strings.Contains(text, "\n") {
		t.Errorf("error has more than one line: %q", text)
	}
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("error %q lacks %q", text, p)
		}
	}
}
