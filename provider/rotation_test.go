package provider_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/memory"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
)

func ref(id string) events.KeyRequest { return events.KeyRequest{Platform: "demo", ID: id} }

// failing returns a fault that lets the first pass operations by, then fails
// count of them, applied or not.
func failing(op string, pass, count int64, apply bool) memory.Fault {
	var n atomic.Int64
	return func(_ context.Context, got string, _ account.Key) (bool, error) {
		if got != op {
			return true, nil
		}
		if i := n.Add(1); i > pass && i <= pass+count {
			return apply, errors.New("connection reset")
		}
		return true, nil
	}
}

func TestP2FirstWritesAfterAnExchangeFail(t *testing.T) {
	for name, apply := range map[string]bool{"not written": false, "written but reported as failed": true} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, oauthtest.Config{})
			p := f.worker()
			_, refresh := f.login(p, "x", -time.Second)
			eventually(t, "the login is announced", func() bool { return !f.doc("x").AnnouncePending })
			f.store.Fault.Set(failing("Update", 1, 3, apply)) // the first is the rotation's record
			if reply := f.token(p, "x", events.TokenRequest{}); reply.Version != 2 || !f.endpoint.Valid(reply.AccessToken.Reveal()) {
				t.Errorf("version %d", reply.Version)
			}
			if a := f.doc("x"); a.Version != 2 || a.Rotation != nil {
				t.Errorf("store has version %d, rotation %v", a.Version, a.Rotation)
			}
			if n := f.endpoint.Sent(refresh); n != 1 {
				t.Errorf("sent %d times", n)
			}
			eventually(t, "nothing waits in the journal", func() bool {
				records, err := f.journal.Records(t.Context(), account.Key{})
				return err == nil && len(records) == 0
			})
		})
	}
}

// A worker that dies with an answer in its spool, and the store down.
func TestP2AnswerSurvivesItsWorker(t *testing.T) {
	for _, tt := range []struct {
		name    string
		sameBox bool // the restarted worker has the dead one's spool
	}{{"restart replays the spool", true}, {"another worker replays the shared journal", false}} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t, oauthtest.Config{})
			spool := &memory.Journal{}
			own := func(c *provider.Config) { c.Spool = spool }
			p := f.worker(own)
			_, refresh := f.login(p, "x", -time.Second)
			eventually(t, "the login is announced", func() bool { return !f.doc("x").AnnouncePending })
			if tt.sameBox {
				f.journal.Fault.Set(down)
			}
			f.store.Fault.Set(failing("Update", 1, 1<<40, false))
			f.refused(p, "x", events.TokenRequest{Timeout: 300 * time.Millisecond}, events.CodeTimeout)
			stopped, cancel := context.WithCancel(t.Context())
			cancel()
			if err := p.Close(stopped); err == nil || !strings.Contains(err.Error(), "spool") {
				t.Errorf("Close with an unsaved answer: %v", err)
			}
			if v := f.doc("x").Version; v != 1 {
				t.Fatalf("version %d", v)
			}

			f.store.Fault.Set(nil)
			next := f.worker()
			if tt.sameBox {
				next = f.worker(own)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- next.Run(ctx) }()
			eventually(t, "the answer is saved", func() bool { return f.doc("x").Version == 2 })
			cancel()
			<-done
			if reply := f.token(next, "x", events.TokenRequest{}); !f.endpoint.Valid(reply.AccessToken.Reveal()) {
				t.Error("the saved token is not the endpoint's")
			}
			if n := f.endpoint.Sent(refresh); n != 1 {
				t.Errorf("sent %d times", n)
			}
		})
	}
}

func TestP2CloseFinishesTheRotation(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	release := f.exchanging(p, "x")
	closed := make(chan error, 1)
	go func() { closed <- p.Close(t.Context()) }()
	release()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if a := f.doc("x"); a.Version != 2 || a.AnnouncePending {
		t.Errorf("version %d, announcement pending %t", a.Version, a.AnnouncePending)
	}
}

