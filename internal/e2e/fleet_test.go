package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/events"
)

// fleet is where workers and their users meet.
type fleet struct {
	url  string // of the NATS server
	keys string // the folder with its keys
}

func (f fleet) key(role string) string { return filepath.Join(f.keys, role+".nk") }

// startWorker starts a worker process with a data folder of its own.
func startWorker(t testing.TB, dir string, args ...string) *process {
	t.Helper()
	args = append([]string{"--data-dir", dir, "--log-format", "json"}, args...)
	return start(t, exec.Command(program(t, "worker"), args...))
}

// startFirst starts a worker with the NATS server in it.
func startFirst(t testing.TB, dir string, args ...string) (*process, fleet) {
	t.Helper()
	p := startWorker(t, dir, append([]string{"--nats-listen", "127.0.0.1:0"}, args...)...)
	url, _ := p.logs(t, "embedded NATS server listens")["url"].(string)
	p.logs(t, "worker answers requests")
	return p, fleet{url, filepath.Join(dir, "nats")}
}

// tokenctl runs an operator's command.
func (f fleet) tokenctl(t testing.TB, args ...string) result {
	t.Helper()
	return run(t, program(t, "tokenctl"), append([]string{"--nats-url", f.url, "--nats-nkey", f.key("operator")}, args...)...)
}

// must runs an operator's command that has to succeed, and returns what it says.
func (f fleet) must(t testing.TB, args ...string) string {
	t.Helper()
	r := f.tokenctl(t, args...)
	if r.code != 0 || r.stderr != "" {
		t.Fatalf("tokenctl %s: code %d\n%s%s", strings.Join(args, " "), r.code, r.stderr, r.stdout)
	}
	return r.stdout
}

// accounts returns the accounts as accounts get has them.
func (f fleet) accounts(t testing.TB, keys ...account.Key) []events.Account {
	t.Helper()
	args := []string{"accounts", "get", "--output", "json"}
	for _, key := range keys {
		args = append(args, key.String())
	}
	docs := make([]events.Account, 0, len(keys))
	for d := json.NewDecoder(strings.NewReader(f.must(t, args...))); ; {
		var doc events.Account
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("accounts get: %v", err)
		}
		docs = append(docs, doc)
	}
	if len(docs) != len(keys) {
		t.Fatalf("accounts get: %d of %d accounts", len(docs), len(keys))
	}
	return docs
}

// gateway returns a client as a gateway has it.
func (f fleet) gateway(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: f.url, NKey: f.key("client"), Name: t.Name(), MaxAge: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func newKey(t testing.TB, platform, id string) account.Key {
	t.Helper()
	key, err := account.NewKey(platform, id)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// loginFile is a login in the form of accounts.put.
func loginFile(key account.Key, refreshToken string) string {
	return fmt.Sprintf("{\"platform\":%q,\"id\":%q,\"type\":\"oauth\",\"credentials\":{\"refresh_token\":%q}}\n", key.Platform(), key.ID(), refreshToken)
}
