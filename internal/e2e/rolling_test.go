package e2e_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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

// Three workers are replaced one after the other while gateways ask at a steady
// rate, for accounts some of which are refreshed all the time. No request
// fails, and no refresh token is used twice. E2E_RATE=5000 says how many
// requests a second, whatever waits.
func TestRollingRestart(t *testing.T) {
	const workers, accounts, conns = 3, 40, 4
	rate := rateOf(t)
	endpoint, err := oauthtest.New(oauthtest.Config{TTL: 8 * time.Second}) // a refresh of each every five seconds
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(endpoint)
	t.Cleanup(web.Close)
	f, flags := rollingFleet(t, web.URL)
	next := func(i int) *process {
		p := startWorker(t, t.TempDir(), append(flags, "--worker-id", fmt.Sprint("w", i))...)
		p.logs(t, "worker answers requests")
		return p
	}
	var running []*process
	for i := range workers {
		running = append(running, next(i))
	}
	keys, logins := make([]account.Key, accounts), t.TempDir()
	for i := range keys {
		keys[i] = newKey(t, "demo", fmt.Sprint("a", i))
		_, refresh := endpoint.NewGrant(keys[i].ID())
		write(t, logins, keys[i].ID()+".json", loginFile(keys[i], refresh))
	}
	f.must(t, "accounts", "import", logins)
	l := &rolling{keys: keys, version: map[account.Key]account.Version{}}
	for range conns {
		conn, err := bus.Connect(bus.Config{URLs: []string{f.url}, NKey: f.key("client"), InboxPrefix: bus.InboxPrefix(bus.RoleClient), Name: t.Name()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		l.conns = append(l.conns, conn)
	}
	for _, key := range keys { // each has a token before the load begins
		l.ask(l.conns[0], key)
	}
	ctx, stop := context.WithCancel(t.Context())
	loaded := make(chan struct{})
	go func() { defer close(loaded); l.run(ctx, rate) }()
	l.await(t, rate) // a second of it
	for i := range workers {
		fresh := next(workers + i)
		running[i].stop(t)
		running[i] = fresh
		l.await(t, rate)
	}
	stop()
	<-loaded
	l.report(t, rate)
	if used := endpoint.Stats().Reused; used != 0 {
		t.Errorf("%d refresh tokens were used twice", used)
	}
}

func rateOf(t *testing.T) int {
	text, set := os.LookupEnv("E2E_RATE")
	if !set {
		return 300
	}
	rate, err := strconv.Atoi(text)
	if err != nil || rate < 100 {
		t.Fatalf("E2E_RATE=%q: want a number of requests a second, at least 100", text)
	}
	return rate
}

// rollingFleet is a NATS server and the flags of workers that join it.
func rollingFleet(t *testing.T, endpoint string) (fleet, []string) {
	t.Helper()
	dir := t.TempDir()
	subjects, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	server, err := bus.StartServer(bus.ServerConfig{Listen: "127.0.0.1:0", DataDir: dir, Subjects: subjects, SyncInterval: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	keyset := filepath.Join(dir, "keyset.json")
	if _, err := seal.Create(keyset); err != nil {
		t.Fatal(err)
	}
	providers := write(t, dir, "providers.yaml", fmt.Sprintf("providers:\n  demo:\n    token_url: %s/token\n    client_id: c\n", endpoint))
	f := fleet{server.URL(), filepath.Join(dir, "nats")}
	return f, []string{"--nats-url", f.url, "--nats-nkey", f.key("worker"), "--keyset", keyset, "--providers", providers, "--http-addr", "none", "--lease-ttl", "5s"}
}

// rolling is the load of a rolling restart and what came of it.
type rolling struct {
	conns []*nats.Conn
	keys  []account.Key

	mu      sync.Mutex // guards the rest
	version map[account.Key]account.Version
	took    []time.Duration
	failed  []string
	more    chan struct{} // closed when took is as long as await wants
	want    int
}

// run asks at a steady rate until ctx ends: requests that wait hold up no others.
func (l *rolling) run(ctx context.Context, rate int) {
	const step = 10 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	var all sync.WaitGroup
	defer all.Wait()
	began, n := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for due := int(time.Since(began).Seconds() * float64(rate)); n < due; n++ {
			conn, key := l.conns[n%len(l.conns)], l.keys[n%len(l.keys)]
			all.Go(func() { l.ask(conn, key) })
		}
	}
}

func (l *rolling) ask(conn *nats.Conn, key account.Key) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	start := time.Now()
	m, err := conn.RequestWithContext(ctx, events.DefaultPrefix+".v1.request."+key.String(), nil)
	var reply events.TokenReply
	if err == nil {
		reply, err = events.DecodeTokenReply(key, m.Data)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed = append(l.failed, fmt.Sprintf("%s after %s: %v", key, time.Since(start).Round(time.Millisecond), err))
		return
	}
	l.took = append(l.took, time.Since(start))
	l.version[key] = max(l.version[key], reply.Version)
	if l.more != nil && len(l.took) >= l.want {
		close(l.more)
		l.more = nil
	}
}

// await waits for n more answers.
func (l *rolling) await(t testing.TB, n int) {
	t.Helper()
	l.mu.Lock()
	more := make(chan struct{})
	l.more, l.want = more, len(l.took)+n
	l.mu.Unlock()
	select {
	case <-more:
	case <-time.After(patience):
		t.Fatalf("%d more requests are not answered; failed: %q", n, l.failed)
	}
}

func (l *rolling) report(t testing.TB, rate int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.took)
	versions := account.Version(0)
	for _, v := range l.version {
		versions += v
	}
	t.Logf("rolling: rate=%d lookups=%d failed=%d versions=%d p50=%s p99=%s max=%s", rate, len(l.took), len(l.failed), versions,
		l.took[len(l.took)/2], l.took[len(l.took)*99/100], l.took[len(l.took)-1])
	for i, text := range l.failed {
		if i < 10 {
			t.Error(text)
		}
	}
}