// orphan leaves what a worker leaves that was killed in mid-exchange.
func (f *fleet) orphan(id string, mutate ...func(*account.Rotation)) {
	f.t.Helper()
	a := f.doc(id)
	r := &account.Rotation{
		ID: "orphan", Worker: "dead", Host: "lost-host", State: account.RotationSent, FromVersion: a.Version,
		StartedAt: f.clock.Now().UTC().Truncate(time.Millisecond), LeaseTTL: f.timing.LeaseTTL, Attempts: 1,
	}
	for _, m := range mutate {
		m(r)
	}
	_, err := f.store.Update(f.t.Context(), key(id), account.Guard{Version: a.Version}, account.Change{
		Fields: account.FieldRotation, To: account.Account{Rotation: r}, At: f.clock.Now()})
	if err != nil {
		f.t.Fatal(err)
	}
}

func TestP1DeadWorkersRotationIsNotSentAgainWhileATokenLives(t *testing.T) {
	f := newFleet(t, oauthtest.Config{TTL: time.Hour})
	f.def.Timeout, f.timing.LeaseTTL = time.Second, 300*time.Millisecond
	p := f.worker()
	access, refresh := f.login(p, "x", 10*time.Minute)
	f.orphan("x")
	// Someone asks for more life than is left: the others must not send.
	e := f.refused(p, "x", events.TokenRequest{MinTTL: 30 * time.Minute}, events.CodeUnavailable)
	if !strings.Contains(e.Message, "lost-host") {
		t.Errorf("message does not name the host: %s", e.Message)
	}
	if reply := f.token(p, "x", events.TokenRequest{}); reply.AccessToken.Reveal() != access {
		t.Error("the living token is not served")
	}
	eventually(t, "the doubt is told", func() bool { return f.hasStatus("x", events.StatusInDoubt) })
	if a := f.doc("x"); a.Rotation.State != account.RotationInDoubt || a.Status != account.Active || a.LastError != nil {
		t.Errorf("state %s, status %s, last error %v", a.Rotation.State, a.Status, a.LastError)
	}
	if n := f.endpoint.Sent(refresh); n != 0 {
		t.Fatalf("sent %d times", n)
	}
	// When the living token falls to its skew, availability wins.
	f.clock.advance(8 * time.Minute)
	f.token(p, "x", events.TokenRequest{})
	eventually(t, "the account is refreshed", func() bool {
		f.token(p, "x", events.TokenRequest{})
		return f.doc("x").Version == 2
	})
	if n := f.endpoint.Sent(refresh); n != 1 {
		t.Errorf("sent %d times", n)
	}
}

func TestP1WorkerThatStillBeatsIsNotTakenOver(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	f.def.Timeout, f.timing.LeaseTTL = 10*time.Second, 500*time.Millisecond
	a, b := f.worker(), f.worker()
	_, refresh := f.login(a, "x", -time.Second)
	gate := make(chan struct{})
	f.endpoint.Inject(oauthtest.Hold(gate))
	f.locker.Fault.Set(down) // no lease to keep the herd away
	f.refused(a, "x", events.TokenRequest{Timeout: 10 * time.Millisecond}, events.CodeTimeout)
	f.refused(b, "x", events.TokenRequest{Timeout: 4 * f.timing.LeaseTTL}, events.CodeTimeout)
	if h := f.doc("x").Rotation.Heartbeat; h < 2 {
		t.Errorf("heartbeat %d", h)
	}
	close(gate)
	if reply := f.token(b, "x", events.TokenRequest{}); reply.Version != 2 {
		t.Errorf("version %d", reply.Version)
	}
	if n := f.endpoint.Sent(refresh); n != 1 {
		t.Errorf("sent %d times", n)
	}
}

func TestTakeoverHealsWithinGrace(t *testing.T) {
	f := newFleet(t, oauthtest.Config{ReuseGrace: time.Minute})
	f.def.ReuseGrace = time.Minute
	p := f.worker()
	_, refresh := f.login(p, "x", 10*time.Minute)
	f.endpoint.Inject(oauthtest.Lose())
	f.refused(p, "x", events.TokenRequest{MinTTL: 20 * time.Minute}, events.CodeCoolingDown)
	if a := f.doc("x"); a.Rotation == nil || !a.Rotation.NoAnswer || a.Rotation.State != account.RotationInDoubt {
		t.Fatalf("rotation %+v", a.Rotation)
	}
	if _, err := p.Refresh(t.Context(), events.KeyRequest{Platform: "demo", ID: "x", Force: true}); err != nil {
		t.Fatal(err)
	}
	if a := f.doc("x"); a.Version != 2 || a.Rotation != nil || a.Status != account.Active {
		t.Errorf("version %d, rotation %v, status %s", a.Version, a.Rotation, a.Status)
	}
	if n := f.endpoint.Sent(refresh); n != 2 || f.endpoint.Reused() != 0 {
		t.Errorf("sent %d times, reused %d", n, f.endpoint.Reused())
	}
}

