package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/seal"
)

// testConfig is the configuration of a worker with an embedded server, in a
// folder of the test.
func testConfig(t *testing.T, change map[string]string) config {
	t.Helper()
	flags := map[string]string{"data-dir": t.TempDir(), "nats-listen": "127.0.0.1:0", "http-addr": none, "worker-id": "w1"}
	for name, value := range change {
		flags[name] = value
		if value == "" {
			delete(flags, name)
		}
	}
	cfg, err := readConfig(lookup(flags), lookup(nil))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// running is a worker that runs in the test.
type running struct {
	*worker
	stop  context.CancelFunc
	ended chan struct{}
	err   error // once ended is closed
}

// start runs a worker until the test ends, or until stop.
func start(t *testing.T, cfg config, h hooks) *running {
	t.Helper()
	w, err := openWorker(cfg, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})), h)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{worker: w, stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.err = w.run(ctx)
	}()
	t.Cleanup(func() { stop(); <-r.ended })
	return r
}

// ends waits for the worker's end.
func (r *running) ends(t *testing.T) {
	t.Helper()
	select {
	case <-r.ended:
	case <-time.After(time.Minute):
		t.Fatalf("%s does not end", r.id)
	}
}

// serves waits until the worker answers requests.
func (r *running) serves(t *testing.T) {
	t.Helper()
	select {
	case <-r.serving:
	case <-r.ended:
		t.Fatalf("%s ended: %v", r.id, r.err)
	case <-time.After(30 * time.Second):
		checks, _ := r.health.checks()
		t.Fatalf("%s is not ready: %+v", r.id, checks)
	}
}

// joining is the configuration of a worker that joins the one that runs.
func (r *running) joining(t *testing.T, id string) config {
	t.Helper()
	return testConfig(t, map[string]string{
		"worker-id": id, "nats-listen": "", "nats-url": r.server.URL(), "nats-nkey": r.server.KeyFile(bus.RoleWorker), "keyset": r.cfg.keysetPath(),
	})
}

func TestWorkerStartsAndStops(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t, map[string]string{"http-addr": "127.0.0.1:0"})
	for _, round := range []string{"first start", "second start, same folder"} {
		w, err := openWorker(cfg, slog.New(slog.DiscardHandler), hooks{})
		if err != nil {
			t.Fatalf("%s: %v", round, err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { err = w.run(ctx) })
		<-w.serving
		waitReady(t, "http://"+w.http.Addr().String()+"/readyz")
		stop()
		wg.Wait()
		if err != nil {
			t.Errorf("%s: stop: %v", round, err)
		}
	}
}

// waitReady asks /readyz until it says yes.
func waitReady(t *testing.T, url string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	eventually(t, func() error {
		answer, err := client.Get(url)
		if err != nil {
			return err
		}
		var body struct {
			Ready  bool
			Checks []check
		}
		err = json.NewDecoder(answer.Body).Decode(&body)
		_ = answer.Body.Close()
		if err == nil && body.Ready && answer.StatusCode == http.StatusOK && len(body.Checks) == 6 {
			return nil
		}
		return fmt.Errorf("not ready: %d %+v %w", answer.StatusCode, body, err)
	})
}

// eventually asks again and again until there is no error.
func eventually(t *testing.T, ask func() error) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-ticker.C
	}
}

