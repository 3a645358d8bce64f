package client_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/rig"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	subjects = must(events.NewSubjects(events.DefaultPrefix))
	alice    = must(account.ParseKey("openai.alice"))
	bob      = must(account.ParseKey("openai.bob"))
)

// tokens is a small working stand-in for the provider.
type tokens func(ctx context.Context, key account.Key, req events.TokenRequest) (events.TokenReply, error)

func (tokens) Cached(account.Key, events.TokenRequest) ([]byte, bool) { return nil, false }

func (f tokens) Ask(ctx context.Context, k account.Key, r events.TokenRequest, answer func([]byte, error)) {
	go func() {
		ctx, cancel := context.WithTimeout(ctx, r.Timeout)
		defer cancel()
		reply, err := f(ctx, k, r)
		if err != nil {
			answer(nil, err)
			return
		}
		answer(reply.Encode(), nil)
	}()
}

// nobody carries out no verb and hears nothing.
type nobody struct{ bus.Accounts }

func (nobody) ObserveBump(events.Bump)                                  {}
func (nobody) ObserveStatus(events.Status)                              {}
func (nobody) ObserveRefreshed(context.Context, events.Refreshed) error { return nil }
func (nobody) Resync()                                                  {}

func startServer(t testing.TB, change ...func(*bus.ServerConfig)) *bus.Server {
	t.Helper()
	cfg := bus.ServerConfig{Listen: "127.0.0.1:0", DataDir: t.TempDir(), Subjects: subjects, SyncInterval: time.Minute}
	for _, c := range change {
		c(&cfg)
	}
	s, err := bus.StartServer(cfg)
	check(t, err)
	t.Cleanup(s.Shutdown)
	return s
}

func startWorker(t testing.TB, s *bus.Server, f tokens) *bus.Worker {
	t.Helper()
	nc, err := bus.Connect(bus.Config{Server: s, Name: "worker"})
	check(t, err)
	t.Cleanup(nc.Close)
	w, err := bus.StartWorker(t.Context(), bus.WorkerConfig{Conn: nc, Subjects: subjects, Tokens: f, Accounts: nobody{}, Observer: nobody{}, ID: "worker"})
	check(t, err)
	t.Cleanup(w.Close)
	return w
}

func newClient(t testing.TB, s *bus.Server) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: s.URL(), NKey: s.KeyFile(bus.RoleClient)})
	check(t, err)
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

// setUp starts a server, a worker and a client.
func setUp(t testing.TB, f tokens) *client.Client {
	t.Helper()
	s := startServer(t)
	startWorker(t, s, f)
	return newClient(t, s)
}

func replyOf(k account.Key, v account.Version) events.TokenReply {
	return events.TokenReply{Key: k, Version: v, AccessToken: account.NewSecret(fmt.Sprintf("secret-%s-%d", k.ID(), v)), TokenType: "Bearer", Source: events.SourceStore}
}

var expires = time.Date(2126, 1, 2, 3, 4, 5, 0, time.UTC)

func full(k account.Key) events.TokenReply {
	r := replyOf(k, 7)
	r.ExpiresAt, r.TokenType = expires, "bearer"
	r.Extra = account.Extra{"chatgpt_account_id": json.RawMessage(`"acc-1"`)}
	return r
}

func TestToken(t *testing.T) {
	c := setUp(t, func(_ context.Context, k account.Key, req events.TokenRequest) (events.TokenReply, error) {
		if left := req.Timeout; left > events.DefaultTimeout || left < events.DefaultTimeout/2 {
			t.Errorf("timeout is %s", left)
		}
		if req.Timeout = 0; req != (events.TokenRequest{}) {
			t.Errorf("request is %+v", req)
		}
		return full(k), nil
	})
	got, err := c.Token(t.Context(), alice)
	check(t, err)
	if got.Key != alice || got.Version != 7 || got.AccessToken() != "secret-alice-7" || !got.ExpiresAt.Equal(expires) ||
		got.Source != events.SourceStore || got.Extra.Text("chatgpt_account_id") != "acc-1" {
		t.Errorf("token is %v", got)
	}
	r := httptest.NewRequest("GET", "/", nil)
	got.SetAuthHeader(r)
	if h := r.Header.Get("Authorization"); h != "Bearer secret-alice-7" {
		t.Errorf("header is %q", h)
	}
}

