package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/memory"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/rotation"
	"github.com/tokenbus/tokenbus/seal"
)

// core is the real core behind the real bus, with stores in memory: what the
// client's own fleet for tests imitates.
type core struct {
	server   *bus.Server
	endpoint *oauthtest.Server
	workers  []*provider.Provider
	stop     []func()
}

func startCore(t *testing.T, workers int, change ...func(*bus.ServerConfig)) *core {
	t.Helper()
	c := &core{server: startServer(t, change...)}
	var err error
	c.endpoint, err = oauthtest.New(oauthtest.Config{})
	check(t, err)
	web := httptest.NewServer(c.endpoint)
	t.Cleanup(web.Close)
	sealer, err := seal.New()
	check(t, err)
	definition := oauth.Definition{
		TokenURL: web.URL + "/token", ClientID: "test", Auth: oauth.AuthNone, Encoding: oauth.EncodingForm, Timeout: 5 * time.Second,
		DeadGrantErrors: []string{"invalid_grant"}, MaxConcurrent: 32, ServeWhileRefreshing: true,
	}
	tokens, err := oauth.New(oauth.Config{Definitions: oauth.Definitions{"openai": definition}})
	check(t, err)
	timing := rotation.DefaultTiming()
	timing.LeaseTTL = 5 * time.Second
	shared := provider.Config{
		Store: &memory.Store{}, Cache: &memory.Cache{}, Locker: &memory.Locker{}, Journal: &memory.Journal{}, Endpoint: tokens, Sealer: sealer,
		Host: "host", Timing: timing,
	}
	for i := range workers {
		c.startWorker(t, shared, fmt.Sprintf("w%d", i))
	}
	return c
}

func (c *core) startWorker(t *testing.T, cfg provider.Config, id string) {
	t.Helper()
	nc, err := bus.Connect(bus.Config{Server: c.server, Name: id})
	check(t, err)
	js, err := jetstream.New(nc)
	check(t, err)
	check(t, bus.EnsureStreams(t.Context(), js, bus.StreamsConfig{Subjects: subjects}))
	publisher, err := bus.NewPublisher(bus.PublisherConfig{Conn: nc, Subjects: subjects, Source: id})
	check(t, err)
	cfg.Publisher, cfg.Spool, cfg.WorkerID = publisher, &memory.Journal{}, id
	p, err := provider.New(cfg)
	check(t, err)
	w, err := bus.StartWorker(t.Context(), bus.WorkerConfig{Conn: nc, Subjects: subjects, Tokens: p, Accounts: p, Observer: p, ID: id})
	check(t, err)
	c.workers = append(c.workers, p)
	stop := sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = w.Drain(ctx)
		_ = p.Close(ctx)
		w.Close()
		nc.Close()
	})
	c.stop = append(c.stop, stop)
	t.Cleanup(stop)
}

func (c *core) login(t *testing.T, key account.Key) {
	t.Helper()
	access, refresh := c.endpoint.NewGrant(key.ID())
	credentials, err := json.Marshal(map[string]any{"access_token": access, "refresh_token": refresh, "expires_at": time.Now().Add(time.Hour)})
	check(t, err)
	_, err = c.workers[0].Put(t.Context(), events.PutRequest{Platform: key.Platform(), ID: key.ID(), Type: "oauth", Credentials: credentials})
	check(t, err)
}

func (c *core) refresh(t *testing.T, key account.Key) {
	t.Helper()
	_, err := c.workers[0].Refresh(t.Context(), events.KeyRequest{Platform: key.Platform(), ID: key.ID()})
	check(t, err)
}

// becomes waits until the client hands out this version.
func becomes(t *testing.T, c *client.Client, key account.Key, v account.Version) client.Token {
	t.Helper()
	var token client.Token
	eventually(t, fmt.Sprintf("version %d", v), func() bool {
		var err error
		token, err = c.Token(t.Context(), key)
		return err == nil && token.Version == v
	})
	return token
}

