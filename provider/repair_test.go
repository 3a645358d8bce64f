package provider_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/spool"
)

type lateEndpoint struct {
	refresh.Endpoint
	answered func(ctx context.Context)
}

func (e lateEndpoint) Send(ctx context.Context, r refresh.SendRequest) (refresh.RawAnswer, error) {
	raw, err := e.Endpoint.Send(ctx, r)
	if err == nil {
		e.answered(ctx)
	}
	return raw, err
}

// Close's context ends as the answer comes.
func TestP2AbortedStopKeepsTheAnswer(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	sp, err := spool.Open(spool.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var p *provider.Provider
	closed := make(chan error, 1)
	p = f.worker(func(c *provider.Config) {
		c.Spool = sp
		c.Endpoint = lateEndpoint{c.Endpoint, func(ctx context.Context) {
			now, cancel := context.WithCancel(context.Background())
			cancel()
			go func() { closed <- p.Close(now) }()
			<-ctx.Done()
		}}
	})
	_, refresh := f.login(p, "x", -time.Second)
	_, _ = p.Token(t.Context(), key("x"), events.TokenRequest{Timeout: time.Second})
	err = <-closed
	recs, _ := sp.Records(context.Background(), key("x"))
	shared, _ := f.journal.Records(context.Background(), key("x"))
	t.Logf("Close: %v; doc v%d; spool %d, journal %d; endpoint spent it: %d", err, f.doc("x").Version, len(recs), len(shared), f.endpoint.Sent(refresh))
	if len(recs)+len(shared) == 0 && f.doc("x").Version == 1 {
		t.Error("the answer is nowhere")
	}
}

// An answer waits in the journal, the store comes back from a backup.
func TestP2RestoredBackupDropsNoAnswer(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", -time.Second)
	eventually(t, "announced", func() bool { return !f.doc("x").AnnouncePending })
	backup := f.store.Snapshot()
	f.token(p, "x", events.TokenRequest{}) // v2
	eventually(t, "announced", func() bool { return f.doc("x").Version == 2 && !f.doc("x").AnnouncePending })
	f.clock.advance(2 * time.Hour)
	f.store.Fault.Set(failing("Update", 1, 1<<40, false))
	_, _ = p.Token(t.Context(), key("x"), events.TokenRequest{Timeout: 300 * time.Millisecond})
	now, cancel := context.WithCancel(t.Context())
	cancel()
	_ = p.Close(now)
	recs, _ := f.journal.Records(t.Context(), key("x"))
	if len(recs) != 1 {
		t.Fatalf("%d records", len(recs))
	}
	f.store.Restore(backup)
	f.store.Fault.Set(nil)
	next := f.worker()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- next.Run(ctx) }()
	_, current := f.endpoint.Current("x")
	eventually(t, "the living refresh token is in the store", func() bool {
		return f.doc("x").Fingerprints.Refresh == f.sealer.Fingerprint(account.NewSecret(current))
	})
	stop()
	<-done
}

type slowStore struct {
	ledger.Store
	mu   sync.Mutex
	gate map[int]chan struct{} // nth Get, after it was read
	n    int
	at   chan int
}

func (s *slowStore) Get(ctx context.Context, k account.Key) (account.Account, error) {
	a, err := s.Store.Get(ctx, k)
	s.mu.Lock()
	s.n++
	g, n := s.gate[s.n], s.n
	s.mu.Unlock()
	if g != nil {
		s.at <- n
		<-g
	}
	return a, err
}

