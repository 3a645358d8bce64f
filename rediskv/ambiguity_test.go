package rediskv_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/rediskv"
	"github.com/tokenbus/tokenbus/refresh"
)

func TestLostReplies(t *testing.T) {
	t.Run("OneServer", func(t *testing.T) {
		proxy := rig.NewProxy(t, rig.StartRedis(t).Addr)
		testLostReplies(t, open(t, rediskv.Config{URL: "redis://" + proxy.Addr(), Timeout: patience}), proxy)
	})
	t.Run("Sentinels", func(t *testing.T) {
		proxy := rig.NewProxy(t, rig.StartRedis(t).Addr)
		sentinel := rig.RedisSentinel(t, "main", &rig.RedisServer{Addr: proxy.Addr()})
		c := open(t, rediskv.Config{URL: sentinel.URL + "?master_name=main", Timeout: patience})
		testLostReplies(t, c, proxy)
	})
}

// testLostReplies loses the replies to calls that were carried out, at the
// proxy that the server of the test's key is reached by. Each leaves its
// outcome open: repeated, it would find its own traces and take them for an
// answer.
func testLostReplies(t *testing.T, c *rediskv.Client, proxy *rig.Proxy) {
	cache, leases := c.Cache(), c.Leases()
	sent := func() int { return bytes.Count(proxy.Sent(), []byte("evalsha")) }
	lose := func(name string, call func() error) {
		t.Helper()
		if err := c.Ping(t.Context()); err != nil { // there is a connection
			t.Fatal(err)
		}
		before := sent()
		proxy.Mute()
		done := make(chan error, 1)
		go func() { done <- call() }()
		until(t, func() error {
			if sent() == before {
				return errors.New("not sent")
			}
			return nil
		})
		proxy.Cut()
		proxy.Restore()
		err := <-done
		if err == nil || errors.Is(err, lease.ErrLost) || errors.Is(err, refresh.ErrHeld) || rediskv.Final(err) {
			t.Errorf("%s: got error %v, want one that leaves the outcome open", name, err)
		}
		if n := sent() - before; n != 1 {
			t.Errorf("%s: the script was sent %d times", name, n)
		}
	}

	// The scripts are there, so that each call is one command.
	token, err := leases.Acquire(t.Context(), key.String(), "before")
	if err != nil {
		t.Fatal(err)
	}
	if token, err = leases.Renew(t.Context(), key.String(), token); err != nil {
		t.Fatal(err)
	}
	if err := leases.Release(t.Context(), key.String(), token); err != nil {
		t.Fatal(err)
	}
	if ok, err := cache.Put(t.Context(), key, entry(1)); !ok || err != nil {
		t.Fatal(ok, err)
	}

	lose("put", func() error { _, err := cache.Put(t.Context(), key, entry(2)); return err })
	if ok, err := cache.Put(t.Context(), key, entry(2)); ok || err != nil {
		t.Errorf("the same put again: %v, %v, want false", ok, err)
	}
	lose("acquire", func() error { _, err := leases.Acquire(t.Context(), key.String(), "owner"); return err })
	if _, err := leases.Acquire(t.Context(), key.String(), "other"); !errors.Is(err, refresh.ErrHeld) {
		t.Errorf("acquire by another: %v", err)
	}
	if token, err = leases.Acquire(t.Context(), key.String(), "owner"); err != nil {
		t.Errorf("the same acquire again: %v", err)
	}
	lose("renew", func() error { _, err := leases.Renew(t.Context(), key.String(), token); return err })
	if token, err = leases.Renew(t.Context(), key.String(), token); err != nil {
		t.Errorf("the same renewal again: %v", err)
	}
	lose("release", func() error { return leases.Release(t.Context(), key.String(), token) })
	if _, err := leases.Read(t.Context(), key.String()); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("read after the release: %v", err)
	}
}