func TestWithRealWorkers(t *testing.T) {
	fleet := startCore(t, 2)
	fleet.login(t, alice)
	c := newClient(t, fleet.server)
	first := becomes(t, c, alice, 1)
	if !fleet.endpoint.Valid(first.AccessToken()) {
		t.Error("the endpoint refuses the token")
	}
	asked := func() int64 { return c.Stats().Asked }
	for range 100 {
		becomes(t, c, alice, 1)
	}
	if n := asked(); n > 2 {
		t.Errorf("the workers were asked %d times", n)
	}
	fleet.refresh(t, alice) // heard long before max age
	second := becomes(t, c, alice, 2)
	if !fleet.endpoint.Valid(second.AccessToken()) {
		t.Error("the endpoint refuses the token")
	}
	if _, err := c.Token(t.Context(), alice, client.WithRejectedVersion(2)); !errors.Is(err, client.ErrCoolingDown) {
		t.Errorf("a version of a moment ago is rejected: %v", err)
	}
	_, err := fleet.workers[1].Disable(t.Context(), events.KeyRequest{Platform: "openai", ID: "alice"})
	check(t, err)
	eventually(t, "disabled", func() bool { _, err := c.Token(t.Context(), alice); return errors.Is(err, client.ErrDisabled) })
	_, err = fleet.workers[0].Enable(t.Context(), events.KeyRequest{Platform: "openai", ID: "alice"})
	check(t, err)
	becomes(t, c, alice, 2)
	_, err = fleet.workers[0].Delete(t.Context(), events.KeyRequest{Platform: "openai", ID: "alice"})
	check(t, err)
	eventually(t, "deleted", func() bool { _, err := c.Token(t.Context(), alice); return errors.Is(err, client.ErrNotFound) })
	if _, err := c.Token(t.Context(), bob); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("an account that never was: %v", err)
	}
}

// One worker after the other goes, then both: what is held is served.
func TestP7RealWorkersGo(t *testing.T) {
	fleet := startCore(t, 2)
	fleet.login(t, alice)
	c := newClient(t, fleet.server)
	becomes(t, c, alice, 1)
	fleet.stop[0]()
	_, err := c.Token(t.Context(), alice, client.WithMinTTL(time.Minute))
	check(t, err)
	fleet.stop[1]()
	becomes(t, c, alice, 1)
	if _, err := c.Token(t.Context(), bob); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// Many look while versions come and connections go: none falls, and at the end
// all see the last.
func TestP3P4RealWorkersUnderLoad(t *testing.T) {
	fleet := startCore(t, 2)
	keys := []account.Key{alice, bob, must(account.ParseKey("openai.carol"))}
	for _, key := range keys {
		fleet.login(t, key)
	}
	nc := connectAs(t, fleet.server, bus.RoleClient)
	c, err := client.New(client.Config{Conn: nc})
	check(t, err)
	defer c.Close()
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var looked atomic.Int64
	for i := range 8 {
		all.Go(func() {
			var last [3]account.Version
			for n := i; ctx.Err() == nil; n++ {
				key := keys[n%len(keys)]
				token, err := c.Token(t.Context(), key)
				if err != nil {
					t.Errorf("%s: %v", key, err)
					return
				}
				if token.Version < last[n%len(keys)] {
					t.Errorf("%s fell from version %d to %d", key, last[n%len(keys)], token.Version)
				}
				last[n%len(keys)] = token.Version
				looked.Add(1)
			}
		})
	}
	const rounds = 8
	for round := range rounds {
		for _, key := range keys {
			fleet.refresh(t, key)
		}
		if round%3 == 0 {
			check(t, nc.ForceReconnect())
		}
		eventually(t, "looked up meanwhile", func() bool { return looked.Load() > int64(200*(round+1)) })
	}
	for _, key := range keys {
		becomes(t, c, key, 1+rounds)
	}
	stop()
	all.Wait()
	if s := fleet.endpoint.Stats(); s.Reused != 0 {
		t.Errorf("the endpoint saw %+v", s)
	}
}