func TestP9LostAnswerEndsAsRotationLost(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", -time.Second)
	f.endpoint.Inject(oauthtest.Lose())
	f.refused(p, "x", events.TokenRequest{}, events.CodeCoolingDown)
	if a := f.doc("x"); a.Status != account.Active {
		t.Fatalf("blamed before the endpoint said anything: %s", a.Status)
	}
	f.clock.advance(2 * time.Minute) // past the back-off
	f.refused(p, "x", events.TokenRequest{}, events.CodeReauthRequired)
	a := f.doc("x")
	if a.Status != account.ReauthRequired || a.LastError.Code != events.StatusRotationLost || a.Rotation != nil {
		t.Errorf("status %s, error %+v, rotation %v", a.Status, a.LastError, a.Rotation)
	}
	eventually(t, "it is told", func() bool { return f.hasStatus("x", events.StatusRotationLost) })
}

func TestP9FailuresThatBlameNobody(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault oauthtest.Fault
		code  events.Code
		again bool // the grant lives: after the back-off it is refreshed
	}{
		{"503", oauthtest.Refuse(503, "", "Retry-After", "7"), events.CodeCoolingDown, true},
		{"500", oauthtest.Refuse(500, "oops"), events.CodeCoolingDown, true},
		{"429", oauthtest.Refuse(429, "", "Retry-After", "30"), events.CodeCoolingDown, true},
		{"invalid_client", oauthtest.Refuse(401, `{"error":"invalid_client"}`), events.CodeUnavailable, true},
		{"unauthorized_client", oauthtest.Refuse(400, `{"error":"unauthorized_client"}`), events.CodeUnavailable, true},
		{"a redirect", oauthtest.Redirect(307, "/elsewhere"), events.CodeUnavailable, true},
		{"404", oauthtest.Refuse(404, "not found"), events.CodeUnavailable, true},
		{"a web page with 403", oauthtest.WebPage(403), events.CodeUnavailable, true},
		{"a web page with 200", oauthtest.WebPage(200), events.CodeUnavailable, true},
		{"502", oauthtest.Refuse(502, ""), events.CodeCoolingDown, true},
		{"connection cut", oauthtest.HangUp(), events.CodeCoolingDown, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t, oauthtest.Config{})
			p := f.worker()
			f.login(p, "x", -time.Second)
			f.endpoint.Inject(tt.fault)
			if e := f.refused(p, "x", events.TokenRequest{}, tt.code); e.RetryAfter <= 0 {
				t.Error("no retry_after")
			}
			f.refused(p, "x", events.TokenRequest{}, tt.code) // and at once again, without asking the endpoint
			if n := f.endpoint.Stats().Requests; n != 1 {
				t.Errorf("%d requests", n)
			}
			if a := f.doc("x"); a.Status != account.Active || a.Version != 1 || a.Fingerprints.Dead != "" {
				t.Errorf("status %s, version %d, dead %q", a.Status, a.Version, a.Fingerprints.Dead)
			}
			f.clock.advance(10 * time.Minute)
			if reply := f.token(p, "x", events.TokenRequest{}); reply.Version != 2 {
				t.Errorf("version %d", reply.Version)
			}
		})
	}
}

