package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const module = "github.com/tokenbus/tokenbus"

// patience is how long a test waits for something that takes a second where
// nothing else runs.
const patience = 90 * time.Second

// programs is the folder with the programs, once build has returned.
var programs string

// build builds the programs, once for all tests.
var build = sync.OnceValue(func() error {
	args := append([]string{"build", "-o", programs + string(filepath.Separator)}, buildFlags...)
	cmd := exec.Command("go", append(args, module+"/cmd/worker", module+"/cmd/tokenctl")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return nil
})

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tokenbus-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs = dir
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// program returns the path of a program.
func program(t testing.TB, name string) string {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(programs, name)
}

// environ is the environment of a program: the test's own, changed by
// settings ("NAME=value"). The race detector would let each wait for a second
// at its end.
func environ(settings ...string) []string {
	return append(append(os.Environ(), "GORACE=atexit_sleep_ms=0"), settings...)
}

// output is what a process writes, readable while it does.
type output struct {
	mu   sync.Mutex // guards text
	text []byte
	more chan struct{} // level-triggered: something was added
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	o.text = append(o.text, p...)
	o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// process is a program that runs.
type process struct {
	cmd    *exec.Cmd
	stdout *output
	stderr *output
	done   chan struct{} // closed when it has ended and all its output is here
}

// start starts a command. It is killed at the end of the test if it still runs.
// It doesn't outlive a test process that was killed for long: nobody reads then
// what it has to say.
func start(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{
		cmd: cmd, stdout: &output{more: make(chan struct{}, 1)}, stderr: &output{more: make(chan struct{}, 1)}, done: make(chan struct{}),
	}
	cmd.Stdout, cmd.Stderr = p.stdout, p.stderr
	if cmd.Env == nil {
		cmd.Env = environ()
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // its end is in cmd.ProcessState
	}()
	t.Cleanup(func() {
		p.kill()
		for _, out := range []string{p.stdout.String(), p.stderr.String()} {
			if strings.Contains(out, "DATA RACE") || strings.Contains(out, "panic: ") || strings.Contains(out, "fatal error: ") {
				t.Errorf("%s crashed or raced:\n%s", filepath.Base(cmd.Path), out)
			}
		}
	})
	return p
}

// kill ends the process as kill -9 does and waits for its end.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// code waits for the end and returns the exit code.
func (p *process) code(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("%s does not end:\n%s", filepath.Base(p.cmd.Path), p.stderr)
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop ends the process as a service manager does, and expects a clean end.
func (p *process) stop(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := p.code(t); code != 0 {
		t.Errorf("%s: code %d\n%s", filepath.Base(p.cmd.Path), code, p.stderr)
	}
}

// awaitOutput waits until found returns true for what o has.
func (p *process) awaitOutput(t testing.TB, o *output, what string, found func(text string) bool) {
	t.Helper()
	late := time.After(patience)
	for {
		if found(o.String()) {
			return
		}
		select {
		case <-o.more:
		case <-p.done:
			if found(o.String()) {
				return
			}
			t.Fatalf("%s ended without saying %s:\n%s", filepath.Base(p.cmd.Path), what, p.stderr)
		case <-late:
			t.Fatalf("%s does not say %s:\n%s", filepath.Base(p.cmd.Path), what, p.stderr)
		}
	}
}

// logs waits for a line with the message in the process's JSON log and returns
// the line's fields.
func (p *process) logs(t testing.TB, msg string) map[string]any {
	t.Helper()
	var fields map[string]any
	p.awaitOutput(t, p.stderr, fmt.Sprintf("%q", msg), func(text string) bool {
		for line := range strings.Lines(text) {
			fields = nil
			if strings.Contains(line, msg) && json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == msg {
				return true
			}
		}
		return false
	})
	return fields
}

// result is what a command that ended has said.
type result struct {
	stdout, stderr string
	code           int
}

// run runs a command to its end.
func run(t testing.TB, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &stdout, &stderr, environ()
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok || ctx.Err() != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(name), err, &stderr)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// write writes a file and returns its path.
func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// eventually waits until check returns nil.
func eventually(t testing.TB, limit time.Duration, check func() error) {
	t.Helper()
	late := time.After(limit)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatal(err)
		}
	}
}
