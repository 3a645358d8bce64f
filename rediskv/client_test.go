package rediskv_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/lease/leasetest"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/ledger/cachetest"
	"github.com/tokenbus/tokenbus/rediskv"
)

func open(t *testing.T, cfg rediskv.Config) *rediskv.Client {
	t.Helper()
	c, err := rediskv.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// raw connects to the server without the package.
func raw(t *testing.T, url string) *redis.Client {
	t.Helper()
	opts, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(opts)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

var key = func() account.Key {
	k, err := account.NewKey("openai", "alice")
	if err != nil {
		panic(err)
	}
	return k
}()

func entry(rev account.Rev) ledger.Entry {
	return ledger.Entry{Rev: rev, Version: 1, Value: fmt.Append(nil, rev), Until: time.Now().Add(time.Hour)}
}

// patience is the timeout of clients in tests that aren't about it: the
// machine may be busy.
const patience = 30 * time.Second

func TestCache(t *testing.T) {
	testCache(t, rig.Redis(t))
}

func testCache(t *testing.T, url string) {
	cachetest.Run(t, func(t *testing.T) ledger.Cache {
		return open(t, rediskv.Config{URL: url, Prefix: "p" + strings.ToLower(rand.Text()), Timeout: patience}).Cache()
	})
}

func TestLeases(t *testing.T) {
	testLeases(t, rig.Redis(t))
}

func testLeases(t *testing.T, url string) {
	leasetest.Run(t, func(t *testing.T) lease.Backend {
		return open(t, rediskv.Config{URL: url, Prefix: "p" + strings.ToLower(rand.Text()), LeaseTTL: time.Second, Timeout: patience}).Leases()
	})
}

// Numbers in Lua are exact up to 2^53 only.
func TestP3OrderAboveDoublePrecision(t *testing.T) {
	c := open(t, rediskv.Config{URL: rig.Redis(t)}).Cache()
	for _, step := range []struct {
		rev    account.Rev
		stored bool
	}{
		{1 << 53, true}, {1<<53 + 1, true}, {1 << 53, false}, {1<<53 + 1, false}, {1<<53 + 2, true},
		{1<<63 - 2, true}, {1<<63 - 1, true}, {1<<63 - 2, false}, {9, false}, {0, false},
	} {
		if ok, err := c.Put(t.Context(), key, entry(step.rev)); ok != step.stored || err != nil {
			t.Errorf("put of rev %d: %v, %v, want %v", step.rev, ok, err, step.stored)
		}
	}
	if e, err := c.Get(t.Context(), key); err != nil || e.Rev != 1<<63-1 {
		t.Errorf("rev %d, %v", e.Rev, err)
	}
	if _, err := c.Put(t.Context(), key, entry(-1)); err == nil {
		t.Error("a negative rev: no error")
	}
}

func TestKeysAndTimesToLive(t *testing.T) {
	url := rig.Redis(t)
	server := raw(t, url)
	c := open(t, rediskv.Config{URL: url, Prefix: "team:a", LeaseTTL: time.Minute})
	other := open(t, rediskv.Config{URL: url, Prefix: "team:b", LeaseTTL: time.Minute})
	const cacheKey, leaseKey = "team:a:cache:{openai.alice}", "team:a:lease:{openai.alice}"
	ttl := func(name string, atLeast, atMost time.Duration) {
		t.Helper()
		if d := server.PTTL(t.Context(), name).Val(); d > atMost || d < atLeast {
			t.Errorf("%s lives for %v, want %v to %v", name, d, atLeast, atMost)
		}
	}
	for i, until := range []time.Duration{-240 * time.Hour, 0, 30 * time.Minute, 240 * time.Hour, 100_000 * time.Hour} {
		e := entry(account.Rev(i + 1))
		e.Until = time.Now().Add(until)
		if ok, err := c.Cache().Put(t.Context(), key, e); !ok || err != nil {
			t.Fatal(ok, err)
		}
		want := max(until, 0) + time.Hour
		ttl(cacheKey, want-10*time.Second, want)
	}
	// An end that no duration can hold doesn't overflow.
	e := entry(100)
	e.Until = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	if ok, err := c.Cache().Put(t.Context(), key, e); !ok || err != nil {
		t.Fatal(ok, err)
	}
	ttl(cacheKey, 24*time.Hour, 200*365*24*time.Hour)

	token, err := c.Leases().Acquire(t.Context(), key.String(), "owner")
	if err != nil {
		t.Fatal(err)
	}
	ttl(leaseKey, 50*time.Second, time.Minute)
	server.PExpire(t.Context(), leaseKey, 10*time.Second)
	if _, err := c.Leases().Acquire(t.Context(), key.String(), "owner"); err != nil {
		t.Fatal(err)
	}
	ttl(leaseKey, 0, 10*time.Second) // acquiring again is no renewal
	if _, err := c.Leases().Renew(t.Context(), key.String(), token); err != nil {
		t.Fatal(err)
	}
	ttl(leaseKey, 50*time.Second, time.Minute)

	names := server.Keys(t.Context(), "*").Val()
	slices.Sort(names)
	if !slices.Equal(names, []string{cacheKey, leaseKey}) {
		t.Errorf("keys: %v", names)
	}
	if _, err := other.Cache().Get(t.Context(), key); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("another prefix sees the entry: %v", err)
	}
	if _, err := other.Leases().Acquire(t.Context(), key.String(), "another"); err != nil {
		t.Errorf("another prefix sees the lease: %v", err)
	}
}

// A server that has forgotten the scripts, as after a restart, gets them again.
func TestScriptsForgotten(t *testing.T) {
	url := rig.Redis(t)
	server := raw(t, url)
	c := open(t, rediskv.Config{URL: url})
	for i := range 3 {
		if err := server.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if ok, err := c.Cache().Put(t.Context(), key, entry(account.Rev(i+1))); !ok || err != nil {
			t.Errorf("put: %v, %v", ok, err)
		}
		token, err := c.Leases().Acquire(t.Context(), key.String(), "owner")
		if err != nil {
			t.Fatal(err)
		}
		server.ScriptFlush(t.Context())
		if token, err = c.Leases().Renew(t.Context(), key.String(), token); err != nil {
			t.Error(err)
		}
		server.ScriptFlush(t.Context())
		if err := c.Leases().Release(t.Context(), key.String(), token); err != nil {
			t.Error(err)
		}
	}
}

func TestForeignValues(t *testing.T) {
	url := rig.Redis(t)
	server := raw(t, url)
	c := open(t, rediskv.Config{URL: url})
	for name, write := range map[string]func(key string) error{
		"other type": func(key string) error { return server.Set(t.Context(), key, "x", 0).Err() },
		"rev only":   func(key string) error { return server.HSet(t.Context(), key, "rev", "1").Err() },
		"rev no number": func(key string) error {
			return server.HSet(t.Context(), key, "rev", "x", "version", 1, "until", 1, "value", "").Err()
		},
		"until too long": func(key string) error {
			return server.HSet(t.Context(), key, "rev", 1, "version", 1, "until", strings.Repeat("9", 30), "value", "").Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			server.Del(t.Context(), "tokenbus:cache:{openai.alice}")
			if err := write("tokenbus:cache:{openai.alice}"); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Cache().Get(t.Context(), key); err == nil || errors.Is(err, ledger.ErrNotFound) {
				t.Errorf("get: %v", err)
			}
			ok, err := c.Cache().Put(t.Context(), key, entry(2))
			if name == "other type" {
				if ok || err == nil {
					t.Errorf("put over it: %v, %v", ok, err)
				}
				return
			}
			if !ok || err != nil {
				t.Errorf("put over it: %v, %v", ok, err)
			}
			if e, err := c.Cache().Get(t.Context(), key); err != nil || e.Rev != 2 {
				t.Errorf("rev %d, %v, want 2", e.Rev, err)
			}
		})
	}
}