func TestP8TokenPrintsNoSecret(t *testing.T) {
	c := setUp(t, func(_ context.Context, k account.Key, _ events.TokenRequest) (events.TokenReply, error) {
		return full(k), nil
	})
	got, err := c.Token(t.Context(), alice)
	check(t, err)
	var log strings.Builder
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("token", "token", got, "pointer", &got)
	body, _ := json.Marshal(got)
	out := fmt.Sprintf("%v %+v %#v %s %q %x %d %v %+v", got, got, got, got, got, got, got, &got, []client.Token{got}) + log.String() + string(body)
	if strings.Contains(out, "secret") {
		t.Errorf("a secret shows: %s", out)
	}
	if !strings.Contains(out, "token of openai.alice, version 7, until 2126-01-02T03:04:05Z") {
		t.Errorf("printed as %s", out)
	}
}

func TestOptions(t *testing.T) {
	asked := make(chan events.TokenRequest, 1)
	c := setUp(t, func(_ context.Context, k account.Key, req events.TokenRequest) (events.TokenReply, error) {
		asked <- req
		return replyOf(k, 9), nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := c.Token(ctx, alice, client.WithMinTTL(time.Minute), client.WithMinVersion(4), client.WithRejectedVersion(3))
	check(t, err)
	req := <-asked
	if req.MinTTL != time.Minute || req.MinVersion != 4 || req.RejectedVersion != 3 || req.KnownVersion != 0 {
		t.Errorf("request is %+v", req)
	}
	if req.Timeout >= 5*time.Second || req.Timeout < 2*time.Second {
		t.Errorf("timeout is %s, where we wait 5 s", req.Timeout)
	}
	long, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	_, err = c.Token(long, alice)
	check(t, err)
	if req := <-asked; req.Timeout != events.MaxTimeout || req.MinVersion != 9 {
		t.Errorf("request is %+v", req)
	}
}

func TestErrors(t *testing.T) {
	all := []error{client.ErrBadRequest, client.ErrNotFound, client.ErrDisabled, client.ErrReauthRequired, client.ErrCoolingDown, client.ErrUnavailable, client.ErrTimeout}
	var answer atomic.Pointer[events.Error]
	c := setUp(t, func(context.Context, account.Key, events.TokenRequest) (events.TokenReply, error) {
		return events.TokenReply{}, answer.Load()
	})
	tests := []struct {
		code events.Code
		want error
	}{
		{events.CodeBadRequest, client.ErrBadRequest}, {events.CodeNotFound, client.ErrNotFound}, {events.CodeDisabled, client.ErrDisabled},
		{events.CodeReauthRequired, client.ErrReauthRequired}, {events.CodeCoolingDown, client.ErrCoolingDown},
		{events.CodeUnavailable, client.ErrUnavailable}, {events.CodeTimeout, client.ErrTimeout}, {"news", nil},
	}
	for _, tt := range tests {
		t.Run(string(tt.code), func(t *testing.T) {
			answer.Store(&events.Error{Code: tt.code, Message: "because", RetryAfter: 7 * time.Second})
			_, err := c.Token(t.Context(), alice)
			for _, sentinel := range all {
				if errors.Is(err, sentinel) != (sentinel == tt.want) {
					t.Errorf("%v is %v: %v", err, sentinel, errors.Is(err, sentinel))
				}
			}
			e, ok := errors.AsType[*client.Error](err)
			if !ok || e.Code != tt.code || e.Message != "because" || e.RetryAfter != 7*time.Second || e.Key != alice {
				t.Errorf("error is %+v", e)
			}
		})
	}
}

func TestNoWorker(t *testing.T) {
	c := newClient(t, startServer(t))
	began := time.Now()
	_, err := c.Token(t.Context(), alice)
	if e, ok := errors.AsType[*client.Error](err); !ok || !errors.Is(err, client.ErrUnavailable) || e.RetryAfter <= 0 {
		t.Errorf("error is %v", err)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
}

func TestP10BadLookups(t *testing.T) {
	c := newClient(t, startServer(t))
	if _, err := c.Token(t.Context(), account.Key{}); !errors.Is(err, client.ErrBadRequest) {
		t.Errorf("error is %v", err)
	}
	for name, o := range map[string]client.Option{"ttl": client.WithMinTTL(-1), "version": client.WithMinVersion(-1), "rejected": client.WithRejectedVersion(-1)} {
		if _, err := c.Token(t.Context(), alice, o); !errors.Is(err, client.ErrBadRequest) {
			t.Errorf("negative %s: %v", name, err)
		}
	}
}

func TestContextEnds(t *testing.T) {
	begun := make(chan struct{}, 10)
	release := make(chan struct{})
	c := setUp(t, func(_ context.Context, k account.Key, _ events.TokenRequest) (events.TokenReply, error) {
		begun <- struct{}{}
		<-release
		return replyOf(k, 1), nil
	})
	t.Cleanup(func() { close(release) }) // before the worker stops
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := c.Token(ctx, alice)
		if !errors.Is(err, client.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
		<-begun
	})
	t.Run("deadline has passed", func(t *testing.T) {
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		if _, err := c.Token(ctx, alice); !errors.Is(err, client.ErrTimeout) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-begun; cancel() }()
		_, err := c.Token(ctx, alice)
		if !errors.Is(err, context.Canceled) || errors.Is(err, client.ErrTimeout) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("client closed", func(t *testing.T) {
		go func() { <-begun; _ = c.Close(); _ = c.Close() }()
		if _, err := c.Token(t.Context(), alice); !errors.Is(err, client.ErrClosed) {
			t.Errorf("error is %v", err)
		}
		if _, err := c.Token(t.Context(), alice); !errors.Is(err, client.ErrClosed) {
			t.Errorf("error afterwards is %v", err)
		}
	})
}

func TestP3ClientNeverSeesAVersionFall(t *testing.T) {
	var version, asked atomic.Int64
	c := setUp(t, func(_ context.Context, k account.Key, req events.TokenRequest) (events.TokenReply, error) {
		asked.Store(int64(req.MinVersion))
		return replyOf(k, account.Version(version.Load())), nil
	})
	version.Store(5)
	got, err := c.Token(t.Context(), alice)
	check(t, err)
	if got.Version != 5 || asked.Load() != 0 {
		t.Errorf("version %d, asked for at least %d", got.Version, asked.Load())
	}
	version.Store(4) // a worker that breaks its promise
	if got, err := c.Token(t.Context(), alice); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("got version %d, %v", got.Version, err)
	}
	if asked.Load() != 5 {
		t.Errorf("asked for at least %d", asked.Load())
	}
	got, err = c.Token(t.Context(), bob) // another account's versions are its own
	check(t, err)
	if got.Version != 4 || asked.Load() != 0 {
		t.Errorf("bob: version %d, asked for at least %d", got.Version, asked.Load())
	}
	version.Store(6)
	got, err = c.Token(t.Context(), alice, client.WithMinVersion(2))
	check(t, err)
	if got.Version != 6 || asked.Load() != 5 {
		t.Errorf("version %d, asked for at least %d", got.Version, asked.Load())
	}
}

func TestRepliesThatAreNone(t *testing.T) {
	s := startServer(t)
	nc, err := bus.Connect(bus.Config{Server: s})
	check(t, err)
	defer nc.Close()
	var reply atomic.Pointer[[]byte]
	_, err = nc.Subscribe("tokenbus.v1.request.>", func(m *nats.Msg) { _ = m.Respond(*reply.Load()) })
	check(t, err)
	check(t, nc.Flush())
	c := newClient(t, s)
	for name, body := range map[string][]byte{
		"nothing":         nil,
		"no JSON":         []byte("hello"),
		"another account": replyOf(bob, 3).Encode(),
		"no token":        []byte(`{"platform":"openai","id":"alice","version":3}`),
		"no version":      []byte(`{"platform":"openai","id":"alice","access_token":"secret"}`),
		"not modified":    []byte(`{"version":3,"not_modified":true}`),
	} {
		t.Run(name, func(t *testing.T) {
			reply.Store(&body)
			got, err := c.Token(t.Context(), alice)
			if !errors.Is(err, client.ErrUnavailable) || !errors.Is(err, client.ErrBadReply) {
				t.Errorf("got %v, %v", got, err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("error quotes a secret: %v", err)
			}
		})
	}
}

func TestTokenSource(t *testing.T) {
	var asked atomic.Int64
	c := setUp(t, func(_ context.Context, k account.Key, req events.TokenRequest) (events.TokenReply, error) {
		asked.Add(1)
		if req.MinTTL != time.Minute {
			t.Errorf("request is %+v", req)
		}
		return full(k), nil
	})
	src := c.TokenSource(t.Context(), alice, client.WithMinTTL(time.Minute))
	first, err := src.Token()
	check(t, err)
	if first.AccessToken != "secret-alice-7" || first.Type() != "Bearer" || !first.Expiry.Equal(expires) || first.Extra("chatgpt_account_id") != "acc-1" {
		t.Errorf("token is %+v", first)
	}
	if second, err := src.Token(); err != nil || second != first || asked.Load() != 1 {
		t.Errorf("a second call brings %v, %v, after %d questions", second, err, asked.Load())
	}
}

// TestConnectionLostInMidRequest: the request is made again at once, for its
// reply can't come any more.
func TestConnectionLostInMidRequest(t *testing.T) {
	for name, cut := range map[string]func(*server.Server, *nats.Conn) error{
		"by the server": func(s *server.Server, nc *nats.Conn) error {
			id, err := nc.GetClientID()
			return errors.Join(err, s.DisconnectClientByID(id))
		},
		"by the program": func(_ *server.Server, nc *nats.Conn) error { return nc.ForceReconnect() },
	} {
		t.Run(name, func(t *testing.T) {
			s := rig.NATS(t)
			worker := rig.Connect(t, s)
			inMid, calls := make(chan struct{}), 0
			_, err := worker.Subscribe("tokenbus.v1.request.>", func(m *nats.Msg) {
				if calls++; calls == 1 {
					close(inMid) // and no answer
					return
				}
				_ = m.Respond(replyOf(alice, 3).Encode())
			})
			check(t, err)
			check(t, worker.Flush())
			nc, err := nats.Connect(s.ClientURL(), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0))
			check(t, err)
			defer nc.Close()
			c, err := client.New(client.Config{Conn: nc})
			check(t, err)
			defer c.Close()
			cutErr := make(chan error, 1)
			go func() { <-inMid; cutErr <- cut(s, nc) }()
			began := time.Now()
			got, err := c.Token(t.Context(), alice)
			check(t, err)
			check(t, <-cutErr)
			if d := time.Since(began); got.Version != 3 || d > 5*time.Second {
				t.Errorf("version %d after %s", got.Version, d)
			}
		})
	}
}

func TestServerComesBack(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, func(c *bus.ServerConfig) { c.DataDir = dir })
	address := s.Addr()
	f := tokens(func(_ context.Context, k account.Key, _ events.TokenRequest) (events.TokenReply, error) {
		return replyOf(k, 1), nil
	})
	startWorker(t, s, f)
	c := newClient(t, s)
	_, err := c.Token(t.Context(), alice)
	check(t, err)
	s.Shutdown()
	// Sent before or after the loss is noticed: it doesn't wait for its deadline.
	began := time.Now()
	if _, err := c.Token(t.Context(), alice); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("error is %v", err)
	}
	if d := time.Since(began); d > 8*time.Second {
		t.Errorf("it took %s", d)
	}
	s = startServer(t, func(cfg *bus.ServerConfig) { cfg.DataDir, cfg.Listen = dir, address })
	startWorker(t, s, f)
	for deadline := time.Now().Add(30 * time.Second); ; { // the library pauses up to 5 s between its attempts
		if _, err = c.Token(t.Context(), alice); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestNewWithoutAServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	address := l.Addr().String()
	check(t, l.Close())
	c, err := client.New(client.Config{URL: "nats://" + address})
	check(t, err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Token(ctx, alice); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("error is %v", err)
	}
}

func TestNewWithRefusedCredentials(t *testing.T) {
	s, other := startServer(t), startServer(t)
	_, err := client.New(client.Config{URL: s.URL(), NKey: other.KeyFile(bus.RoleClient)})
	if !errors.Is(err, client.ErrCredentials) {
		t.Errorf("error is %v", err)
	}
}

// A look-up says why there is no connection, and so does the log.
func TestNotConnectedSaysWhy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	address := l.Addr().String()
	check(t, l.Close())
	var log strings.Builder
	c, err := client.New(client.Config{URL: "nats://user:ssw0rd@" + address, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	check(t, err)
	if s := log.String(); !strings.Contains(s, "level=WARN") || !strings.Contains(s, address) || strings.Contains(s, "ssw0rd") {
		t.Errorf("log: %q", s)
	}
	defer c.Close()
	eventually(t, "the library's second try", func() bool {
		_, err := c.Token(t.Context(), alice)
		if !errors.Is(err, client.ErrUnavailable) || !errors.Is(err, nats.ErrDisconnected) {
			t.Fatalf("error is %v", err)
		}
		return errors.Is(err, syscall.ECONNREFUSED) && strings.Contains(err.Error(), address)
	})
	startServer(t, func(cfg *bus.ServerConfig) { cfg.Listen = address })
	eventually(t, "refused", func() bool {
		_, err := c.Token(t.Context(), alice)
		return errors.Is(err, client.ErrUnavailable) && errors.Is(err, nats.ErrAuthorization)
	})
}

// What no waiting heals comes back at once.
func TestNewWithTLSThatCanNotBe(t *testing.T) {
	s := startServer(t)
	web := httptest.NewUnstartedServer(nil)
	web.StartTLS()
	defer web.Close()
	secure := rig.NATS(t, func(o *server.Options) {
		o.TLSConfig = &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12}
		o.TLSTimeout = 5
	})
	for url, want := range map[string]string{"tls://" + s.Addr(): nats.ErrSecureConnWanted.Error(), secure.ClientURL(): "certificate"} {
		c, err := client.New(client.Config{URL: url})
		if err == nil {
			_ = c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v; want %q", url, err, want)
		}
	}
}

// The key of another role gets an error that says so, and not when time is over.
func TestKeyOfAnotherRole(t *testing.T) {
	s := startServer(t)
	startWorker(t, s, func(_ context.Context, k account.Key, _ events.TokenRequest) (events.TokenReply, error) {
		return replyOf(k, 1), nil
	})
	for _, tt := range []struct {
		role  bus.Role
		inbox string
	}{
		{bus.RoleOperator, ""},                                // may not ask, nor hear the reply
		{bus.RoleOperator, bus.InboxPrefix(bus.RoleOperator)}, // may not ask
		{bus.RoleWorker, ""},                                  // may not hear the reply
		{bus.RoleClient, bus.InboxPrefix(bus.RoleOperator)},   // the same
	} {
		c, err := client.New(client.Config{URL: s.URL(), NKey: s.KeyFile(tt.role), InboxPrefix: tt.inbox})
		check(t, err)
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			_, err := c.Token(ctx, alice)
			if ctx.Err() != nil || !errors.Is(err, client.ErrUnavailable) || !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), "the key lacks the client role") {
				t.Errorf("%s: error is %v", tt, err)
			}
			cancel()
		}
		check(t, c.Close())
	}
	c, err := client.New(client.Config{Conn: connectAs(t, s, bus.RoleOperator)})
	check(t, err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := c.Token(ctx, alice); !errors.Is(err, client.ErrTimeout) || !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("on a caller's connection: %v", err)
	}
}