// A request after the bump joins a read from before it.
func TestP4RequestAfterABumpJoinsNoOlderRead(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	a := f.worker()
	gate := make(chan struct{})
	st := &slowStore{Store: f.store, gate: map[int]chan struct{}{1: gate}, at: make(chan int, 10)}
	b := f.worker(func(c *provider.Config) { c.Store = st })
	f.login(a, "x", time.Hour)
	eventually(t, "announced", func() bool { return !f.doc("x").AnnouncePending })
	f.cache.Fault.Set(down)
	go func() { _, _ = b.Token(context.Background(), key("x"), events.TokenRequest{}) }()
	<-st.at
	heard := b.Stats().Bumps
	if _, err := a.Patch(t.Context(), events.PatchRequest{Platform: "demo", ID: "x", Extra: map[string]json.RawMessage{"project_id": json.RawMessage(`"p2"`)}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "bump", func() bool { e, err := f.bus.LastBump(t.Context(), key("x")); return err == nil && e.Version == 2 })
	eventually(t, "b has heard it", func() bool { return b.Stats().Bumps > heard })
	type res struct {
		r   events.TokenReply
		err error
	}
	plain, withMin := make(chan res, 1), make(chan res, 1)
	go func() { r, err := b.Token(context.Background(), key("x"), events.TokenRequest{}); plain <- res{r, err} }()
	go func() {
		r, err := b.Token(context.Background(), key("x"), events.TokenRequest{MinVersion: 2})
		withMin <- res{r, err}
	}()
	r1, r2 := <-plain, <-withMin // while the old read still hangs
	close(gate)
	t.Logf("store has v%d; after the bump: plain got v%d %v; min_version 2 got v%d %v", f.doc("x").Version, r1.r.Version, r1.err, r2.r.Version, r2.err)
	if r1.r.Version < 2 || r2.err != nil {
		t.Error("an answer from before the bump")
	}
}

// The store is a black hole.
func TestP6HangingStoreKeepsNobodyWaiting(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", 4*time.Minute+30*time.Second) // living, out of the refresh skew, past the cache's end
	f.token(p, "x", events.TokenRequest{})
	f.clock.advance(31 * time.Second)
	f.store.Fault.Set(func(ctx context.Context, op string, k account.Key) (bool, error) {
		<-ctx.Done()
		return false, ctx.Err()
	})
	for _, timeout := range []time.Duration{2 * time.Second, 0} {
		began := time.Now()
		r, err := p.Token(t.Context(), key("x"), events.TokenRequest{Timeout: timeout})
		t.Logf("timeout %s: after %s version %d, %v", timeout, time.Since(began).Round(time.Millisecond), r.Version, err)
		if err != nil || time.Since(began) > time.Second {
			t.Error("a request waits although a living token is in hand")
		}
	}
	f.store.Fault.Set(nil)
}

// A failed exchange leaves the peers busy.
func TestFailedRefreshFreesThePeers(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	f.def.ServeWhileRefreshing = false
	a, b := f.worker(), f.worker()
	f.login(a, "x", 170*time.Second)
	eventually(t, "announced", func() bool { return !f.doc("x").AnnouncePending })
	f.token(b, "x", events.TokenRequest{})
	eventually(t, "quiet", func() bool { return b.Stats().Flights == 0 })
	f2 := f.endpoint
	_ = f2
	// a fresh account, so that b has it in L1 and does not refresh it itself
	f.login(a, "y", 4*time.Minute)
	eventually(t, "announced", func() bool { return !f.doc("y").AnnouncePending })
	f.token(b, "y", events.TokenRequest{})
	f.endpoint.Inject(oauthtest.Refuse(503, ""))
	_, err := a.Refresh(t.Context(), ref("y"))
	t.Logf("refresh at a: %v", err)
	ra, erra := a.Token(t.Context(), key("y"), events.TokenRequest{})
	rb, errb := b.Token(t.Context(), key("y"), events.TokenRequest{})
	t.Logf("a: v%d %v; b: v%d %v", ra.Version, erra, rb.Version, errb)
	if errb != nil {
		t.Error("b denies a token that lives for 4 minutes")
	}
}

// A late "refreshing" spends a fresh token.
func TestLateRefreshingStatusStartsNothing(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	f.def.ServeWhileRefreshing = false
	p := f.worker()
	f.login(p, "x", time.Hour)
	f.token(p, "x", events.TokenRequest{})
	p.ObserveStatus(events.Status{Key: key("x"), Status: account.Active, Code: events.StatusRefreshing, Until: f.clock.Now().Add(time.Minute), At: f.clock.Now()})
	r := f.token(p, "x", events.TokenRequest{})
	t.Logf("v%d, exchanges %d", r.Version, f.endpoint.Exchanges())
	if f.endpoint.Exchanges() != 0 {
		t.Error("it spent a refresh token of an account with an hour to live")
	}
}

// A login can't repair an account whose credentials can't be opened.
func TestUnreadableAccountCanBeRepaired(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Hour)
	a := f.doc("x")
	_, err := f.store.Update(t.Context(), key("x"), account.Guard{}, account.Change{Fields: account.FieldCredentials, To: account.Account{Type: "oauth", Credentials: []byte("sealed with a lost key"), ExpiresAt: a.ExpiresAt}, At: f.clock.Now()})
	if err != nil {
		t.Fatal(err)
	}
	access, refresh := f.endpoint.NewGrant("x")
	raw, _ := json.Marshal(map[string]any{"access_token": access, "refresh_token": refresh, "expires_at": f.clock.Now().Add(time.Hour).Format(time.RFC3339)})
	_, e1 := p.Put(t.Context(), putRequest("x", raw))
	_, e2 := p.Disable(t.Context(), ref("x"))
	_, e3 := p.Delete(t.Context(), ref("x"))
	_, e4 := p.Get(t.Context(), ref("x"))
	t.Logf("put: %v\ndisable: %v\ndelete: %v\nget: %v", e1, e2, e3, e4)
	if e1 != nil {
		t.Error("a new login is refused")
	}
}