// A call whose reply is lost ends by the client's own timeout, leaves the
// outcome open, and is never repeated.
func TestLateReply(t *testing.T) {
	u, err := url.Parse(rig.Redis(t))
	if err != nil {
		t.Fatal(err)
	}
	proxy := rig.NewProxy(t, u.Host)
	c := open(t, rediskv.Config{URL: "redis://" + proxy.Addr(), Timeout: 100 * time.Millisecond})
	if ok, err := c.Cache().Put(t.Context(), key, entry(1)); !ok || err != nil { // brings the script there
		t.Fatal(ok, err)
	}
	token, err := c.Leases().Acquire(t.Context(), key.String(), "owner")
	if err != nil {
		t.Fatal(err)
	}
	sent := func() int { return bytes.Count(bytes.ToLower(proxy.Sent()), []byte("evalsha")) }
	before := sent()
	proxy.Mute()
	_, putErr := c.Cache().Put(t.Context(), key, entry(2))
	_, renewErr := c.Leases().Renew(t.Context(), key.String(), token)
	for name, err := range map[string]error{"Put": putErr, "Renew": renewErr} {
		if err == nil || errors.Is(err, ledger.ErrNotFound) || errors.Is(err, lease.ErrLost) || errors.Is(err, rediskv.ErrCredentials) {
			t.Errorf("%s: got error %v, want one that leaves the outcome open", name, err)
		}
	}
	if n := sent() - before; n > 2 {
		t.Errorf("%d scripts were sent for two calls", n)
	}
	proxy.Restore()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); ; <-tick.C {
		if e, err := c.Cache().Get(t.Context(), key); err == nil {
			if e.Rev != 2 {
				t.Errorf("rev %d, want 2: the put went through, its reply didn't", e.Rev)
			}
			return
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
