package main

import (
	"bytes"
	"context"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

var summaryLine = regexp.MustCompile(`^demo: lookups=(\d+) failed=0 exchanges=(\d+) reused=0 versions=(\d+)$`)

func TestDemo(t *testing.T) {
	noLeaks(t)
	var out, logs bytes.Buffer
	cfg := demoConfig{Duration: 5 * time.Second, TokenTTL: 3 * time.Second, Workers: 3}
	if err := runDemo(t.Context(), cfg, &out, false, slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelWarn}))); err != nil {
		t.Fatalf("%v\n%s\n%s", err, &out, &logs)
	}
	lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
	m := summaryLine.FindStringSubmatch(lines[len(lines)-1])
	if m == nil {
		t.Fatalf("last line is %q", lines[len(lines)-1])
	}
	lookups, _ := strconv.Atoi(m[1])
	exchanges, _ := strconv.Atoi(m[2])
	if lookups < 50 || exchanges < 3 || m[2] != m[3] {
		t.Errorf("%s: want many look-ups, three exchanges at least, and as many versions", m[0])
	}
	for _, want := range []string{"refreshed demo.alice: version 1 → 2", "hears the bump of demo.", "look-ups in 1s", "0 grants revoked"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the story never says %q:\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "\x1b[") {
		t.Error("colors where there is no terminal")
	}
	if logs.Len() > 0 {
		t.Errorf("a demo that goes well warns of nothing, and this one did:\n%s", &logs)
	}
}

func TestDemoEndsEarly(t *testing.T) {
	noLeaks(t)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	var out bytes.Buffer
	if err := runDemo(ctx, demoConfig{TokenTTL: 40 * time.Second, Workers: 2}, &out, true, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
	if !strings.HasSuffix(out.String(), "\ndemo: lookups=0 failed=0 exchanges=0 reused=0 versions=0\n") {
		t.Errorf("a demo that is told to stop at once ends in %q", out.String())
	}
}

func TestDemoOptions(t *testing.T) {
	for _, c := range []struct {
		flags map[string]string
		want  string
	}{
		{map[string]string{"duration": "-1s"}, `--duration: "-1s": must be at least 0s`},
		{map[string]string{"duration": "5"}, `--duration: "5": want a time such as 30s`},
		{map[string]string{"token-ttl": "1s"}, `--token-ttl: "1s": must be between 2s and 1h`},
		{map[string]string{"token-ttl": "2h"}, `--token-ttl: "2h": must be between 2s and 1h`},
		{map[string]string{"workers": "0"}, `--workers: "0": want a number from 1 to 16`},
		{map[string]string{"workers": "two"}, `--workers: "two": want a number from 1 to 16`},
	} {
		if _, err := readDemoConfig(lookup(c.flags)); err == nil || err.Error() != c.want {
			t.Errorf("%v: got %v\nwant %s", c.flags, err, c.want)
		}
	}
	got, err := readDemoConfig(lookup(nil))
	if want := (demoConfig{0, 40 * time.Second, 2, ""}); err != nil || got != want {
		t.Errorf("defaults: %+v, %v; want %+v", got, err, want)
	}
}
