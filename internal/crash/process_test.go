//go:build linux

package crash_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the worker with crash points and the race detector, built once.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binDir, "worker")
	out, err := exec.Command("go", "build", "-race", "-tags", "tokenbus_crash", "-o", path, "github.com/tokenbus/tokenbus/cmd/worker").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build worker: %w\n%s", err, out)
	}
	return path, nil
})

var binDir string // of the test process

func TestMain(m *testing.M) {
	var err error
	if binDir, err = os.MkdirTemp("", "tokenbus-crash-*"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(binDir)
	os.Exit(code)
}

// worker is one of the fleet, through all its restarts.
type worker struct {
	name string
	dir  string
	args []string

	mu        sync.Mutex // guards processes
	processes []*process
}

// process is one life of a worker.
type process struct {
	worker *worker
	id     string // --worker-id
	cmd    *exec.Cmd
	ended  chan struct{} // closed when it is dead and all it said was read

	mu      sync.Mutex // guards the rest
	lines   []line
	killed  time.Time // when we, or a crash point, were about to
	died    time.Time
	spooled []string // accounts that had a record in the spool when it died
	races   bool
}

// line is one line of its log.
type line struct {
	at      time.Time
	text    string
	msg     string
	account string
	outcome string
}

// start starts the worker, with more environment if need be. It must not be
// running.
func (w *worker) start(t *testing.T, env ...string) *process {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p := &process{worker: w, id: fmt.Sprintf("%s-%d", w.name, len(w.processes)+1), ended: make(chan struct{})}
	p.cmd = exec.Command(path, append([]string{"run", "--worker-id", p.id, "--data-dir", w.dir}, w.args...)...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.processes = append(w.processes, p)
	go p.watch(bufio.NewScanner(stderr))
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	return p
}

// watch reads its log to the end.
func (p *process) watch(stderr *bufio.Scanner) {
	stderr.Buffer(nil, 1<<20)
	for stderr.Scan() {
		var fields struct{ Msg, Account, Outcome string }
		_ = json.Unmarshal(stderr.Bytes(), &fields)
		p.mu.Lock()
		p.lines = append(p.lines, line{time.Now(), stderr.Text(), fields.Msg, fields.Account, fields.Outcome})
		p.races = p.races || strings.Contains(stderr.Text(), "DATA RACE")
		p.mu.Unlock()
	}
	_ = p.cmd.Wait()
	files, _ := filepath.Glob(filepath.Join(p.worker.dir, "spool", "*.json"))
	p.mu.Lock()
	p.died = time.Now()
	for _, file := range files {
		parts := strings.Split(filepath.Base(file), ".")
		p.spooled = append(p.spooled, parts[0]+"."+parts[1])
	}
	p.mu.Unlock()
	close(p.ended)
}

// now is the process that runs, or ran last.
func (w *worker) now() *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.processes) == 0 {
		return nil
	}
	return w.processes[len(w.processes)-1]
}

func (w *worker) all() []*process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.processes)
}

func (p *process) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// said returns the log so far.
func (p *process) said() []line {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

// concerns reports whether it has said anything about the account.
func (p *process) concerns(account string) bool {
	return slices.ContainsFunc(p.said(), func(l line) bool { return l.account == account })
}

func (p *process) text() string {
	var b strings.Builder
	for _, l := range p.said() {
		b.WriteString(l.text + "\n")
	}
	return b.String()
}

// says reports whether it has logged the message about the account, or about
// anything.
func (p *process) says(msg, account string) bool {
	return slices.ContainsFunc(p.said(), func(l line) bool { return l.msg == msg && (account == "" || l.account == account) })
}

// serves waits until it answers requests.
func (p *process) serves(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		switch {
		case p.says("worker answers requests", ""):
			return nil
		case !p.alive():
			t.Fatalf("%s ended before it answered requests:\n%s", p.id, p.text())
		}
		return fmt.Errorf("%s does not answer requests:\n%s", p.id, p.text())
	})
}

// kill kills it and waits for its end.
func (p *process) kill() {
	p.mu.Lock()
	if p.killed.IsZero() {
		p.killed = time.Now()
	}
	p.mu.Unlock()
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// crashes waits until it has killed itself at the point it was told, and
// reports whether it has.
func (p *process) crashes(within time.Duration) bool {
	select {
	case <-p.ended:
	case <-time.After(within):
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = p.died
	return p.bySignal()
}

func (p *process) bySignal() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

// eventually waits until check has no objection.
func eventually(t *testing.T, within time.Duration, check func() error) {
	t.Helper()
	late := time.After(within)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-late:
			t.Fatal(err)
		}
	}
}