func TestWorkerStopsBeforeItHasBegun(t *testing.T) {
	noLeaks(t)
	first := testConfig(t, nil)
	if _, err := seal.Create(first.keysetPath()); err != nil {
		t.Fatal(err)
	}
	// Nobody listens there: the worker waits.
	cfg := testConfig(t, map[string]string{"nats-listen": "", "nats-url": "nats://127.0.0.1:1", "keyset": first.keysetPath()})
	w, err := openWorker(cfg, slog.New(slog.DiscardHandler), hooks{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- w.run(ctx) }()
	eventually(t, func() error {
		checks, ready := w.health.checks()
		if ready {
			t.Fatal("ready without NATS")
		}
		if checks[2].Name == depNATS && strings.HasPrefix(checks[2].Reason, "not connected: dial tcp 127.0.0.1:1:") && checks[4].Name == depStore && strings.HasPrefix(checks[4].Reason, "waits for NATS") {
			return nil
		}
		return fmt.Errorf("%+v", checks)
	})
	stop()
	if err := <-ended; err != nil {
		t.Errorf("stop while it waits: %v, want a clean end", err)
	}
}

func TestWorkersJoin(t *testing.T) {
	noLeaks(t)
	first := start(t, testConfig(t, nil), hooks{})
	first.serves(t)
	second := start(t, first.joining(t, "w2"), hooks{})
	second.serves(t)
	second.stop()
	second.ends(t)
	first.stop()
	first.ends(t)
	if first.err != nil || second.err != nil {
		t.Errorf("stop: %v, %v", first.err, second.err)
	}
}

func TestForeignKeysetEndsTheWorker(t *testing.T) {
	noLeaks(t)
	first := start(t, testConfig(t, nil), hooks{})
	first.serves(t)
	waitFor(t, first, depStore) // the check value is there
	cfg := first.joining(t, "w2")
	cfg.Keyset = filepath.Join(t.TempDir(), "other.json")
	if _, err := seal.Create(cfg.Keyset); err != nil {
		t.Fatal(err)
	}
	second := start(t, cfg, hooks{})
	second.ends(t)
	want := `--keyset (TOKENBUS_KEYSET): "` + cfg.Keyset + `": ` + seal.ErrOtherKeyset.Error()
	if _, ok := errors.AsType[*usageError](second.err); !ok || !strings.HasPrefix(second.err.Error(), want) {
		t.Errorf("got %v\nwant a usage error: %s…", second.err, want)
	}
	first.stop()
	first.ends(t)
}

// waitFor waits until a dependency of the worker is ready.
func waitFor(t *testing.T, r *running, name string) {
	t.Helper()
	eventually(t, func() error {
		checks, _ := r.health.checks()
		if slices.Contains(checks, check{Name: name, Ready: true}) {
			return nil
		}
		return fmt.Errorf("%s is not ready: %+v", name, checks)
	})
}

func TestRefusedCredentialsEndTheWorker(t *testing.T) {
	noLeaks(t)
	first := start(t, testConfig(t, nil), hooks{})
	first.serves(t)
	other := start(t, testConfig(t, nil), hooks{})
	other.serves(t)
	cfg := first.joining(t, "w2")
	cfg.NATSNKey = other.server.KeyFile(bus.RoleWorker)
	second := start(t, cfg, hooks{})
	second.ends(t)
	if _, ok := errors.AsType[*usageError](second.err); !ok || !strings.HasPrefix(second.err.Error(), "--nats-url (TOKENBUS_NATS_URL): ") || !errors.Is(second.err, bus.ErrCredentials) {
		t.Errorf("got %v, want a usage error about the credentials", second.err)
	}
	for _, r := range []*running{first, other} {
		r.stop()
		r.ends(t)
	}
}

func TestResealCommand(t *testing.T) {
	noLeaks(t)
	dir := filepath.Join(t.TempDir(), "data")
	var stdout, stderr bytes.Buffer
	a := app{stdout: &stdout, stderr: &stderr, env: lookup(map[string]string{"TOKENBUS_DATA_DIR": dir, "TOKENBUS_LOG_LEVEL": "error"}),
		signals: func(ctx context.Context) (context.Context, func()) { return ctx, func() {} }}
	if code := a.run(t.Context(), []string{"worker", "reseal"}); code != exitConfig || !strings.Contains(stderr.String(), "--keyset (TOKENBUS_KEYSET): ") {
		t.Errorf("without a keyset: code %d, stderr %s", code, &stderr)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Create(filepath.Join(dir, "keyset.json")); err != nil {
		t.Fatal(err)
	}
	if code := a.run(t.Context(), []string{"worker", "reseal"}); code != exitOK {
		t.Fatalf("code %d, stderr %s", code, &stderr)
	}
	if got := stdout.String(); !strings.HasPrefix(got, "resealed 0 of 0 accounts with key ") {
		t.Errorf("stdout %q", got)
	}
}
