//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/seal"
)

// natsFor starts a NATS server of the test and returns the flags that join it.
func natsFor(t *testing.T, dir string) (*bus.Server, []string) {
	t.Helper()
	subjects, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	server, err := bus.StartServer(bus.ServerConfig{Listen: "127.0.0.1:0", DataDir: dir, Subjects: subjects})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	return server, []string{"--nats-url", server.URL(), "--nats-nkey", server.KeyFile(bus.RoleWorker), "--http-addr", "none"}
}

// A worker is killed in the middle of an exchange, when the refresh token is
// spent and nobody has the answer. The other one serves the living token, says
// in_doubt, blames nobody, and sends nothing.
func TestP1KilledInMidExchangeSendsNothingTwice(t *testing.T) {
	g := newGrant(t)
	dir := t.TempDir()
	server, flags := natsFor(t, dir)
	keyset := filepath.Join(dir, "keyset.json")
	if _, err := seal.Create(keyset); err != nil {
		t.Fatal(err)
	}
	flags = append(flags, "--keyset", keyset, "--providers", g.providers, "--lease-ttl", "1s", "--refresh-ahead", "off")
	first := spawn(t, t.TempDir(), append(flags, "--worker-id", "first")...)
	first.says(t, "worker answers requests")
	first.url, first.dir = server.URL(), dir
	g.put(t, first.connect(t, bus.RoleOperator), 2*time.Minute) // living, and within the refresh skew
	gate := make(chan struct{})
	defer close(gate)
	g.server.Inject(oauthtest.HoldAfter(gate))
	gw := first.connect(t, bus.RoleClient)
	if reply, err := g.ask(t, gw); err != nil || reply.Version != 1 {
		t.Fatalf("version %d, %v; want 1", reply.Version, err)
	}
	eventually(t, func() error {
		if g.server.Exchanges() == 0 {
			return errors.New("no exchange")
		}
		return nil
	})
	subjects, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	status, err := gw.SubscribeSync(subjects.AllStatus())
	if err != nil {
		t.Fatal(err)
	}
	if err := gw.Flush(); err != nil {
		t.Fatal(err)
	}
	second := spawn(t, t.TempDir(), append(flags, "--worker-id", "second")...)
	second.says(t, "worker answers requests")
	first.signal(t, os.Kill)
	first.ends(t)

	// Each request makes the second worker look at the rotation again.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for doubted := false; !doubted; {
		if reply, err := g.ask(t, gw); err != nil || reply.Version != 1 {
			t.Fatalf("version %d, %v; want the living version 1", reply.Version, err)
		}
		m, err := status.NextMsg(50 * time.Millisecond)
		if ctx.Err() != nil {
			t.Fatalf("nobody says in_doubt; second said:\n%s", second.said())
		}
		if err != nil {
			continue
		}
		e, err := events.DecodeStatus(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		doubted = e.Code == events.StatusInDoubt
		if doubted && (!strings.Contains(e.Message, "first") || e.Status != account.Active) {
			t.Errorf("in_doubt says %q with status %s; want it to name the worker and blame nobody", e.Message, e.Status)
		}
	}
	if s := g.server.Stats(); s.Requests != 1 || s.Reused != 0 || s.Revoked != 0 {
		t.Errorf("the endpoint saw %+v, want the one request of the killed worker", s)
	}
}

