package main

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"
)

func TestLogFormat(t *testing.T) {
	for _, c := range []struct{ format, want string }{
		{"auto", `"msg":"hello","n":1}`}, // a buffer is no terminal
		{"json", `"msg":"hello","n":1}`},
		{"text", " INF hello n=1"},
	} {
		var buf bytes.Buffer
		log := newLogger(&buf, slog.LevelInfo, c.format, lookup(nil))
		log.Debug("hidden")
		log.Info("hello", "n", 1)
		if got := strings.TrimSpace(buf.String()); !strings.HasSuffix(got, c.want) || strings.Contains(got, "hidden") {
			t.Errorf("format %s: got %q, want it to end in %q", c.format, got, c.want)
		}
	}
}

func TestNoColorOffTerminal(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if colored(null, lookup(nil)) || colored(&bytes.Buffer{}, lookup(nil)) {
		t.Error("colors where there is no terminal")
	}
}