// Tokens that seem to have ended when they come.
func TestTokensDeadOnArrivalMakeNoLoop(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", -time.Second)
	var n atomic.Int64
	f.endpoint.InjectFunc(func(*http.Request) oauthtest.Fault {
		i := n.Add(1)
		claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d,"n":%d}`, f.clock.Now().Add(-time.Minute).Unix(), i))
		return oauthtest.Refuse(200, fmt.Sprintf(`{"access_token":"e30.%s.s","refresh_token":"r%d"}`, claims, i), "Content-Type", "application/json")
	})
	began := time.Now()
	for range 25 {
		_, _ = p.Token(t.Context(), key("x"), events.TokenRequest{})
	}
	t.Logf("25 requests: %d exchanges in %s, version %d", n.Load(), time.Since(began).Round(time.Millisecond), f.doc("x").Version)
	if n.Load() > 25 {
		t.Error("the grant is rotated without any pause")
	}
}

// An endpoint that gives no answers puts everybody in doubt.
func TestP9EndpointWithoutAnswersOpensTheCircuit(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	var log bytes.Buffer
	p := f.worker(func(c *provider.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	})
	f.endpoint.InjectFunc(func(r *http.Request) oauthtest.Fault { return oauthtest.LoseWith(504, "") })
	for i := range 40 {
		id := fmt.Sprint("x", i)
		f.login(p, id, -time.Second)
		_, _ = p.Token(t.Context(), key(id), events.TokenRequest{})
	}
	doubt := 0
	for i := range 40 {
		if r := f.doc(fmt.Sprint("x", i)).Rotation; r != nil {
			doubt++
		}
	}
	t.Logf("%d of 40 accounts in doubt, %d refresh tokens spent", doubt, f.endpoint.Exchanges())
	if doubt > 10 {
		t.Error("the circuit never opens")
	}
	if !p.Stats().Circuits["demo"] {
		t.Errorf("the circuits are %v", p.Stats().Circuits)
	}
	_, err := p.Token(t.Context(), key("x39"), events.TokenRequest{})
	if err == nil || !strings.Contains(err.Error(), "HTTP 504") {
		t.Errorf("who is kept off gets %v, want what the endpoint said last", err)
	}
	f.clock.advance(time.Hour)
	if p.Stats().Circuits["demo"] {
		t.Error("the circuit is open after an hour")
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "its circuit is open"); n != 1 {
		t.Errorf("the log says %d times that the circuit is open: %s", n, log.String())
	}
}

// The shared journal is tried once.
func TestP2SharedJournalIsTriedAgain(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	a, b := f.worker(), f.worker()
	_, refresh := f.login(a, "x", -time.Second)
	eventually(t, "announced", func() bool { return !f.doc("x").AnnouncePending })
	f.journal.Fault.Set(failing("Put", 0, 1, false)) // NATS elects a leader for a moment
	f.store.Fault.Set(failing("Update", 1, 1<<40, false))
	_, _ = a.Token(t.Context(), key("x"), events.TokenRequest{Timeout: 300 * time.Millisecond})
	_, _ = b.Token(t.Context(), key("x"), events.TokenRequest{Timeout: 300 * time.Millisecond}) // sees the rotation
	eventually(t, "the answer is in the shared journal", func() bool {
		recs, err := f.journal.Records(t.Context(), key("x"))
		return err == nil && len(recs) == 1
	})
	f.clock.advance(time.Minute)
	f.locker.Expire(key("x"))
	f.store.Fault.Set(nil) // the store is back
	r, err := b.Token(t.Context(), key("x"), events.TokenRequest{Timeout: 3 * time.Second})
	t.Logf("b: v%d %v; sent %d times, revoked %v", r.Version, err, f.endpoint.Sent(refresh), f.endpoint.Revoked("x"))
	if f.endpoint.Sent(refresh) > 1 {
		t.Error("sent twice although the answer waits in the journal")
	}
}

// A hold of the old login falls on the new one.
func TestNewLoginStartsWithoutTheOldHold(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	a := f.worker()
	_, _ = f.login(a, "x", -time.Second)
	f.endpoint.Inject(oauthtest.Refuse(429, "", "Retry-After", "3600"))
	f.refused(a, "x", events.TokenRequest{}, events.CodeCoolingDown)
	eventually(t, "announced", func() bool { return !f.doc("x").AnnouncePending })
	gate := make(chan struct{})
	st := &slowStore{Store: f.store, gate: map[int]chan struct{}{2: gate}, at: make(chan int, 10)}
	f.cache.Fault.Set(down)
	b := f.worker(func(c *provider.Config) { c.Store = st })
	go func() { _, _ = b.Token(context.Background(), key("x"), events.TokenRequest{}) }()
	<-st.at // the flight has read the old document
	_, refresh := f.endpoint.NewGrant("x")
	f.put(a, "x", map[string]any{"refresh_token": refresh})
	eventually(t, "bump", func() bool { e, err := f.bus.LastBump(t.Context(), key("x")); return err == nil && e.Version == 2 })
	_, _ = b.Token(t.Context(), key("x"), events.TokenRequest{Timeout: 100 * time.Millisecond}) // loads version 2
	close(gate)
	eventually(t, "the old flight has ended", func() bool { return b.Stats().Flights == 0 })
	r, err := b.Token(t.Context(), key("x"), events.TokenRequest{})
	t.Logf("b after the new login: v%d %v", r.Version, err)
	if err != nil {
		t.Error("held by the old login's back-off")
	}
}

// rejected_version of a token that has ended anyway.
func TestRejectedVersionThatHasEnded(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", -time.Second)
	a := f.doc("x")
	a.IssuedAt, a.Lifetime, a.ForcedStreak = f.clock.Now().Add(-5*time.Minute).UTC().Truncate(time.Millisecond), 4*time.Minute, 6
	f.store.Restore(map[account.Key]account.Account{key("x"): a})
	q := f.worker()
	f.cache.Fault.Set(down)
	r, err := q.Token(t.Context(), key("x"), events.TokenRequest{RejectedVersion: 1})
	t.Logf("v%d %v", r.Version, err)
	if err != nil {
		t.Error("an ended token is held back as if it were forced out")
	}
}

// A patch hides that the store is behind.
func TestP1PatchDoesNotHideThatTheStoreIsBehind(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	_, refresh := f.login(p, "x", -time.Second)
	eventually(t, "announced", func() bool { return !f.doc("x").AnnouncePending })
	backup := f.store.Snapshot()
	f.token(p, "x", events.TokenRequest{})
	eventually(t, "version 2 is announced", func() bool { return f.doc("x").Version == 2 && !f.doc("x").AnnouncePending })
	f.store.Restore(backup)
	f.cache.Fault.Set(down)
	next := f.worker()
	f.refused(next, "x", events.TokenRequest{}, events.CodeUnavailable)
	if _, err := next.Patch(t.Context(), events.PatchRequest{Platform: "demo", ID: "x", Extra: map[string]json.RawMessage{"project_id": json.RawMessage(`"p2"`)}}); !errors.Is(err, &events.Error{Code: events.CodeUnavailable}) {
		t.Errorf("patch of a restored document: %v", err)
	}
	last := f.worker()
	r, err := last.Token(t.Context(), key("x"), events.TokenRequest{})
	t.Logf("v%d %v; sent %d times, revoked %v", r.Version, err, f.endpoint.Sent(refresh), f.endpoint.Revoked("x"))
	if f.endpoint.Sent(refresh) > 1 {
		t.Error("the spent refresh token of the backup")
	}
}

// A settled record that can't be deleted blocks every takeover.
func TestRecordThatCantBeDeletedBlocksNothing(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", -time.Second)
	eventually(t, "announced", func() bool { return !f.doc("x").AnnouncePending })
	f.store.Fault.Set(failing("Update", 1, 1, false)) // so that it is journaled
	f.journal.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) {
		if op == "Delete" {
			return false, errors.New("permissions violation")
		}
		return true, nil
	})
	f.token(p, "x", events.TokenRequest{})
	f.clock.advance(2 * time.Hour)
	f.orphan("x", func(r *account.Rotation) { r.NoAnswer, r.State = true, account.RotationInDoubt })
	q := f.worker()
	r, err := q.Token(t.Context(), key("x"), events.TokenRequest{Timeout: 3 * time.Second})
	recs, _ := f.journal.Records(t.Context(), key("x"))
	t.Logf("v%d %v; %d settled records left", r.Version, err, len(recs))
	if err != nil {
		t.Error("blocked by a record that is settled")
	}
}

type countingLocker struct {
	refresh.Locker
	n    *atomic.Int64
	slow time.Duration
}

type slowLease struct {
	refresh.Lease
	d time.Duration
}

func (l slowLease) Release(ctx context.Context) { <-time.After(l.d); l.Lease.Release(ctx) }

func (l countingLocker) Acquire(ctx context.Context, k account.Key) (refresh.Lease, error) {
	l.n.Add(1)
	x, err := l.Locker.Acquire(ctx, k)
	if err == nil && l.slow > 0 {
		x = slowLease{x, l.slow}
	}
	return x, err
}

// Requests in the skew while the store refuses at once.
func TestRefusingStoreMakesNoHotLoop(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	var n atomic.Int64
	p := f.worker(func(c *provider.Config) { c.Locker = countingLocker{c.Locker, &n, 0} })
	f.login(p, "x", 2*time.Minute)
	f.token(p, "x", events.TokenRequest{MinTTL: 1})
	eventually(t, "quiet", func() bool { return p.Stats().Flights == 0 && f.doc("x").Version == 2 })
	f.clock.advance(58 * time.Minute) // in the skew of an hour's token
	f.token(p, "x", events.TokenRequest{})
	eventually(t, "quiet", func() bool { return p.Stats().Flights == 0 })
	f.login(p, "y", 100*time.Second)
	f.store.Fault.Set(down)
	n.Store(0)
	began := time.Now()
	served := 0
	for time.Since(began) < time.Second {
		if _, ok := p.Cached(key("y"), events.TokenRequest{}); ok {
			served++
		}
		runtime.Gosched()
	}
	t.Logf("%d served in 1 s, %d leases taken", served, n.Load())
	if n.Load() > 20 {
		t.Error("a hot loop on the lease backend and the store")
	}
}

// A login by another program heals nothing.
func TestExternalLoginHeals(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", -time.Second)
	f.endpoint.Inject(oauthtest.Refuse(400, `{"error":"invalid_grant"}`))
	f.refused(p, "x", events.TokenRequest{}, events.CodeReauthRequired)
	eventually(t, "announced", func() bool { return !f.doc("x").AnnouncePending })
	_, refresh := f.endpoint.NewGrant("x")
	c, _ := account.DecodeCredentials(fmt.Appendf(nil, `{"access_token":"old","refresh_token":%q,"expires_at":1}`, refresh))
	sealed, _ := f.sealer.Seal(c.Encode(), []byte("demo.x|credentials|1"))
	a := f.doc("x")
	if _, err := f.store.Update(t.Context(), key("x"), account.Guard{Version: a.Version}, account.Change{
		Fields: account.FieldVersion | account.FieldCredentials, To: account.Account{Version: a.Version + 1, Type: "oauth", Credentials: sealed, ExpiresAt: f.clock.Now().Add(-time.Hour)}, At: f.clock.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := p.ObserveRefreshed(t.Context(), events.Refreshed{Key: key("x"), Version: a.Version + 1, Reason: events.ReasonExternal, By: "login-tool", At: f.clock.Now()}); err != nil {
		t.Fatal(err)
	}
	r, err := p.Token(t.Context(), key("x"), events.TokenRequest{})
	t.Logf("v%d %v; status %s", r.Version, err, f.doc("x").Status)
	if err != nil {
		t.Error("dead although a new login is in the store and was announced")
	}
}

// The lease backend dies while an exchange runs.
func TestNobodyWaitsForTheLeasesEnd(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	var n atomic.Int64
	p := f.worker(func(c *provider.Config) { c.Locker = countingLocker{c.Locker, &n, 2 * time.Second} })
	f.login(p, "x", -time.Second)
	began := time.Now()
	f.token(p, "x", events.TokenRequest{})
	t.Logf("waited %s", time.Since(began).Round(time.Millisecond))
	if time.Since(began) > time.Second {
		t.Error("a request waits for the release of the lease")
	}
}

// The events stream is a black hole, the bumps stream is well.
func TestEventsDontKeepTheBumpBack(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.bus.Fault.Set(func(ctx context.Context, op string, k account.Key) (bool, error) {
		if op == "Refreshed" {
			<-ctx.Done()
			return false, ctx.Err()
		}
		return ctx.Err() == nil, ctx.Err()
	})
	f.login(p, "x", time.Hour)
	eventually(t, "the bump is out", func() bool {
		_, err := f.bus.LastBump(t.Context(), key("x"))
		return err == nil
	})
	f.bus.Fault.Set(nil)
}

// min_version at a worker that has just said "no such account".
func TestMinVersionIsNotHiddenByAbsence(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	a := f.worker()
	b := f.worker()
	f.refused(b, "x", events.TokenRequest{}, events.CodeNotFound)
	f.bus.Fault.Set(func(ctx context.Context, op string, k account.Key) (bool, error) { return op != "Bump", nil })
	f.login(a, "x", time.Hour)
	r, err := b.Token(t.Context(), key("x"), events.TokenRequest{MinVersion: 1})
	t.Logf("v%d %v", r.Version, err)
	f.bus.Fault.Set(nil)
	if err != nil {
		t.Error("the version is hidden")
	}
}

// Delete, or another login, forgets that the refresh token may have been sent.
func TestP1DoubtOutlivesDeleteAndLogin(t *testing.T) {
	for _, how := range []string{"delete", "another login"} {
		t.Run(how, func(t *testing.T) {
			f := newFleet(t, oauthtest.Config{})
			p := f.worker()
			access, refresh := f.login(p, "x", -time.Second)
			f.endpoint.Inject(oauthtest.Lose())
			f.refused(p, "x", events.TokenRequest{}, events.CodeCoolingDown) // sent, in doubt
			if how == "delete" {
				if _, err := p.Delete(t.Context(), ref("x")); err != nil {
					t.Fatal(err)
				}
			} else {
				f.put(p, "x", map[string]any{"access_token": "other", "refresh_token": "mistake", "expires_at": 1})
			}
			raw, _ := json.Marshal(map[string]any{"access_token": access, "refresh_token": refresh, "expires_at": 1})
			_, err := p.Put(t.Context(), putRequest("x", raw))
			_, terr := p.Token(t.Context(), key("x"), events.TokenRequest{})
			t.Logf("put: %v; token: %v; sent %d times; revoked %v", err, terr, f.endpoint.Sent(refresh), f.endpoint.Revoked("x"))
			if f.endpoint.Sent(refresh) > 1 {
				t.Error("sent twice outside the rule")
			}
		})
	}
}

// Another program replaces the login and leaves the rotation's record.
func TestExternalLoginStartsWithoutTheDoubt(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", -time.Second)
	eventually(t, "announced", func() bool { return !f.doc("x").AnnouncePending })
	f.orphan("x")
	_, refresh := f.endpoint.NewGrant("x")
	c, _ := account.DecodeCredentials(fmt.Appendf(nil, `{"access_token":"old","refresh_token":%q,"expires_at":1}`, refresh))
	sealed, _ := f.sealer.Seal(c.Encode(), []byte("demo.x|credentials|1"))
	a := f.doc("x")
	if _, err := f.store.Update(t.Context(), key("x"), account.Guard{Version: a.Version}, account.Change{
		Fields: account.FieldVersion | account.FieldCredentials, To: account.Account{Version: a.Version + 1, Type: "oauth", Credentials: sealed, ExpiresAt: f.clock.Now().Add(-time.Hour)}, At: f.clock.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := p.ObserveRefreshed(t.Context(), events.Refreshed{Key: key("x"), Version: a.Version + 1, Reason: events.ReasonExternal, By: "login-tool", At: f.clock.Now()}); err != nil {
		t.Fatal(err)
	}
	r, err := p.Token(t.Context(), key("x"), events.TokenRequest{Timeout: time.Second})
	t.Logf("v%d %v; rotation %v", r.Version, err, f.doc("x").Rotation != nil)
	if err != nil {
		t.Error("a new refresh token waits for the doubt about the old one")
	}
}

// A forged bump, or a restored backup of an endpoint that doesn't rotate: an
// operator can force the refresh, and versions go on above what was announced.
func TestForceGetsPastAStoreThatIsBehind(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Hour)
	eventually(t, "announced", func() bool { return !f.doc("x").AnnouncePending })
	if err := f.bus.Bump(t.Context(), events.Bump{Key: key("x"), Version: 50, Rev: 50}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Refresh(t.Context(), ref("x")); !errors.Is(err, &events.Error{Code: events.CodeUnavailable}) {
		t.Errorf("without force: %v", err)
	}
	doc, err := p.Refresh(t.Context(), events.KeyRequest{Platform: "demo", ID: "x", Force: true})
	if err != nil || doc.Version != 51 {
		t.Fatalf("with force: version %d, %v", doc.Version, err)
	}
	eventually(t, "it is announced", func() bool {
		b, err := f.bus.LastBump(t.Context(), key("x"))
		return err == nil && b.Version == 51 && b.Rev > 50
	})
}

// The worker's own event comes back before and after its bump: it is no news.
func TestOwnRefreshedEventIsNoExternalChange(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	a, b := f.worker(), f.worker()
	f.login(a, "x", -time.Second)
	f.token(a, "x", events.TokenRequest{})
	eventually(t, "announced", func() bool { return f.doc("x").Version == 2 && !f.doc("x").AnnouncePending })
	before := f.doc("x")
	// b has asked for the last bump before it was out, and reads the document
	// after it was announced.
	late := failing("LastBump", 0, 1, false)
	f.bus.Fault.Set(late)
	if err := b.ObserveRefreshed(t.Context(), events.Refreshed{Key: key("x"), Version: 2, By: "w1"}); err != nil {
		t.Fatal(err)
	}
	if after := f.doc("x"); after.Rev != before.Rev || after.IssuedAt != before.IssuedAt {
		t.Errorf("rev %d and issued at %s, before rev %d and %s", after.Rev, after.IssuedAt, before.Rev, before.IssuedAt)
	}
}

func TestP6AnyLifeWillDo(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	access, _ := f.login(p, "x", 20*time.Second)
	gate := make(chan struct{})
	defer close(gate)
	f.endpoint.Inject(oauthtest.Hold(gate))
	req, err := events.DecodeTokenRequest([]byte(`{"min_ttl":"0s"}`))
	if err != nil {
		t.Fatal(err)
	}
	if reply := f.token(p, "x", req); reply.AccessToken.Reveal() != access {
		t.Error("a living token is not served at once")
	}
}

// The document vanishes in mid-exchange: nothing runs for ever, and the answer
// waits.
func TestP2AnswerToAVanishedAccountWaits(t *testing.T) {
	for name, fault := range map[string]oauthtest.Fault{"granted": {}, "refused": oauthtest.Refuse(400, `{"error":"invalid_grant"}`)} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, oauthtest.Config{})
			p := f.worker()
			f.login(p, "x", 2*time.Minute)
			eventually(t, "announced", func() bool { return !f.doc("x").AnnouncePending })
			gate := make(chan struct{})
			fault.Gate = gate
			f.endpoint.Inject(fault)
			f.token(p, "x", events.TokenRequest{})
			eventually(t, "the request is there", func() bool { return f.endpoint.Stats().Requests == 1 })
			f.store.Restore(nil)
			close(gate)
			eventually(t, "the flight has ended", func() bool { return p.Stats().Flights == 0 })
			records, err := f.journal.Records(t.Context(), key("x"))
			if want := map[string]int{"granted": 1}[name]; err != nil || len(records) != want {
				t.Errorf("%d records wait, want %d (%v)", len(records), want, err)
			}
		})
	}
}

// An account that runs into the same misconfiguration again backs off by
// itself, so that it doesn't close the circuit for everybody for ever.
func TestP9TheSameMisconfigurationAgainBacksOff(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", -time.Second)
	for round := range 2 {
		f.endpoint.Inject(oauthtest.Refuse(401, `{"error":"invalid_client"}`))
		f.refused(p, "x", events.TokenRequest{}, events.CodeUnavailable)
		if a := f.doc("x"); a.CooldownUntil.IsZero() != (round == 0) || a.Status != account.Active {
			t.Errorf("round %d: cool-down until %v, status %s", round, a.CooldownUntil, a.Status)
		}
		f.clock.advance(10 * time.Minute)
	}
}

// What an operator forces doesn't count against the askers.
func TestOperatorsRefreshDoesNotCountAsForced(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Hour)
	for range 2 {
		if _, err := p.Refresh(t.Context(), ref("x")); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.doc("x").ForcedStreak; n != 0 {
		t.Errorf("a streak of %d", n)
	}
	f.token(p, "x", events.TokenRequest{})
	f.clock.advance(time.Minute)
	f.token(p, "x", events.TokenRequest{RejectedVersion: 3})
	if n := f.doc("x").ForcedStreak; n != 1 {
		t.Errorf("a streak of %d after a rejected version", n)
	}
}

// The store is a backup from before a rotation was begun, and its answer waits
// in the journal: it is settled before anything is sent, though no record says
// that there is one.
func TestP1AnAnswerWaitsAndTheRecordOfItIsGone(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Second)
	eventually(t, "the login is announced", func() bool { return !f.doc("x").AnnouncePending })
	backup := f.store.Snapshot()
	f.store.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) {
		if op == "Update" && f.endpoint.Exchanges() > 0 {
			return false, errors.New("down")
		}
		return true, nil
	})
	f.clock.advance(time.Second)
	asked, done := context.WithCancel(t.Context())
	go func() { _, _ = p.Token(asked, key("x"), events.TokenRequest{}) }()
	eventually(t, "the answer waits in the journal", func() bool {
		records, _ := f.journal.Records(t.Context(), key("x"))
		return len(records) == 1
	})
	done()
	ended, abort := context.WithCancel(t.Context())
	abort()
	_ = p.Close(ended)
	f.store.Restore(backup)
	f.store.Fault.Set(nil)

	q := f.worker()
	// It has looked into the journal and could not settle what is there.
	f.store.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) {
		return op == "Due" || op == "Pending", errors.New("down")
	})
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { defer close(ran); _ = q.Run(ctx) }()
	defer func() { stop(); <-ran }()
	eventually(t, "the worker has looked into the journal", func() bool { return q.Stats().JournalWaiting == 1 && q.Stats().Flights == 0 })
	f.store.Fault.Set(nil)
	f.clock.advance(2 * time.Second) // past the hold of the store that was down
	if reply := f.token(q, "x", events.TokenRequest{}); reply.Version != 2 || f.endpoint.Exchanges() != 1 || f.endpoint.Reused() != 0 {
		t.Errorf("version %d after %d exchanges, %d reused", reply.Version, f.endpoint.Exchanges(), f.endpoint.Reused())
	}
}
