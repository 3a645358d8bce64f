//go:build unix

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
)

// process is a worker in a process of its own.
type process struct {
	cmd   *exec.Cmd
	dir   string
	lines chan string // of its standard error
	url   string      // of its embedded NATS server, once ready

	mu   sync.Mutex
	text strings.Builder // what it said
}

// spawn starts a worker process. It is killed at the end of the test if it
// still runs.
func spawn(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	args = append([]string{"run", "--data-dir", dir, "--log-format", "json"}, args...)
	p := &process{cmd: exec.Command(os.Args[0], args...), dir: dir, lines: make(chan string, 1000)}
	p.cmd.Env = append(os.Environ(), beWorker+"=1")
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(p.lines)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			p.mu.Lock()
			p.text.WriteString(s.Text() + "\n")
			p.mu.Unlock()
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		for range p.lines { // until its end
		}
		<-read
		_ = p.cmd.Wait()
	})
	return p
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// says waits for a log line with the message and returns it.
func (p *process) says(t *testing.T, msg string) map[string]any {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				t.Fatalf("the worker ended without saying %q:\n%s", msg, p.said())
			}
			var fields map[string]any
			if json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == msg {
				return fields
			}
		case <-late:
			t.Fatalf("the worker does not say %q:\n%s", msg, p.said())
		}
	}
}

// serves waits until it answers requests.
func (p *process) serves(t *testing.T) {
	t.Helper()
	p.url, _ = p.says(t, "embedded NATS server listens")["url"].(string)
	p.says(t, "worker answers requests")
}