func TestRetryAfterIsObeyedByAllWorkers(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	a, b := f.worker(), f.worker()
	f.login(a, "x", -time.Second)
	f.endpoint.Inject(oauthtest.Refuse(429, "", "Retry-After", "300"))
	f.refused(a, "x", events.TokenRequest{}, events.CodeCoolingDown)
	if e := f.refused(b, "x", events.TokenRequest{}, events.CodeCoolingDown); e.RetryAfter < 4*time.Minute {
		t.Errorf("retry_after %s", e.RetryAfter)
	}
	if n := f.endpoint.Stats().Requests; n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestDeadGrant(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	access, refresh := f.login(p, "x", time.Minute)
	f.endpoint.Inject(oauthtest.Refuse(400, `{"error":"invalid_grant"}`))
	f.token(p, "x", events.TokenRequest{}) // living; the refresh beside it fails
	eventually(t, "the grant is known to be dead", func() bool { return f.doc("x").Status == account.ReauthRequired })
	if reply := f.token(p, "x", events.TokenRequest{}); reply.AccessToken.Reveal() != access {
		t.Error("the living token is not served under reauth_required")
	}
	f.clock.advance(time.Minute)
	f.refused(p, "x", events.TokenRequest{}, events.CodeReauthRequired)
	if _, err := p.Refresh(t.Context(), ref("x")); !errors.Is(err, &events.Error{Code: events.CodeReauthRequired}) {
		t.Errorf("operator's refresh: %v", err)
	}
	if n := f.endpoint.Sent(refresh); n != 1 {
		t.Errorf("a refused refresh token was sent %d times", n)
	}
	if _, err := p.ClearError(t.Context(), ref("x")); err != nil {
		t.Fatal(err)
	}
	if reply := f.token(p, "x", events.TokenRequest{}); reply.Version != 2 {
		t.Errorf("version %d after clear_error", reply.Version)
	}
}

func TestSecondWriterIsToldFromALostRotation(t *testing.T) {
	f := newFleet(t, oauthtest.Config{OpenAIErrors: true})
	f.def.DeadGrantErrors = []string{"refresh_token_reused", "invalid_grant"}
	p := f.worker()
	f.login(p, "x", -time.Second)
	f.endpoint.Inject(oauthtest.Refuse(401, `{"error":{"code":"refresh_token_reused","type":"invalid_request_error"}}`))
	f.refused(p, "x", events.TokenRequest{}, events.CodeReauthRequired)
	if e := f.doc("x").LastError; e == nil || e.Code != events.StatusSecondWriter {
		t.Errorf("last error %+v", e)
	}
}

func TestRejectedVersion(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Hour)
	if reply := f.token(p, "x", events.TokenRequest{RejectedVersion: 1}); reply.Version != 2 {
		t.Fatalf("version %d", reply.Version)
	}
	if reply := f.token(p, "x", events.TokenRequest{RejectedVersion: 1}); reply.Version != 2 {
		t.Errorf("version %d", reply.Version)
	}
	// An API that answers 401 to everything.
	versions := account.Version(2)
	for range 200 {
		reply, err := p.Token(t.Context(), key("x"), events.TokenRequest{RejectedVersion: versions})
		if err == nil {
			versions = reply.Version
		} else if !errors.Is(err, &events.Error{Code: events.CodeCoolingDown}) {
			t.Fatal(err)
		}
		f.clock.advance(3 * time.Second)
	}
	// 10 minutes: holds of 20, 40, 80, 160, 320 s.
	if versions < 6 || versions > 7 {
		t.Errorf("version %d after ten minutes of 401", versions)
	}
	if _, err := p.Refresh(t.Context(), ref("x")); err != nil {
		t.Errorf("an operator's refresh is held back: %v", err)
	}
}

func TestPutMidRotationWins(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	release := f.exchanging(p, "x")
	access, _ := f.login(p, "x", time.Hour) // a person logs in meanwhile
	release()
	eventually(t, "the rotation has ended", func() bool { return p.Stats().Flights == 0 })
	if a := f.doc("x"); a.Version != 2 || a.Rotation != nil {
		t.Errorf("version %d, rotation %v", a.Version, a.Rotation)
	}
	if reply := f.token(p, "x", events.TokenRequest{}); reply.AccessToken.Reveal() != access {
		t.Error("the newer login is lost")
	}
}

// exchanging logs an account in, announced, whose refresh runs when it returns: the
// endpoint has taken the refresh token, and answers after release.
func (f *fleet) exchanging(p *provider.Provider, id string) (release func()) {
	f.t.Helper()
	t := f.t.(*testing.T)
	f.login(p, id, 2*time.Minute)
	eventually(t, "the login is announced", func() bool { return !f.doc(id).AnnouncePending })
	gate := make(chan struct{})
	f.endpoint.Inject(oauthtest.HoldAfter(gate))
	f.token(p, id, events.TokenRequest{}) // refreshes beside
	eventually(t, "the refresh token is spent", func() bool { return f.endpoint.Exchanges() == 1 })
	return func() { close(gate) }
}

