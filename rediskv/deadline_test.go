package rediskv_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/rediskv"
	"github.com/tokenbus/tokenbus/refresh"
)

func TestUnreachable(t *testing.T) {
	proxy := rig.NewProxy(t, rig.StartRedis(t).Addr)
	proxy.Cut()
	c := open(t, rediskv.Config{URL: "redis://" + proxy.Addr(), Timeout: time.Second})
	if err := c.Ping(t.Context()); err == nil || rediskv.Final(err) {
		t.Errorf("ping without a server: %v", err)
	}
	proxy.Restore()
	until(t, func() error { return c.Ping(t.Context()) })
	proxy.Freeze()
	if _, err := c.Cache().Get(t.Context(), key); err == nil || errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("get from a frozen server: %v", err)
	}
}

// silence is an address that takes connections and never says a word.
func silence(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String() // the kernel accepts
}

// A server that doesn't answer costs what the caller grants, or the client's
// timeout, whichever is shorter, also many callers at once, and whatever stands
// between.
func TestSilenceCostsNoMoreThanTheDeadline(t *testing.T) {
	const short, long = 200 * time.Millisecond, 6 * time.Second
	redis := rig.StartRedis(t)
	sentinel := rig.RedisSentinel(t, "main", redis)
	frozen := rig.NewProxy(t, redis.Addr)
	urls := map[string]string{
		"one server":             "redis://" + silence(t),
		"TLS":                    "rediss://" + silence(t),
		"Cluster":                "redis://" + silence(t) + "?addr=" + silence(t),
		"Sentinels":              "redis://" + silence(t) + "?master_name=main&addr=" + silence(t),
		"Sentinel in TLS":        "rediss://" + silence(t) + "?master_name=main",
		"one of two Sentinels":   "redis://" + silence(t) + "?master_name=other&addr=" + sentinel.Addr,
		"frozen while connected": "redis://" + frozen.Addr(),
	}
	for name, url := range urls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, c := range []struct {
				name              string
				timeout, deadline time.Duration
			}{{"deadline", long, short}, {"timeout", short, long}} {
				client := open(t, rediskv.Config{URL: url, Timeout: c.timeout})
				if url == urls["frozen while connected"] {
					frozen.Restore()
					until(t, func() error { return client.Ping(t.Context()) })
					frozen.Freeze()
				}
				token := lease.Token{Owner: "owner"}
				calls := map[string]func(context.Context) error{
					"Ping":    client.Ping,
					"Get":     func(ctx context.Context) error { _, err := client.Cache().Get(ctx, key); return err },
					"Put":     func(ctx context.Context) error { _, err := client.Cache().Put(ctx, key, entry(1)); return err },
					"Acquire": func(ctx context.Context) error { _, err := client.Leases().Acquire(ctx, "a.b", "owner"); return err },
					"Renew":   func(ctx context.Context) error { _, err := client.Leases().Renew(ctx, "a.b", token); return err },
					"Release": func(ctx context.Context) error { return client.Leases().Release(ctx, "a.b", token) },
					"Read":    func(ctx context.Context) error { _, err := client.Leases().Read(ctx, "a.b"); return err },
				}
				var wg sync.WaitGroup
				for method, call := range calls {
					for range 20 {
						wg.Go(func() {
							ctx, cancel := context.WithTimeout(t.Context(), c.deadline)
							defer cancel()
							start := time.Now()
							err := call(ctx)
							if took := time.Since(start); took > long*3/4 { // the machine may be busy
								t.Errorf("%s, %s: it took %v", c.name, method, took)
							}
							if err == nil || errors.Is(err, ledger.ErrNotFound) || errors.Is(err, lease.ErrLost) || errors.Is(err, refresh.ErrHeld) {
								t.Errorf("%s, %s: got error %v, want one that leaves the outcome open", c.name, method, err)
							}
							if err != nil && strings.Contains(err.Error(), "\n") {
								t.Errorf("%s, %s: more than a line: %q", c.name, method, err)
							}
						})
					}
				}
				wg.Wait()
			}
		})
	}
}