// Nothing that a worker leaves behind or says holds a token in the clear.
func TestP8NoSecretIsLeftInTheClear(t *testing.T) {
	g := newGrant(t)
	dir := t.TempDir()
	p := spawn(t, dir, "--nats-listen", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--providers", g.providers, "--log-level", "debug")
	p.url, _ = p.says(t, "embedded NATS server listens")["url"].(string)
	address, _ := p.says(t, "http endpoints listen")["address"].(string)
	p.says(t, "worker answers requests")
	operator := p.connect(t, bus.RoleOperator)
	subjects, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // guards heard
	var heard bytes.Buffer
	for _, subject := range []string{subjects.AllBumps(), subjects.AllRefreshed(), subjects.AllStatus()} {
		if _, err := operator.Subscribe(subject, func(m *nats.Msg) {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(&heard, "%s %v %s\n", m.Subject, m.Header, m.Data)
		}); err != nil {
			t.Fatal(err)
		}
	}
	var secrets []string
	remember := func() {
		access, refresh := g.server.Current(g.key.ID())
		secrets = append(secrets, access, refresh)
	}
	g.put(t, operator, -time.Minute)
	remember()
	gw := p.connect(t, bus.RoleClient)
	if reply, err := g.ask(t, gw); err != nil || reply.Version != 2 {
		t.Fatalf("version %d, %v; want 2", reply.Version, err)
	}
	remember()
	access, refresh := g.server.Current(g.key.ID())
	g.server.Inject(oauthtest.LoseWith(http.StatusOK, `{"odd":"`+access+`","refresh_token":7,"note":"`+refresh+`"}`))
	body, err := json.Marshal(events.KeyRequest{Platform: g.key.Platform(), ID: g.key.ID()})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := operator.Request(subjects.Admin(events.VerbRefresh), body, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := operator.Flush(); err != nil {
		t.Fatal(err)
	}
	metrics, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(metrics.Body)
	_ = metrics.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	p.signal(t, os.Interrupt)
	if code := p.ends(t); code != exitOK {
		t.Errorf("code %d\n%s", code, p.said())
	}

	found := 0
	scan := func(where string, data []byte) {
		found++
		for _, secret := range secrets {
			if secret == "" || bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s holds a token in the clear", where)
			}
		}
	}
	scan("/metrics", text)
	scan("the log", []byte(p.said()))
	scan("an answer to an operator", answer.Data)
	mu.Lock()
	scan("an event", heard.Bytes())
	if heard.Len() == 0 {
		t.Error("no event was heard")
	}
	mu.Unlock()
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		scan(path, data)
		return err
	})
	if err != nil || found < 10 {
		t.Errorf("looked into %d places, %v", found, err)
	}
	if !strings.Contains(p.said(), `"level":"DEBUG"`) {
		t.Error("the log has no debug lines, so that the scan proves little")
	}
}

// Credentials that are let in and may not do what a worker must, and files that
// hold none: one line that names the setting, and exit code 2.
func TestProcessRefusesWrongCredentials(t *testing.T) {
	dir := t.TempDir()
	server, flags := natsFor(t, dir)
	keyset := filepath.Join(dir, "keyset.json")
	if _, err := seal.Create(keyset); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		file string
		want string
	}{
		"a gateway's key":   {server.KeyFile(bus.RoleClient), "lacks a worker's permissions"},
		"an operator's key": {server.KeyFile(bus.RoleOperator), "lacks a worker's permissions"},
		"no key":            {write(t, "junk", "junk"), "holds no user's nkey seed"},
	} {
		t.Run(name, func(t *testing.T) {
			p := spawn(t, t.TempDir(), append(flags, "--keyset", keyset, "--nats-nkey", c.file)...)
			if code := p.ends(t); code != exitConfig {
				t.Errorf("code %d, want %d\n%s", code, exitConfig, p.said())
			}
			lines := strings.Split(strings.TrimSpace(p.said()), "\n")
			last := lines[len(lines)-1]
			if !strings.HasPrefix(last, "worker: --nats-nkey (TOKENBUS_NATS_NKEY): ") || !strings.Contains(last, c.want) || !strings.Contains(last, c.file) {
				t.Errorf("it says %q", last)
			}
		})
	}
}

// A keyset that is gone is not made anew beside what was sealed with it.
func TestProcessMakesNoKeysetBesideAccounts(t *testing.T) {
	dir := t.TempDir()
	first := spawn(t, dir, "--nats-listen", "127.0.0.1:0", "--http-addr", "none")
	first.serves(t)
	first.signal(t, os.Interrupt)
	if code := first.ends(t); code != exitOK {
		t.Fatalf("code %d\n%s", code, first.said())
	}
	keyset := filepath.Join(dir, "keyset.json")
	if err := os.Remove(keyset); err != nil {
		t.Fatal(err)
	}
	second := spawn(t, dir, "--nats-listen", "127.0.0.1:0", "--http-addr", "none")
	if code := second.ends(t); code != exitConfig || !strings.Contains(second.said(), "worker: --keyset (TOKENBUS_KEYSET): ") {
		t.Errorf("code %d\n%s", code, second.said())
	}
	if _, err := os.Stat(keyset); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a keyset was made: %v", err)
	}
}