func TestNewWithBadConfig(t *testing.T) {
	s := startServer(t)
	nc, err := bus.Connect(bus.Config{Server: s})
	check(t, err)
	defer nc.Close()
	tests := []struct {
		name string
		cfg  client.Config
	}{
		{"nothing", client.Config{}},
		{"connection and URL", client.Config{Conn: nc, URL: s.URL()}},
		{"connection and nkey", client.Config{Conn: nc, NKey: "x"}},
		{"bad prefix", client.Config{URL: s.URL(), Prefix: "a..b"}},
		{"missing nkey", client.Config{URL: s.URL(), NKey: "/does/not/exist"}},
		{"nkey and creds", client.Config{URL: s.URL(), NKey: s.KeyFile(bus.RoleClient), Creds: "x"}},
		{"missing creds", client.Config{URL: s.URL(), Creds: "/does/not/exist"}},
		{"missing CA", client.Config{URL: s.URL(), CA: "/does/not/exist"}},
		{"certificate alone", client.Config{URL: s.URL(), Cert: "x"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := client.New(tt.cfg)
			if err == nil {
				_ = c.Close()
				t.Error("no error")
			}
		})
	}
}

func TestP8BadURLsAreNotQuotedWithTheirPasswords(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"foo", `URL "foo": want nats://host:port`},
		{"http://h:1", `URL "http://h:1": want nats://host:port`},
		{"nats://", `URL "nats://": want`},
		{"nats://a:1,b:2", `URL "nats://a:1,b:2": want`},
		{"nats://a:99999", `URL "nats://a:99999": want`},
		{"nats://user:pa%ssw0rd@h:1", `URL "[redacted]@h:1": want`},
		{"nats://user:ssw0rd@h:99999", `URL "[redacted]@h:99999": want`},
		{"nats://user:pa@ssw0rd@h:x", `URL "[redacted]@h:x": want`},
		{"nats://user:pa,ssw0rd@h:1", `URL "[redacted]@h:1": want`},
		{"user:ssw0rd@h:1", `URL "[redacted]@h:1": want`},
	} {
		c, err := client.New(client.Config{URL: tt.url})
		if err == nil {
			_ = c.Close()
			t.Errorf("%s: no error", tt.url)
			continue
		}
		if s := err.Error(); !strings.Contains(s, tt.want) || strings.Contains(s, "ssw0rd") || strings.Contains(s, "user") || strings.Contains(s, "pa%") {
			t.Errorf("%s: %s", tt.url, s)
		}
	}
}

