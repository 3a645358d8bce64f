package rediskv

import (
	"crypto/tls"
	"errors"
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"
)

func TestJudge(t *testing.T) {
	single := &target{single: &redis.Options{}}
	cluster := &target{cluster: &redis.ClusterOptions{}}
	sentinel := &target{sentinel: &redis.FailoverOptions{}}
	for _, c := range []struct {
		target              *target
		version, mode, role string
		want                error
	}{
		{single, "6.0.0", "standalone", "master", nil},
		{single, "7.0.15", "standalone", "master", nil},
		{single, "10.1.2", "standalone", "master", nil},
		{single, "", "", "", nil}, // it doesn't tell
		{single, "unstable", "standalone", "master", nil},
		{single, ".5", "", "", nil},
		{single, "5.0.14", "", "", ErrUnusable},
		{single, "2.8.24", "", "", ErrUnusable},
		{cluster, "5.0.14", "", "", ErrUnusable},
		{sentinel, "5.0.14", "", "", ErrUnusable},
		{single, "7.0.15", "cluster", "master", ErrUnusable},
		{single, "7.0.15", "sentinel", "", ErrUnusable},
		{cluster, "7.0.15", "sentinel", "", ErrUnusable},
		{single, "7.0.15", "standalone", "replica", errReplica},
		{sentinel, "7.0.15", "standalone", "replica", errReplica},
		{sentinel, "7.0.15", "sentinel", "", nil},
		{sentinel, "7.0.15", "standalone", "master", nil},
		{cluster, "7.0.15", "cluster", "replica", nil}, // it redirects
		{cluster, "7.0.15", "cluster", "master", nil},
	} {
		t.Run(fmt.Sprint(c.version, c.mode, c.role), func(t *testing.T) {
			err := c.target.judge(c.version, c.mode, c.role)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if Final(err) != (c.want == ErrUnusable) {
				t.Errorf("final: %v", Final(err))
			}
		})
	}
}

func TestPairsOfBothProtocols(t *testing.T) {
	for name, reply := range map[string]any{
		"RESP2":  []any{"server", "redis", "proto", int64(2), "version", "7.0.15", "modules", []any{}, "odd"},
		"RESP3":  map[any]any{"server": "redis", "proto": int64(3), "version": "7.0.15", int64(1): "x"},
		"a text": "version",
		"none":   nil,
	} {
		want := ""
		if name[:1] == "R" {
			want = "7.0.15"
		}
		if got := pairs(reply)["version"]; got != want {
			t.Errorf("%s: version %q, want %q", name, got, want)
		}
	}
}

func TestNoTLSIsFinal(t *testing.T) {
	if _, kind := diagnoseTLS(fmt.Errorf("dial: %w", tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"})); kind != ErrUnusable {
		t.Errorf("got %v, want %v", kind, ErrUnusable)
	}
}
