package provider_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/memory"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/rotation"
	"github.com/tokenbus/tokenbus/seal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fleet is everything that workers share, and an endpoint that rotates.
type fleet struct {
	t        testing.TB
	store    *memory.Store
	cache    *memory.Cache
	locker   *memory.Locker
	journal  *memory.Journal
	bus      *memory.Bus
	sealer   *seal.Sealer
	endpoint *oauthtest.Server
	url      string
	def      oauth.Definition
	timing   rotation.Timing
	clock    *clock
	names    atomic.Int64
}

// clock is the system's, plus an offset that a test turns.
type clock struct {
	offset atomic.Int64
	frozen atomic.Pointer[time.Time] // where the wall clock stands still
}

func (c *clock) Now() time.Time {
	if at := c.frozen.Load(); at != nil {
		return *at
	}
	return time.Now().Add(time.Duration(c.offset.Load()))
}

// freeze makes the wall clock stand still.
func (c *clock) freeze()                                { c.frozen.Store(new(c.Now())) }
func (c *clock) Elapsed() time.Duration                 { return time.Since(birth) + time.Duration(c.offset.Load()) }
func (c *clock) After(d time.Duration) <-chan time.Time { return time.After(d) }
func (c *clock) advance(d time.Duration)                { c.offset.Add(int64(d)) }

var birth = time.Now()

func newFleet(t testing.TB, cfg oauthtest.Config) *fleet {
	t.Helper()
	f := &fleet{
		t: t, store: &memory.Store{}, cache: &memory.Cache{}, locker: &memory.Locker{}, journal: &memory.Journal{}, bus: &memory.Bus{},
		timing: rotation.DefaultTiming(), clock: &clock{},
	}
	f.timing.LeaseTTL = 5 * time.Second
	cfg.Now = f.clock.Now
	var err error
	if f.sealer, err = seal.New(); err != nil {
		t.Fatal(err)
	}
	if f.endpoint, err = oauthtest.New(cfg); err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(f.endpoint)
	t.Cleanup(web.Close)
	f.url = web.URL + "/token"
	f.def = oauth.Definition{
		TokenURL: f.url, ClientID: "test", Auth: oauth.AuthNone, Encoding: oauth.EncodingForm, Timeout: 5 * time.Second,
		DeadGrantErrors: []string{"invalid_grant"}, MaxConcurrent: 32, ServeWhileRefreshing: true, ExtraFields: []string{"project_id"},
	}
	return f
}

// worker starts one more worker, with a spool of its own.
func (f *fleet) worker(change ...func(*provider.Config)) *provider.Provider {
	f.t.Helper()
	client, err := oauth.New(oauth.Config{Definitions: oauth.Definitions{"demo": f.def}, Now: f.clock.Now})
	if err != nil {
		f.t.Fatal(err)
	}
	cfg := provider.Config{
		Store: f.store, Cache: f.cache, Locker: f.locker, Journal: f.journal, Spool: &memory.Journal{}, Endpoint: client,
		Publisher: f.bus, Sealer: f.sealer, WorkerID: "w" + string(rune('0'+f.names.Add(1))), Host: "host", Timing: f.timing, Clock: f.clock,
		Backoff: backoff.Policy{Base: time.Minute, Cap: time.Minute, Floor: time.Minute},
	}
	for _, c := range change {
		c(&cfg)
	}
	p, err := provider.New(cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	f.bus.Join(p)
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = p.Close(ctx)
	})
	return p
}

func key(id string) account.Key {
	k, err := account.NewKey("demo", id)
	if err != nil {
		panic(err)
	}
	return k
}

// login puts a new grant of the endpoint into the fleet; its access token lives
// for ttl more, as far as the fleet is told.
func (f *fleet) login(p *provider.Provider, id string, ttl time.Duration) (access, refresh string) {
	f.t.Helper()
	access, refresh = f.endpoint.NewGrant(id)
	f.put(p, id, map[string]any{"access_token": access, "refresh_token": refresh, "expires_at": f.clock.Now().Add(ttl).Format(time.RFC3339Nano), "project_id": "p1", "internal": "x"})
	return access, refresh
}

func (f *fleet) put(p *provider.Provider, id string, credentials map[string]any) events.Account {
	f.t.Helper()
	raw, err := json.Marshal(credentials)
	if err != nil {
		f.t.Fatal(err)
	}
	doc, err := p.Put(f.t.Context(), putRequest(id, raw))
	if err != nil {
		f.t.Fatal(err)
	}
	return doc
}

func putRequest(id string, credentials []byte) events.PutRequest {
	var r events.PutRequest
	body, _ := json.Marshal(map[string]any{"platform": "demo", "id": id, "type": "oauth", "credentials": json.RawMessage(credentials)})
	r, err := events.DecodeRequest[events.PutRequest](body)
	if err != nil {
		panic(err)
	}
	return r
}

func (f *fleet) doc(id string) account.Account {
	f.t.Helper()
	a, err := f.store.Get(context.WithoutCancel(f.t.Context()), key(id))
	if err != nil {
		f.t.Fatal(err)
	}
	return a
}

// token asks and fails the test on an error.
func (f *fleet) token(p *provider.Provider, id string, req events.TokenRequest) events.TokenReply {
	f.t.Helper()
	reply, err := p.Token(f.t.Context(), key(id), req)
	if err != nil {
		f.t.Fatalf("token of %s: %v", id, err)
	}
	return reply
}

// refused asks and fails the test unless the answer is the error code.
func (f *fleet) refused(p *provider.Provider, id string, req events.TokenRequest, code events.Code) *events.Error {
	f.t.Helper()
	reply, err := p.Token(f.t.Context(), key(id), req)
	e, ok := err.(*events.Error)
	if !ok || e.Code != code {
		f.t.Fatalf("token of %s: got version %d and error %v, want %s", id, reply.Version, err, code)
	}
	return e
}

// eventually waits until the condition holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(15 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("it never came about that %s", what)
		}
	}
}

func (f *fleet) hasStatus(id, code string) bool {
	for _, e := range f.bus.Statuses(key(id)) {
		if e.Code == code {
			return true
		}
	}
	return false
}

type jsonRaw = json.RawMessage
