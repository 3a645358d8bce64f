package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/rig"
)

// newFleet starts a fleet in a folder of the test and returns the arguments
// that lead tokenctl to it.
func newFleet(t *testing.T) (*fleet, []string) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	dir := t.TempDir()
	f, err := startFleet(dir, bus.AuthNKey)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.stop)
	return f, []string{"--nats-url", f.server.URL(), "--data-dir", dir}
}

func newApp(stdout, stderr io.Writer) app {
	return app{
		stdin: strings.NewReader(""), stdout: stdout, stderr: stderr, now: time.Now,
		env: func(string) (string, bool) { return "", false },
	}
}

func (f *fleet) add(t *testing.T, platform, id string) account.Key {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.put(events.PutRequest{Platform: platform, ID: id, Type: "oauth", Credentials: []byte(`{"access_token":"SECRET-a","refresh_token":"SECRET-r"}`)})
	if err != nil {
		t.Fatal(err)
	}
	key, err := account.NewKey(platform, id)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// watch runs tokenctl watch and returns its lines, once it listens. end ends it
// and returns its exit code.
func watch(t *testing.T, args ...string) (lines *bufio.Scanner, end func() int) {
	t.Helper()
	stdout, out := io.Pipe()
	ready := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	a := newApp(out, nil)
	a.stderr = writerFunc(func(p []byte) {
		if strings.Contains(string(p), "watching") {
			close(ready)
		}
	})
	go func() { code <- a.run(ctx, append([]string{"tokenctl", "watch"}, args...)); out.Close() }()
	select {
	case <-ready:
	case c := <-code:
		t.Fatalf("ended with %d", c)
	}
	return bufio.NewScanner(stdout), func() int { cancel(); return <-code }
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

func TestWatch(t *testing.T) {
	f, args := newFleet(t)
	for _, id := range []string{"a", "b"} {
		f.add(t, "acme", id)
	}
	other := f.add(t, "other", "c")
	for _, tt := range []struct {
		name   string
		what   []string
		events int
	}{
		{"everything", nil, 9}, {"a platform", []string{"acme"}, 6}, {"an account and a platform", []string{"acme.b", "other"}, 6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lines, end := watch(t, append(tt.what, args...)...)
			for _, id := range []string{"acme.a", "acme.b", other.String()} {
				if c := newApp(io.Discard, io.Discard).run(t.Context(), append([]string{"tokenctl", "accounts", "refresh", id}, args...)); c != 0 {
					t.Fatalf("refresh ended with %d", c)
				}
			}
			var got []string
			for len(got) < tt.events && lines.Scan() {
				got = append(got, lines.Text())
			}
			if c := end(); c != 0 {
				t.Errorf("ended with %d", c)
			}
			all := strings.Join(got, "\n")
			for _, want := range []string{"  refreshed  acme.b: version ", ", expires in 1h", " (forced, by worker-1)", "  bump       acme.b: version ", ", rev 7", "  status     acme.b: active, cooling_down: 429?[31m, until "} {
				if !strings.Contains(all, want) {
					t.Errorf("%q is missing in\n%s", want, all)
				}
			}
			if strings.Contains(all, "other.c") != (tt.name != "a platform") || strings.Contains(all, "acme.a") != (len(tt.what) < 2) {
				t.Errorf("wrong accounts:\n%s", all)
			}
		})
	}
}

func TestWatchJSON(t *testing.T) {
	f, args := newFleet(t)
	key := f.add(t, "acme", "a")
	stdout, out := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	code := make(chan int, 1)
	go func() {
		code <- newApp(out, io.Discard).run(ctx, append([]string{"tokenctl", "watch", "--output", "json"}, args...))
		out.Close()
	}()
	// It says nothing when it listens: publish until it does.
	line := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(stdout)
		lines.Scan()
		line <- lines.Text()
		_, _ = io.Copy(io.Discard, stdout)
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			at := time.Unix(1800000000, 0)
			_ = f.nc.Publish(f.subjects.Status(key), []byte("not JSON, which is told and skipped"))
			_ = f.nc.Publish(f.subjects.Bump(key), events.Bump{Key: key, Version: 5, Rev: 9, At: at}.Encode())
		case got := <-line:
			if want := `{"at":"2027-01-15T08:00:00Z","event":"bump","id":"a","platform":"acme","rev":9,"version":5}`; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			cancel()
			if c := <-code; c != 0 {
				t.Errorf("ended with %d", c)
			}
			return
		}
	}
}

func TestDeleteAsks(t *testing.T) {
	f, args := newFleet(t)
	for _, tt := range []struct {
		answer  string
		code    int
		deleted bool
	}{{"", 1, false}, {"n\n", 1, false}, {"maybe\n", 1, false}, {"y\n", 0, true}, {"YES", 0, true}} {
		key := f.add(t, "acme", "a")
		var stdout, stderr bytes.Buffer
		a := newApp(&stdout, &stderr)
		a.terminal, a.stdin = true, strings.NewReader(tt.answer)
		if c := a.run(t.Context(), append([]string{"tokenctl", "accounts", "delete", key.String()}, args...)); c != tt.code {
			t.Errorf("%q: exit code %d", tt.answer, c)
		}
		if !strings.HasPrefix(stderr.String(), "Delete acme.a? The credentials are erased. [y/N] ") {
			t.Errorf("%q: asked %q", tt.answer, stderr.String())
		}
		f.mu.Lock()
		if _, ok := f.docs[key]; ok == tt.deleted {
			t.Errorf("%q: deleted: %t", tt.answer, !ok)
		}
		f.mu.Unlock()
	}
}

