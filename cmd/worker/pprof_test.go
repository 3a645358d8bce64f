package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
)

func TestPprofHandler(t *testing.T) {
	handler := newPprofHandler()
	for path, want := range map[string]string{
		"/debug/pprof/":                   "heap",
		"/debug/pprof/heap?debug=1":       "heap profile: ",
		"/debug/pprof/goroutine?debug=1":  "goroutine profile: total ",
		"/debug/pprof/allocs?debug=1":     "heap profile: ",
		"/debug/pprof/symbol":             "num_symbols: 1",
		"/debug/pprof/trace?seconds=0.01": "go 1.",
	} {
		if code, body := get(t, handler, path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s = %d %.40q, want 200 with %q", path, code, body, want)
		}
	}
	for _, path := range []string{"/", "/metrics", "/debug/pprof/cmdline"} {
		if code, body := get(t, handler, path); code != 404 || strings.Contains(body, os.Args[0]) {
			t.Errorf("%s = %d %q, want 404", path, code, body)
		}
	}
}

// A profile may outlast every deadline of the server. The
// time is a bubble's and the connection a pipe, so it takes none.
func TestPprofTakesLongProfiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		near, far := net.Pipe()
		l := &oneConn{conn: far, done: make(chan struct{})}
		served := make(chan struct{})
		go func() { defer close(served); serveHTTP(ctx, l, newPprofHandler(), slog.New(slog.DiscardHandler)) }()
		client := &http.Client{Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil },
		}}
		answer, err := client.Get("http://worker/debug/pprof/heap?seconds=90")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != 200 || len(body) == 0 || body[0] != 0x1f { // gzip
			t.Errorf("a profile of 90 s: %s %.60q, %v", answer.Status, body, err)
		}
		client.CloseIdleConnections()
		stop()
		<-served
	})
}

// oneConn is a listener of one connection.
type oneConn struct {
	conn net.Conn // nil: taken
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { close(l.done); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// The worker serves profiles on their own address alone, and a stop ends one
// that is being taken.
func TestPprofGoesDownWithTheWorker(t *testing.T) {
	noLeaks(t)
	r := start(t, testConfig(t, map[string]string{"http-addr": "127.0.0.1:0", "pprof-addr": "127.0.0.1:0"}), hooks{})
	r.serves(t)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	status := func(l net.Listener, path string) int {
		t.Helper()
		answer, err := client.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	for _, c := range []struct {
		name string
		on   net.Listener
		path string
		want int
	}{
		{"a profile on its own address", r.pprof, "/debug/pprof/heap", 200},
		{"a profile on the other address", r.http, "/debug/pprof/heap", 404},
		{"metrics on the other address", r.pprof, "/metrics", 404},
	} {
		if got := status(c.on, c.path); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	profile := make(chan error, 1)
	go func() {
		answer, err := client.Get("http://" + r.pprof.Addr().String() + "/debug/pprof/profile?seconds=3600")
		if err == nil {
			_, err = io.Copy(io.Discard, answer.Body)
			_ = answer.Body.Close()
		}
		profile <- err
	}()
	eventually(t, func() error {
		if _, running := get(t, newPprofHandler(), "/debug/pprof/goroutine?debug=1"); !strings.Contains(running, "net/http/pprof.Profile+") {
			return errors.New("no profile is being taken")
		}
		return nil
	})
	r.stop()
	r.ends(t)
	if r.err != nil {
		t.Errorf("stop: %v", r.err)
	}
	if err := <-profile; err != nil {
		t.Errorf("the profile that was being taken: %v", err)
	}
}

func TestPprofOffByDefault(t *testing.T) {
	w, err := openWorker(testConfig(t, nil), slog.New(slog.DiscardHandler), hooks{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if w.pprof != nil {
		t.Errorf("profiles are served on %s", w.pprof.Addr())
	}
}

func TestPprofAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = openWorker(testConfig(t, map[string]string{"pprof-addr": l.Addr().String()}), slog.New(slog.DiscardHandler), hooks{})
	want := `--pprof-addr (TOKENBUS_PPROF_ADDR): "` + l.Addr().String() + `": bind: address already in use; free the port, or give another address or none`
	if _, ok := errors.AsType[*usageError](err); !ok || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestL1HoldsNoMoreAccounts(t *testing.T) {
	const asked = 500
	for _, c := range []struct {
		limit    string
		min, max int
	}{{"64", 1, 64}, {"", asked, asked}} {
		r := start(t, testConfig(t, map[string]string{"l1-max-accounts": c.limit}), hooks{})
		r.serves(t)
		conn, err := bus.Connect(bus.Config{URLs: []string{r.server.URL()}, NKey: r.server.KeyFile(bus.RoleClient), InboxPrefix: bus.InboxPrefix(bus.RoleClient)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		for i := range asked { // that there is no such account is kept too
			ask(t, conn, r, fmt.Sprint("nobody-", i))
		}
		if n := gauge(t, r.registry, "tokenbus_l1_entries"); n < c.min || n > c.max {
			t.Errorf("--l1-max-accounts %q: %d accounts are in L1, want %d to %d", c.limit, n, c.min, c.max)
		}
	}
}

func ask(t *testing.T, conn *nats.Conn, r *running, id string) {
	t.Helper()
	key, err := account.NewKey("openai", id)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := conn.RequestWithContext(ctx, r.subjects.Request(key), nil); err != nil {
		t.Fatal(err)
	}
}

func gauge(t *testing.T, registry *prometheus.Registry, name string) int {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return int(f.GetMetric()[0].GetGauge().GetValue())
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
