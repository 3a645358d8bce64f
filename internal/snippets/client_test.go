package snippets_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// client is a snippet that runs.
type client struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	stdin  io.WriteCloser
	stdout *json.Decoder
	stderr *bytes.Buffer // only once it has ended
}

// command is what a driver is told to do: a look-up, or a call of the API at
// the URL.
type command struct {
	Key      string `json:"key"`
	Rejected int    `json:"rejected,omitempty"`
	URL      string `json:"url,omitempty"`
}

// answer is what a driver has to say to it.
type answer struct {
	Version    int    `json:"version"`
	Token      string `json:"token"`
	Status     int    `json:"status"`
	Code       string `json:"code"`
	Text       string `json:"text"`
	RetryAfter string `json:"retry_after"`
}

// connect starts a snippet's driver with a client's key.
func (f *fleet) connect(t *testing.T, s snippet) *client {
	t.Helper()
	dir := install(t, s)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	args := append(slices.Clone(s.driver), "nats://"+f.link.Addr(), filepath.Join(f.keys, "client.nk"))
	c := &client{cmd: exec.CommandContext(ctx, args[0], args[1:]...), cancel: cancel, stderr: &bytes.Buffer{}}
	c.cmd.Dir, c.cmd.Env, c.cmd.Stderr = dir, append(os.Environ(), "PYTHONPATH=python"), c.stderr
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdout = json.NewDecoder(stdout)
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = c.cmd.Wait() // it may have ended
	})
	return c
}

// install makes a folder in which the snippet finds its library.
func install(t *testing.T, s snippet) string {
	t.Helper()
	installed, err := filepath.Abs(filepath.Join(top, ".cache", "snippets"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"requirements.txt", "package-lock.json"} {
		have, err := os.ReadFile(filepath.Join(installed, name))
		if err == nil && string(have) == read(t, top, "docs", "snippets", name) {
			continue
		}
		const missing = "the NATS libraries of other languages are missing: run scripts/test-deps.sh"
		if os.Getenv("TOKENBUS_TEST_REQUIRE") == "1" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	dir := t.TempDir()
	driver := s.driver[len(s.driver)-1]
	for name, text := range map[string]string{s.file: read(t, top, "docs", "snippets", s.file), driver: read(t, driver)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"python", "node_modules"} {
		if err := os.Symlink(filepath.Join(installed, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// do tells the client to do something.
func (c *client) do(t *testing.T, what command) answer {
	t.Helper()
	err := json.NewEncoder(c.stdin).Encode(what)
	var a answer
	if err == nil {
		err = c.stdout.Decode(&a)
	}
	if err != nil {
		c.cancel()
		_ = c.cmd.Wait() // for what it said
		t.Fatalf("%s: %v\n%s", c.cmd, err, c.stderr)
	}
	return a
}

// await looks up the token until it is the wanted one.
func (c *client) await(t *testing.T, key string, want answer) {
	t.Helper()
	late := time.After(patience)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		got := c.do(t, command{Key: key})
		if got == want {
			return
		}
		select {
		case <-again.C:
		case <-late:
			t.Fatalf("version %d, code %q; want version %d", got.Version, got.Code, want.Version)
		}
	}
}

// close ends the client and expects a clean end.
func (c *client) close(t *testing.T) {
	t.Helper()
	if err := errors.Join(c.stdin.Close(), c.cmd.Wait()); err != nil { // a library may have told of the cut
		t.Errorf("%s: %v\n%s", c.cmd, err, c.stderr)
	}
}