// TestInterrupted: a worker that takes a request and says nothing is waited for
// no longer than until Ctrl-C.
func TestInterrupted(t *testing.T) {
	f, args := newFleet(t)
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	sub, err := f.nc.SubscribeSync(f.subjects.Admin("silent"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(asked)
		_, _ = sub.NextMsg(10 * time.Second)
		cancel()
	}()
	cfg := config{urls: []string{args[1]}, dataDir: args[3], subjects: f.subjects}
	c, err := cfg.connect(operator, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var reply events.Account
	if err := c.admin(ctx, "silent", struct{}{}, &reply); err == nil || !strings.HasPrefix(err.Error(), "interrupted; ") {
		t.Errorf("got %v", err)
	}
	if _, err := c.ask(t.Context(), f.subjects.Admin("silent"), nil, time.Millisecond); err == nil || !strings.Contains(err.Error(), "answered within 1ms") {
		t.Errorf("got %v", err)
	}
	<-asked
}

// TestRolesAreTheServers: the names in this package are those of the embedded
// server, which this program doesn't link.
func TestRolesAreTheServers(t *testing.T) {
	for r, want := range map[role]bus.Role{operator: bus.RoleOperator, client: bus.RoleClient} {
		if r.inboxPrefix() != bus.InboxPrefix(want) {
			t.Errorf("inbox %s, want %s", r.inboxPrefix(), bus.InboxPrefix(want))
		}
		dir := t.TempDir()
		file := bus.KeyFile(dir, want)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, given := (config{dataDir: dir}).keyFile(r); got != file || given {
			t.Errorf("key in %q, want %q", got, file)
		}
	}
}

func TestReadURLs(t *testing.T) {
	for text, want := range map[string]string{
		"embedded": "nats://127.0.0.1:4222", "nats://a:1, tls://b:2": "nats://a:1 tls://b:2", "": "", "a:1": "", "http://a": "", "nats://": "", "nats://a:1,": "",
	} {
		urls, err := readURLs(text)
		if got := strings.Join(urls, " "); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

// TestConnectedAgain: only what watches misses something while there is no
// connection.
func TestConnectedAgain(t *testing.T) {
	f, args := newFleet(t)
	cfg := config{urls: []string{args[1]}, dataDir: args[3], subjects: f.subjects}
	for shows, want := range map[bool]string{false: "connected to NATS again; waiting for the answer", true: "connected to NATS again; what happened in between is not shown"} {
		said := make(chan string, 10)
		c, err := cfg.connect(operator, func(text string) { said <- text })
		if err != nil {
			t.Fatal(err)
		}
		c.shows.Store(shows)
		if err := c.ForceReconnect(); err != nil {
			t.Fatal(err)
		}
		for got := ""; !strings.HasPrefix(got, "connected"); {
			select {
			case got = <-said:
			case <-t.Context().Done():
				t.Fatal("it never said that it is connected")
			}
			if strings.HasPrefix(got, "connected") && got != want {
				t.Errorf("shows events: %t, and says %q", shows, got)
			}
		}
		c.Close()
	}
}

// TestWatchSaysThatItMissedSomething: a connection that was lost and made again.
func TestWatchSaysThatItMissedSomething(t *testing.T) {
	f, args := newFleet(t)
	proxy := rig.NewProxy(t, strings.TrimPrefix(f.server.URL(), "nats://"))
	said, code := make(chan string, 100), make(chan int, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := newApp(io.Discard, writerFunc(func(p []byte) { said <- string(p) }))
	go func() {
		code <- a.run(ctx, append([]string{"tokenctl", "watch", "--nats-url", "nats://" + proxy.Addr()}, args[2:]...))
	}()
	await := func(want string) {
		t.Helper()
		for {
			select {
			case text := <-said:
				switch {
				case text == want:
					return
				case strings.HasPrefix(text, "tokenctl: connected"):
					t.Fatalf("said %q, want %q", text, want)
				}
			case c := <-code:
				t.Fatalf("ended with %d before it said %q", c, want)
			}
		}
	}
	await("watching; Ctrl-C ends it\n")
	proxy.Cut()
	proxy.Restore()
	await("tokenctl: connected to NATS again; what happened in between is not shown\n")
	cancel()
	if c := <-code; c != exitOK {
		t.Errorf("ended with %d", c)
	}
}

func TestUntil(t *testing.T) {
	now := time.Unix(1800000000, 0)
	for d, want := range map[time.Duration]string{0: "now", 499 * time.Millisecond: "now", 500 * time.Millisecond: "in 1s", 90 * time.Second: "in 1m30s", -time.Minute: "1m ago"} {
		if got := until(now.Add(d), now); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
	key, err := account.ParseKey("acme.a")
	if err != nil {
		t.Fatal(err)
	}
	for after, want := range map[time.Duration]string{0: "(try again)", time.Millisecond: "(try again now)", time.Second: "(try again in 1s)"} {
		if got := remedy(&events.Error{Code: events.CodeUnavailable, RetryAfter: after}, key).Error(); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %s, want %s", after, got, want)
		}
	}
}

func TestBrief(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 400 * time.Millisecond: "0s", 59 * time.Second: "59s", time.Minute: "1m", 61 * time.Second: "1m1s", time.Hour: "1h",
		time.Hour + 59*time.Minute + 59*time.Second: "1h59m", 24 * time.Hour: "1d", 49*time.Hour + time.Minute: "2d1h", 59*time.Second + 600*time.Millisecond: "1m",
	} {
		if got := brief(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}
