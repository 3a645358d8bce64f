package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
)

// TestInterruptedWhileReading: Ctrl-C ends the wait for input that doesn't come.
func TestInterruptedWhileReading(t *testing.T) {
	for _, args := range [][]string{{"accounts", "import", "-"}, {"accounts", "delete", "acme.a"}} {
		var stderr bytes.Buffer
		stdin, input := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		a := newApp(io.Discard, &stderr)
		a.terminal = true
		a.stdin = readerFunc(func(p []byte) (int, error) { cancel(); return stdin.Read(p) })
		if c := a.run(ctx, append([]string{"tokenctl"}, args...)); c != exitFailed {
			t.Errorf("%v: exit code %d", args, c)
		}
		if !strings.Contains(stderr.String(), "interrupted") {
			t.Errorf("%v: said %q", args, stderr.String())
		}
		input.Close()
		cancel()
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