func TestCallersConnectionStaysOpen(t *testing.T) {
	s := startServer(t)
	startWorker(t, s, func(_ context.Context, k account.Key, _ events.TokenRequest) (events.TokenReply, error) {
		return replyOf(k, 1), nil
	})
	seed, err := nats.NkeyOptionFromSeed(s.KeyFile(bus.RoleClient))
	check(t, err)
	nc, err := nats.Connect(s.URL(), seed, nats.CustomInboxPrefix(client.InboxPrefix))
	check(t, err)
	defer nc.Close()
	c, err := client.New(client.Config{Conn: nc})
	check(t, err)
	_, err = c.Token(t.Context(), alice)
	check(t, err)
	check(t, c.Close())
	if !nc.IsConnected() {
		t.Error("the caller's connection was closed")
	}
	if n := nc.NumSubscriptions(); n > 1 { // the library's own, for replies
		t.Errorf("%d subscriptions are left", n)
	}
}

// connectAs returns a connection of the role.
func connectAs(t testing.TB, s *bus.Server, role bus.Role) *nats.Conn {
	t.Helper()
	nc, err := bus.Connect(bus.Config{URLs: []string{s.URL()}, NKey: s.KeyFile(role), InboxPrefix: bus.InboxPrefix(role)})
	check(t, err)
	t.Cleanup(nc.Close)
	return nc
}
