//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/seal"
)

// A stop waits for exchanges that were begun with more patience than the file
// has now.
func TestReloadKeepsTheLongestPatience(t *testing.T) {
	var e endpoints
	for _, patience := range []time.Duration{time.Second, time.Minute, 10 * time.Second} {
		e.set(&readEndpoints{slowest: patience})
	}
	if got := e.now().slowest; got != time.Minute {
		t.Errorf("%s, want a minute", got)
	}
}

// SIGHUP reads the provider file and the keyset anew; what is wrong stays as it
// was, and says why.
func TestReload(t *testing.T) {
	g := newGrant(t)
	good, err := os.ReadFile(g.providers)
	if err != nil {
		t.Fatal(err)
	}
	rewrite := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rewrite(g.providers, strings.Replace(string(good), "/token\n", "/nowhere\n", 1))
	p := spawn(t, t.TempDir(), "--nats-listen", "127.0.0.1:0", "--http-addr", "none", "--providers", g.providers, "--refresh-ahead", "off")
	p.serves(t)
	g.put(t, p.connect(t, bus.RoleOperator), time.Millisecond) // ended
	client := p.connect(t, bus.RoleClient)
	if _, err := g.ask(t, client); err == nil || !strings.Contains(err.Error(), "misconfigured") {
		t.Fatalf("with a wrong token_url: %v", err)
	}

	// The right file: the open circuit is closed with the old definition.
	rewrite(g.providers, string(good))
	p.signal(t, syscall.SIGHUP)
	p.says(t, "provider file is read again")
	p.says(t, "keyset is read again")
	reply, err := g.ask(t, client)
	if err != nil || reply.Version != 2 {
		t.Fatalf("version %d, error %v\n%s", reply.Version, err, p.said())
	}

	// A wrong file, and a keyset of another fleet.
	rewrite(g.providers, "providers:\n  demo:\n    tokken_url: x\n")
	keyset := filepath.Join(p.dir, "keyset.json")
	ours, err := os.ReadFile(keyset)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(keyset); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Create(keyset); err != nil {
		t.Fatal(err)
	}
	p.signal(t, syscall.SIGHUP)
	if line := p.says(t, "provider file is not taken; the old one stays in use"); !strings.Contains(line["error"].(string), "tokken_url") {
		t.Errorf("it does not name what is wrong: %v", line)
	}
	if line := p.says(t, "keyset is not taken; the old one stays in use"); !strings.Contains(line["error"].(string), "keyset.json") {
		t.Errorf("it does not name the file: %v", line)
	}
	g.put(t, p.connect(t, bus.RoleOperator), time.Millisecond)
	if reply, err := g.ask(t, client); err != nil || reply.Version != 4 {
		t.Fatalf("with the old files: version %d, error %v\n%s", reply.Version, err, p.said())
	}

	// A key that was promoted seals from now on.
	rewrite(keyset, string(ours))
	rewrite(g.providers, string(good))
	if _, err := seal.Rotate(keyset); err != nil {
		t.Fatal(err)
	}
	p.signal(t, syscall.SIGHUP)
	if line := p.says(t, "keyset is read again"); line["keys"].(float64) != 2 {
		t.Errorf("got %v, want two keys", line)
	}
	g.put(t, p.connect(t, bus.RoleOperator), time.Millisecond)
	if reply, err := g.ask(t, client); err != nil || reply.Version != 6 {
		t.Fatalf("with a new key: version %d, error %v\n%s", reply.Version, err, p.said())
	}
}