// ends waits for the end and returns the exit code.
func (p *process) ends(t *testing.T) int {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		select {
		case _, ok := <-p.lines:
			if ok {
				continue
			}
		case <-late:
			t.Fatalf("the worker does not end:\n%s", p.said())
		}
		err := p.cmd.Wait()
		if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
			t.Fatal(err)
		}
		return p.cmd.ProcessState.ExitCode()
	}
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// connect connects to the process's NATS server in a role.
func (p *process) connect(t *testing.T, role bus.Role) *nats.Conn {
	t.Helper()
	conn, err := bus.Connect(bus.Config{URLs: []string{p.url}, NKey: bus.KeyFile(p.dir, role), InboxPrefix: bus.InboxPrefix(role), Name: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// ask asks for the token and returns the reply.
func (g grant) ask(t *testing.T, conn *nats.Conn) (events.TokenReply, error) {
	t.Helper()
	subjects, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	m, err := conn.RequestWithContext(ctx, subjects.Request(g.key), nil)
	if err != nil {
		return events.TokenReply{}, err
	}
	return events.DecodeTokenReply(g.key, m.Data)
}

func TestProcessStopsOnSignal(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		p := spawn(t, t.TempDir(), "--nats-listen", "127.0.0.1:0", "--http-addr", "none")
		p.serves(t)
		p.signal(t, s)
		if code := p.ends(t); code != exitOK {
			t.Errorf("%v: code %d\n%s", s, code, p.said())
		}
	}
}

func TestProcessStopsWhileItWaits(t *testing.T) {
	keyset := filepath.Join(t.TempDir(), "keyset.json")
	first := spawn(t, t.TempDir(), "--nats-listen", "127.0.0.1:0", "--http-addr", "none", "--keyset", keyset)
	first.serves(t)
	p := spawn(t, t.TempDir(), "--nats-url", "nats://127.0.0.1:1", "--keyset", keyset, "--http-addr", "none")
	p.says(t, "NATS is out of reach; trying again until it is there")
	p.signal(t, syscall.SIGTERM)
	if code := p.ends(t); code != exitOK {
		t.Errorf("code %d\n%s", code, p.said())
	}
}

func TestProcessRefusesWhatIsInUse(t *testing.T) {
	first := spawn(t, t.TempDir(), "--nats-listen", "127.0.0.1:0", "--http-addr", "none")
	first.serves(t)
	address := strings.TrimPrefix(first.url, "nats://")
	for _, c := range []struct {
		name string
		dir  string
		args []string
		want string
	}{
		{"folder", first.dir, nil, fmt.Sprintf("worker: --data-dir (TOKENBUS_DATA_DIR): %q: is in use by another worker (process %d); stop it, or give this one its own folder\n", first.dir, first.cmd.Process.Pid)},
		{"NATS port", t.TempDir(), []string{"--nats-listen", address},
			"worker: start embedded NATS server: " + address + " is in use: stop what runs there, or choose another address with --nats-listen, or join that server with --nats-url nats://" + address + "\n"},
		{"HTTP port", t.TempDir(), []string{"--http-addr", address},
			"worker: --http-addr (TOKENBUS_HTTP_ADDR): \"" + address + "\": bind: address already in use; free the port, or give another address or none\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"--nats-listen", "127.0.0.1:0", "--http-addr", "none", "--log-level", "error"}, c.args...)
			p := spawn(t, c.dir, args...)
			if code := p.ends(t); code != exitConfig || p.said() != c.want {
				t.Errorf("code %d, said:\n%s\nwant:\n%s", code, p.said(), c.want)
			}
		})
	}
}

// SIGTERM in the middle of an exchange: the worker waits for the answer and
// saves it, whether a request waits too or was answered from the living token.
func TestP2SignalInMidExchangeLosesNothing(t *testing.T) {
	t.Run("a request waits", func(t *testing.T) { testSignalInMidExchange(t, -time.Minute, 2) })
	t.Run("nobody waits", func(t *testing.T) { testSignalInMidExchange(t, 2*time.Minute, 1) })
}

func testSignalInMidExchange(t *testing.T, left time.Duration, answered account.Version) {
	g := newGrant(t)
	dir := t.TempDir()
	args := []string{"--nats-listen", "127.0.0.1:0", "--http-addr", "none", "--providers", g.providers, "--refresh-ahead", "off"}
	p := spawn(t, dir, args...)
	p.serves(t)
	gate := make(chan struct{})
	g.server.Inject(oauthtest.HoldAfter(gate))
	g.put(t, p.connect(t, bus.RoleOperator), left)
	conn := p.connect(t, bus.RoleClient)
	asked := make(chan error, 1)
	go func() {
		reply, err := g.ask(t, conn)
		if err == nil && reply.Version != answered {
			err = fmt.Errorf("version %d", reply.Version)
		}
		asked <- err
	}()
	eventually(t, func() error {
		if g.server.Exchanges() == 0 {
			return errors.New("no exchange")
		}
		return nil
	})
	p.signal(t, syscall.SIGTERM)
	p.says(t, "worker stops; a second signal ends it at once")
	// It stays for the exchange, also when it has left the queue group: else
	// its NATS server would be gone before all of these have come back.
	for range 1000 {
		if err := conn.FlushTimeout(5 * time.Second); err != nil {
			t.Fatalf("the worker does not wait for the exchange: %v\n%s", err, p.said())
		}
	}
	close(gate)
	if code := p.ends(t); code != exitOK {
		t.Errorf("code %d\n%s", code, p.said())
	}
	if err := <-asked; err != nil {
		t.Errorf("the asker got %v, want version %d", err, answered)
	}
	again := spawn(t, dir, args...)
	again.serves(t)
	reply, err := g.ask(t, again.connect(t, bus.RoleClient))
	if err != nil || reply.Version != 2 {
		t.Errorf("after a restart: version %d, %v; want 2", reply.Version, err)
	}
	if s := g.server.Stats(); s.Requests != 1 || s.Reused != 0 {
		t.Errorf("the endpoint saw %+v, want one exchange", s)
	}
}

func TestProcessSecondSignalEndsAtOnce(t *testing.T) {
	g := newGrant(t)
	p := spawn(t, t.TempDir(), "--nats-listen", "127.0.0.1:0", "--http-addr", "none", "--providers", g.providers)
	p.serves(t)
	g.put(t, p.connect(t, bus.RoleOperator), -time.Minute)
	gate := make(chan struct{})
	defer close(gate)
	g.server.Inject(oauthtest.HoldAfter(gate))
	conn := p.connect(t, bus.RoleClient)
	subjects, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.PublishRequest(subjects.Request(g.key), bus.InboxPrefix(bus.RoleClient)+".x", nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if g.server.Exchanges() == 0 {
			return errors.New("no exchange")
		}
		return nil
	})
	p.signal(t, syscall.SIGTERM)
	p.says(t, "worker stops; a second signal ends it at once")
	p.signal(t, syscall.SIGTERM)
	if code := p.ends(t); code != exitFailed {
		t.Errorf("code %d, want %d\n%s", code, exitFailed, p.said())
	}
}

func TestProcessDemoEndsOnSignal(t *testing.T) {
	cmd := exec.Command(os.Args[0], "demo", "--workers", "1")
	cmd.Env = append(os.Environ(), beWorker+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	last, stopped := "", false
	for s := bufio.NewScanner(out); s.Scan(); last = s.Text() {
		if !stopped && strings.Contains(s.Text(), "refreshed demo.") {
			stopped = true
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the demo ended with %v", err)
	}
	if !summaryLine.MatchString(last) {
		t.Errorf("last line %q", last)
	}
}
