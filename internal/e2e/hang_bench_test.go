package e2e_test

import (
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/seal"
)

// BenchmarkLivingTokens asks two workers for living tokens of 200 accounts at
// 1,000 requests a second while one thing that they depend on hangs: it takes
// connections and requests and answers nothing. Where that is the token endpoint, twenty of the accounts are
// due for a refresh. The rival is the quiet run before it.
func BenchmarkLivingTokens(b *testing.B) {
	h := newHanging(b)
	for _, c := range []struct {
		name       string
		hang, heal func()
	}{
		{"quiet", func() {}, func() {}},
		{"store_hangs", h.mongo.Freeze, h.mongo.Restore},
		{"quiet", func() {}, func() {}},
		{"cache_hangs", h.redis.Freeze, h.redis.Restore},
		{"quiet", func() {}, func() {}},
		{"endpoint_hangs", h.endpoint.Freeze, h.endpoint.Restore},
	} {
		b.Run(c.name, func(b *testing.B) {
			l := h.load(b)
			defer c.heal()
			c.hang()
			if c.name == "endpoint_hangs" {
				h.importLogins(b, 0, 20, 2*time.Minute) // within the refresh skew
			}
			ctx, stop := context.WithCancel(b.Context())
			loaded := make(chan struct{})
			b.ResetTimer()
			go func() { defer close(loaded); l.run(ctx, 1000) }()
			l.await(b, b.N)
			stop()
			<-loaded
			b.StopTimer()
			slices.Sort(l.took)
			b.ReportMetric(float64(l.took[len(l.took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(l.took[len(l.took)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(l.took[len(l.took)-1].Milliseconds()), "max-ms")
			b.ReportMetric(float64(len(l.failed)), "failed")
			if len(l.failed) > 0 {
				b.Log(l.failed[0])
			}
		})
	}
}

// hanging is a fleet whose dependencies can be made to hang.
type hanging struct {
	fleet
	server                 *oauthtest.Server
	mongo, redis, endpoint *rig.Proxy
	keys                   []account.Key
	rounds                 int
}

func newHanging(b *testing.B) *hanging {
	b.Helper()
	h := &hanging{}
	var err error
	if h.server, err = oauthtest.New(oauthtest.Config{}); err != nil {
		b.Fatal(err)
	}
	web := httptest.NewServer(h.server)
	b.Cleanup(web.Close)
	through := func(raw string) (*rig.Proxy, string) {
		u, err := url.Parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		p := rig.NewProxy(b, net.JoinHostPort(u.Hostname(), u.Port()))
		u.Host = p.Addr()
		return p, u.String()
	}
	var mongo, redis, endpoint string
	h.mongo, mongo = through(rig.Mongo(b))
	h.redis, redis = through(rig.Redis(b))
	h.endpoint, endpoint = through(web.URL)
	dir := b.TempDir()
	subjects, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		b.Fatal(err)
	}
	server, err := bus.StartServer(bus.ServerConfig{Listen: "127.0.0.1:0", DataDir: dir, Subjects: subjects, SyncInterval: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(server.Shutdown)
	h.fleet = fleet{server.URL(), filepath.Join(dir, "nats")}
	keyset := filepath.Join(dir, "keyset.json")
	if _, err := seal.Create(keyset); err != nil {
		b.Fatal(err)
	}
	providers := write(b, dir, "providers.yaml", fmt.Sprintf("providers:\n  demo:\n    token_url: %s/token\n    client_id: c\n", endpoint))
	for i := range 2 {
		startWorker(b, b.TempDir(), "--nats-url", h.url, "--nats-nkey", h.key("worker"), "--keyset", keyset, "--providers", providers, "--http-addr", "none",
			"--store-url", mongo, "--cache-url", redis, "--l1-max-age", "6s", "--worker-id", fmt.Sprint("w", i)).logs(b, "worker answers requests")
	}
	h.importLogins(b, 0, 200, time.Hour)
	return h
}

// importLogins puts new logins of accounts whose tokens have so much left.
func (h *hanging) importLogins(b *testing.B, from, to int, left time.Duration) {
	b.Helper()
	folder := b.TempDir()
	for i := from; i < to; i++ {
		key := newKey(b, "demo", fmt.Sprint("a", i))
		access, refresh := h.server.NewGrant(key.ID())
		write(b, folder, key.ID()+".json", fmt.Sprintf("{\"platform\":%q,\"id\":%q,\"type\":\"oauth\",\"credentials\":{\"access_token\":%q,\"refresh_token\":%q,\"expires_at\":%d}}\n",
			key.Platform(), key.ID(), access, refresh, time.Now().Add(left).Unix()))
		if h.rounds == 0 {
			h.keys = append(h.keys, key)
		}
	}
	h.rounds++
	h.must(b, "accounts", "import", folder)
}

// load returns the gateways, each account asked once.
func (h *hanging) load(b *testing.B) *rolling {
	b.Helper()
	l := &rolling{keys: h.keys, version: map[account.Key]account.Version{}}
	for range 4 {
		conn, err := bus.Connect(bus.Config{URLs: []string{h.url}, NKey: h.key("client"), InboxPrefix: bus.InboxPrefix(bus.RoleClient), Name: b.Name()})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(conn.Close)
		l.conns = append(l.conns, conn)
	}
	for range 4 { // at both workers
		for _, key := range h.keys {
			l.ask(l.conns[0], key)
		}
	}
	l.took, l.failed = nil, nil
	return l
}
