package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/events"
)

// --min-ttl 0s asks for any token that lives, which is not the worker's default.
func TestTokenMinTTL(t *testing.T) {
	f, at := newFleet(t)
	f.add(t, "acme", "a")
	heard := make(chan *nats.Msg, 10)
	if _, err := f.nc.ChanSubscribe(f.subjects.AllRequests(), heard); err != nil {
		t.Fatal(err)
	}
	if err := f.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		flags    []string
		min, max time.Duration
	}{
		{nil, 0, 0},
		{[]string{"--min-ttl", "0s"}, 1, time.Millisecond},
		{[]string{"--min-ttl", "5m"}, 5 * time.Minute, 5 * time.Minute},
	} {
		var stdout, stderr bytes.Buffer
		args := append([]string{"tokenctl", "token", "acme.a"}, append(tt.flags, at...)...)
		if code := newApp(&stdout, &stderr).run(t.Context(), args); code != 0 || stdout.String() != "SECRET-a\n" {
			t.Fatalf("%v: code %d, %s", tt.flags, code, &stderr)
		}
		q, err := events.DecodeTokenRequest((<-heard).Data)
		if err != nil || q.MinTTL < tt.min || q.MinTTL > tt.max {
			t.Errorf("%v: asked for %v, %v", tt.flags, q.MinTTL, err)
		}
	}
}
