package rig

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Program is a program of ours that runs in a process of its own and logs JSON
// to its standard error.
type Program struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and all it said is here

	mu    sync.Mutex // guards lines
	lines []string
}

// StartProgram starts a program. It is killed at the end of the test if it
// still runs, and the test fails if it panicked or raced.
func StartProgram(t testing.TB, cmd *exec.Cmd) *Program {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Program{cmd: cmd, done: make(chan struct{})}
	go p.read(bufio.NewScanner(stderr))
	t.Cleanup(func() {
		p.Kill()
		text := p.Text()
		if strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic: ") || strings.Contains(text, "fatal error: ") {
			t.Errorf("%s crashed or raced:\n%s", cmd, text)
		}
	})
	return p
}

func (p *Program) read(stderr *bufio.Scanner) {
	defer close(p.done)
	stderr.Buffer(nil, 1<<20)
	for stderr.Scan() {
		p.mu.Lock()
		p.lines = append(p.lines, stderr.Text())
		p.mu.Unlock()
	}
	_ = p.cmd.Wait() // its end is in cmd.ProcessState
}

// Text returns what it has logged so far.
func (p *Program) Text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// Logged returns the fields of the first line with the message, or nil.
func (p *Program) Logged(msg string) map[string]any {
	p.mu.Lock()
	lines := slices.Clone(p.lines)
	p.mu.Unlock()
	for _, line := range lines {
		var fields map[string]any
		if strings.Contains(line, msg) && json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == msg {
			return fields
		}
	}
	return nil
}

// Await waits until it has logged the message and returns the line's fields.
func (p *Program) Await(t testing.TB, msg string) map[string]any {
	t.Helper()
	late := time.After(startTimeout)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if fields := p.Logged(msg); fields != nil {
			return fields
		}
		select {
		case <-again.C:
		case <-p.done:
			if p.Logged(msg) == nil {
				t.Fatalf("%s ended without logging %q:\n%s", p.cmd, msg, p.Text())
			}
		case <-late:
			t.Fatalf("%s has not logged %q:\n%s", p.cmd, msg, p.Text())
		}
	}
}

// Signal sends it a signal.
func (p *Program) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("signal %s: %w", p.cmd, err)
	}
	return nil
}

// Kill ends it as kill -9 does and waits for its end. It may be called again.
func (p *Program) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// Alive reports whether it runs.
func (p *Program) Alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}