// A refresh that nobody disturbs reads the store once: before it begins.
func TestARefreshReadsTheStoreOnce(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", -time.Minute)
	eventually(t, "the login is announced", func() bool { return !f.doc("x").AnnouncePending })
	var reads, writes atomic.Int64
	f.store.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) {
		switch op {
		case "Get":
			reads.Add(1)
		case "Update":
			writes.Add(1)
		}
		return true, nil
	})
	if r := f.token(p, "x", events.TokenRequest{}); r.Version != 2 {
		t.Fatalf("%+v", r)
	}
	eventually(t, "it has begun, has ended, and is announced", func() bool { return writes.Load() == 3 })
	if n := reads.Load(); n != 1 {
		t.Errorf("%d reads, want 1", n)
	}
}

// What is committed after bumps may have been missed is as new as that: nobody
// looks once more before it is served.
func TestCommitAfterAResyncIsFresh(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	release := f.exchanging(p, "x")
	p.Resync()
	release()
	eventually(t, "the answer is saved", func() bool { return f.doc("x").Version == 2 && p.Stats().Flights == 0 })
	if _, ok := p.Cached(key("x"), events.TokenRequest{MinVersion: 2}); !ok {
		t.Error("version 2 was just committed, and must be looked up")
	}
}

// Another worker says that a rotation is in doubt, and then its answer comes: all
// are told that the doubt is over.
func TestAnswerAfterADoubtIsTold(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	f.timing.LeaseTTL = 2 * time.Second
	p := f.worker()
	release := f.exchanging(p, "x")
	f.store.Fault.Set(func(_ context.Context, op string, _ account.Key) (bool, error) { return op != "Update", nil }) // no heartbeat comes through
	f.clock.advance(f.timing.LeaseTTL)
	f.store.Fault.Set(nil)
	a := f.doc("x")
	r := *a.Rotation
	r.State = account.RotationInDoubt
	_, err := f.store.Update(t.Context(), a.Key, account.Guard{Rotation: &r.ID, Heartbeat: &r.Heartbeat},
		account.Change{Fields: account.FieldRotation, To: account.Account{Rotation: &r}, At: f.clock.Now()})
	if err != nil {
		t.Fatal(err)
	}
	release()
	eventually(t, "the answer is saved, and told", func() bool { return f.doc("x").Version == 2 && f.hasStatus("x", events.StatusRecovered) })
}

