// Package rig starts the servers that tests run against: the real ones, or
// the closest thing that the package registries have.
//
// Every server listens on a free loopback port, keeps its data in the test's
// temporary folder, and ends with the test that started it; none outlives the
// test process, not even a killed one. scripts/test-deps.sh installs what they
// need. Where it's missing a test is skipped, or fails if
// TOKENBUS_TEST_REQUIRE=1.
package rig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	startTimeout = time.Minute // a JVM on a busy machine
	stopTimeout  = 10 * time.Second
)

// errMissing is wrapped by errors about something that isn't installed.
var errMissing = errors.New("run scripts/test-deps.sh")

// check ends the test if err isn't nil: it is skipped where something is
// missing and nobody insists.
func check(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, errMissing) && os.Getenv("TOKENBUS_TEST_REQUIRE") != "1":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

// root returns the top folder of the repository.
func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the repository: no go.mod above the working directory")
		}
		dir = parent
	}
}

// built returns the folder of something that scripts/test-deps.sh has built
// from the given source files, or an error that wraps errMissing if it isn't
// there or was built from other sources.
func built(name string, sources ...string) (string, error) {
	top, err := root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(top, ".cache", name)
	for _, source := range sources {
		have, err := os.ReadFile(filepath.Join(dir, filepath.Base(source)))
		if err != nil {
			return "", fmt.Errorf("%s is missing: %w", name, errMissing)
		}
		want, err := os.ReadFile(filepath.Join(top, "internal", "rig", name, source))
		if err != nil {
			return "", err
		}
		if !bytes.Equal(have, want) {
			return "", fmt.Errorf("%s is not of this version: %w", name, errMissing)
		}
	}
	return dir, nil
}

// process is a server in a process of its own that ends when its standard
// input closes, be it because the test process is gone. What it writes goes to
// a file: a pipe that nobody reads would stop it once it is full. It costs no
// goroutine, so that leak checks don't see it.
type process struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	alive  *os.File // the end of a pipe that the server holds as long as it lives
	output *os.File
}

// start starts the command and waits for the line of its output that
// contains ready, which it returns.
func start(cmd *exec.Cmd, ready string) (*process, string, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, "", err
	}
	alive, held, err := os.Pipe()
	if err != nil {
		return nil, "", err
	}
	defer held.Close() // the child has it
	output, err := os.CreateTemp("", "tokenbus-rig-*.log")
	if err != nil {
		return nil, "", err
	}
	_ = os.Remove(output.Name()) // it lives as long as somebody has it open
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = output, output, []*os.File{held}
	if err := cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	_ = held.Close()
	p := &process{cmd, stdin, alive, output}
	line, err := p.waitFor(ready)
	if err != nil {
		err = fmt.Errorf("start %s: %w\n%s", cmd.Path, err, p.log())
		p.stop()
		return nil, "", err
	}
	return p, line, nil
}

func (p *process) waitFor(ready string) (string, error) {
	for deadline := time.Now().Add(startTimeout); ; {
		if err := p.alive.SetReadDeadline(time.Now().Add(5 * time.Millisecond)); err != nil {
			return "", err
		}
		_, ended := p.alive.Read(make([]byte, 1))
		for line := range strings.Lines(p.log()) {
			if strings.Contains(line, ready) && strings.HasSuffix(line, "\n") {
				return strings.TrimSuffix(line, "\n"), nil
			}
		}
		if !errors.Is(ended, os.ErrDeadlineExceeded) {
			return "", errors.New("it ended before it was ready")
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("it wasn't ready within %v", startTimeout)
		}
	}
}

// log returns the end of what the server wrote.
func (p *process) log() string {
	const most = 64 << 10
	file, err := p.output.Stat()
	if err != nil {
		return ""
	}
	buf := make([]byte, min(file.Size(), most))
	n, _ := p.output.ReadAt(buf, file.Size()-int64(len(buf)))
	return string(buf[:n])
}

// stop ends the server and waits for its end.
func (p *process) stop() {
	_ = p.stdin.Close()
	kill := time.AfterFunc(stopTimeout, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Wait() // however it ended, it has
	kill.Stop()
	_ = p.alive.Close()
	_ = p.output.Close()
}
