package rediskv_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/lease"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/rediskv"
	"github.com/tokenbus/tokenbus/refresh"
)

// Eviction loses entries and leases, and nothing else: what is there is in
// order, and what isn't can be put and taken again.
func TestEviction(t *testing.T) {
	url := rig.Redis(t, "--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru")
	client := open(t, rediskv.Config{URL: url, Timeout: patience})
	c, leases := client.Cache(), client.Leases()
	value := bytes.Repeat([]byte("x"), 16<<10)
	const accounts = 400
	tokens := make([]lease.Token, accounts)
	for i := range accounts {
		k := mustKey(fmt.Sprint("a", i))
		var err error
		if tokens[i], err = leases.Acquire(t.Context(), k.String(), "first"); err != nil {
			t.Fatal(err)
		}
		e := entry(5)
		e.Value = value
		if ok, err := c.Put(t.Context(), k, e); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if err := client.Ping(t.Context()); err != nil {
		t.Errorf("ping of a server that evicts: %v", err)
	}
	entries, held := 0, 0
	for i := range accounts {
		k := mustKey(fmt.Sprint("a", i))
		_, err := leases.Renew(t.Context(), k.String(), tokens[i])
		switch _, second := leases.Acquire(t.Context(), k.String(), "second"); {
		case err == nil && errors.Is(second, refresh.ErrHeld):
			held++
		case errors.Is(err, lease.ErrLost) && second == nil:
			if err := leases.Release(t.Context(), k.String(), tokens[i]); !errors.Is(err, lease.ErrLost) {
				t.Errorf("release of an evicted lease: %v", err)
			}
		default:
			t.Errorf("renew: %v, acquire: %v", err, second)
		}
		e, err := c.Get(t.Context(), k)
		switch {
		case errors.Is(err, ledger.ErrNotFound):
			if ok, err := c.Put(t.Context(), k, entry(5)); !ok || err != nil {
				t.Errorf("put after eviction: %v, %v", ok, err)
			}
		case err != nil:
			t.Fatal(err)
		case e.Rev != 5 || !bytes.Equal(e.Value, value):
			t.Errorf("entry of rev %d with %d bytes", e.Rev, len(e.Value))
		default:
			entries++
		}
	}
	if entries == accounts || held == accounts {
		t.Errorf("%d entries and %d leases of %d stayed: the test tried too little", entries, held, accounts)
	}
}

// A server that is full and evicts nothing refuses what needs memory, says so,
// and answers all else.
func TestMemoryFull(t *testing.T) {
	url := rig.Redis(t, "--maxmemory-policy", "noeviction")
	server := raw(t, url)
	client := open(t, rediskv.Config{URL: url, Timeout: patience})
	c, leases := client.Cache(), client.Leases()
	if ok, err := c.Put(t.Context(), key, entry(1)); !ok || err != nil {
		t.Fatal(ok, err)
	}
	token, err := leases.Acquire(t.Context(), key.String(), "owner")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}

	other := mustKey("other")
	_, putErr := c.Put(t.Context(), key, entry(2))
	_, firstErr := c.Put(t.Context(), other, entry(1))
	_, acquireErr := leases.Acquire(t.Context(), other.String(), "owner")
	for name, err := range map[string]error{"put": putErr, "first put": firstErr, "acquire": acquireErr, "ping": client.Ping(t.Context())} {
		if err == nil || errors.Is(err, refresh.ErrHeld) || rediskv.Final(err) || !strings.Contains(err.Error(), "raise maxmemory") {
			t.Errorf("%s: got error %v, want one about the memory", name, err)
		}
	}
	if ok, err := c.Put(t.Context(), key, entry(1)); ok || err != nil {
		t.Errorf("put of an old rev needs no memory: %v, %v", ok, err)
	}
	if e, err := c.Get(t.Context(), key); err != nil || e.Rev != 1 {
		t.Errorf("rev %d, %v, want the one before", e.Rev, err)
	}
	if _, err := c.Get(t.Context(), other); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("get of what was refused: %v", err)
	}
	if _, err := leases.Acquire(t.Context(), key.String(), "another"); !errors.Is(err, refresh.ErrHeld) {
		t.Errorf("acquire of a held lease: %v", err)
	}
	if token, err = leases.Renew(t.Context(), key.String(), token); err != nil {
		t.Errorf("renew: %v", err)
	}
	if err := leases.Release(t.Context(), key.String(), token); err != nil {
		t.Errorf("release: %v", err)
	}

	if err := server.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	if ok, err := c.Put(t.Context(), key, entry(account.Rev(2))); !ok || err != nil {
		t.Errorf("put when there is room again: %v, %v", ok, err)
	}
}