// A program that writes another login into the document in mid-exchange, and
// raises nothing, keeps it all the same.
func TestLoginOfAnotherProgramMidRotation(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	release := f.exchanging(p, "x")
	access, refresh := f.endpoint.NewGrant("x")
	a := f.doc("x")
	c := account.Credentials{AccessToken: account.NewSecret(access), RefreshToken: account.NewSecret(refresh), ExpiresAt: f.clock.Now().Add(time.Hour)}
	sealed, err := f.sealer.Seal(c.Encode(), ledger.Associated(a.Key, "credentials"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.store.Update(t.Context(), a.Key, account.Guard{}, account.Change{Fields: account.FieldCredentials, To: account.Account{Credentials: sealed}, At: f.clock.Now()}); err != nil {
		t.Fatal(err)
	}
	release()
	eventually(t, "the exchange has ended", func() bool { return p.Stats().Flights == 0 })
	if a = f.doc("x"); !bytes.Equal(a.Credentials, sealed) {
		t.Errorf("version %d has other credentials than were written beside", a.Version)
	}
}

func TestPatchMidRotationIsMerged(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	release := f.exchanging(p, "x")
	label := "new"
	doc, err := p.Patch(t.Context(), events.PatchRequest{Platform: "demo", ID: "x", Label: &label, Extra: map[string]jsonRaw{"project_id": jsonRaw(`"p2"`)}})
	if err != nil || doc.Version != 2 || doc.Label != "new" {
		t.Fatalf("%+v %v", doc, err)
	}
	release()
	eventually(t, "the answer is merged", func() bool { return f.doc("x").Version == 3 })
	reply := f.token(p, "x", events.TokenRequest{})
	if !f.endpoint.Valid(reply.AccessToken.Reveal()) || reply.Extra.Text("project_id") != "p2" {
		t.Errorf("extra %v", reply.Extra)
	}
}

func TestDisableMidRotationStays(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	release := f.exchanging(p, "x")
	if _, err := p.Disable(t.Context(), ref("x")); err != nil {
		t.Fatal(err)
	}
	release()
	eventually(t, "the answer is saved", func() bool { return f.doc("x").Version == 2 })
	if s := f.doc("x").Status; s != account.Disabled {
		t.Errorf("status %s", s)
	}
	f.refused(p, "x", events.TokenRequest{}, events.CodeDisabled)
	if doc, err := p.Enable(t.Context(), ref("x")); err != nil || doc.Status != account.Active {
		t.Errorf("%+v %v", doc, err)
	}
	f.token(p, "x", events.TokenRequest{})
}

// A worker that was frozen past its lease must send nothing.
func TestP1NothingIsSentPastTheHeartbeatsDeadline(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	f.def.Timeout = 5 * time.Second
	client, err := oauth.New(oauth.Config{Definitions: oauth.Definitions{"demo": f.def}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		f.clock.advance(2 * f.timing.LeaseTTL) // frozen between the record and the first byte
		return new(net.Dialer).DialContext(ctx, network, address)
	}})
	if err != nil {
		t.Fatal(err)
	}
	p := f.worker(func(c *provider.Config) { c.Endpoint = client })
	_, refresh := f.login(p, "x", -time.Second)
	f.refused(p, "x", events.TokenRequest{}, events.CodeUnavailable)
	if n := f.endpoint.Stats().Requests; n != 0 || f.endpoint.Sent(refresh) != 0 {
		t.Errorf("%d requests", n)
	}
	if a := f.doc("x"); a.Rotation != nil {
		t.Errorf("what was certainly not sent leaves a doubt: %+v", a.Rotation)
	}
}

func TestAnswersThatMakeNoSense(t *testing.T) {
	for _, tt := range []struct {
		name    string
		fault   oauthtest.Fault
		version account.Version
		doubt   bool // the rotation stays in doubt
	}{
		{"empty 200", oauthtest.LoseWith(200, ""), 1, true},
		{"nonsense 200", oauthtest.LoseWith(200, "{}", "Content-Type", "application/json"), 1, true},
		{"no access token", oauthtest.Without("access_token"), 2, false},
		{"cut in the middle", oauthtest.Truncate(10), 1, true},
		{"absurd expires_in", oauthtest.With("expires_in", 1e18), 2, false},
		{"negative expires_in", oauthtest.With("expires_in", -5), 2, false},
		{"10 MB", oauthtest.Padded(10 << 20), 2, false},
		{"refresh token as before", oauthtest.KeepRefreshToken(), 2, false},
		{"not a Bearer", oauthtest.With("token_type", "mac"), 2, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t, oauthtest.Config{})
			p := f.worker()
			f.login(p, "x", -time.Second)
			f.endpoint.Inject(tt.fault)
			_, _ = p.Token(t.Context(), key("x"), events.TokenRequest{})
			a := f.doc("x")
			if a.Version != tt.version || (a.Rotation != nil) != tt.doubt || a.Status != account.Active {
				t.Fatalf("version %d, rotation %+v, status %s", a.Version, a.Rotation, a.Status)
			}
			if tt.doubt {
				return
			}
			// Whatever was odd, the account goes on.
			f.clock.advance(2 * time.Hour)
			if reply := f.token(p, "x", events.TokenRequest{}); reply.Version != 3 || !f.endpoint.Valid(reply.AccessToken.Reveal()) {
				t.Errorf("version %d", reply.Version)
			}
		})
	}
}

func TestOldAccessTokenEndsDuringRefresh(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	f.def.ServeWhileRefreshing = false
	a, b := f.worker(), f.worker()
	f.login(a, "x", 2*time.Minute)
	eventually(t, "the login is announced", func() bool { return !f.doc("x").AnnouncePending })
	f.token(b, "x", events.TokenRequest{}) // b starts the refresh beside, and may serve once
	eventually(t, "the refresh is told", func() bool { return f.hasStatus("x", events.StatusRefreshing) })
	for _, p := range []*provider.Provider{a, b} {
		if reply := f.token(p, "x", events.TokenRequest{}); reply.Version != 2 {
			t.Errorf("version %d during the refresh", reply.Version)
		}
	}
}
