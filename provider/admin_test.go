package provider_test

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/tokenbus/tokenbus/rotation"
)

func badRequest(t *testing.T, what string, err error, names string) {
	t.Helper()
	if e, ok := errors.AsType[*events.Error](err); !ok || e.Code != events.CodeBadRequest || !strings.Contains(e.Message, names) {
		t.Errorf("%s: got %v, want a bad_request that names %q", what, err, names)
	}
}

func TestP10PutRefusesBadInput(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	for what, tt := range map[string]struct{ credentials, names string }{
		"no tokens":        {`{"scope":"a"}`, "access_token"},
		"a number":         {`{"access_token":5}`, "access_token"},
		"no object":        {`[]`, "object"},
		"a wrong expiry":   {`{"access_token":"a","expires_at":"tomorrow"}`, "expires_at"},
		"a negative one":   {`{"access_token":"a","expires_at":-5}`, "expires_at"},
		"a proxy of ftp":   {`{"access_token":"a","proxy_url":"ftp://x"}`, "proxy_url"},
		"a proxy of words": {`{"access_token":"a","proxy_url":"://"}`, "proxy_url"},
		"200 kB":           {`{"access_token":"a","note":"` + strings.Repeat("x", 200<<10) + `"}`, "credentials"},
	} {
		_, err := p.Put(t.Context(), putRequest("x", []byte(tt.credentials)))
		badRequest(t, what, err, tt.names)
	}
	r := putRequest("x", []byte(`{"access_token":"a"}`))
	r.Type = "apikey"
	_, err := p.Put(t.Context(), r)
	badRequest(t, "a wrong type", err, "type")
	r = putRequest("x", []byte(`{"access_token":"a"}`))
	r.ID = "a.b"
	_, err = p.Put(t.Context(), r)
	badRequest(t, "a bad id", err, "id")
	if _, err := f.store.Get(t.Context(), key("x")); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("something was stored: %v", err)
	}
}

func TestPut(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	first := map[string]any{"access_token": "a1", "refresh_token": "r1", "expires_at": 4102444800}
	doc := f.put(p, "x", first)
	if doc.Version != 1 || doc.Status != account.Active || !doc.HasRefreshToken || doc.ExpiresAt.Year() != 2100 {
		t.Errorf("%+v", doc)
	}
	if doc := f.put(p, "x", first); doc.Version != 1 {
		t.Errorf("identical credentials raised the version to %d", doc.Version)
	}
	if doc := f.put(p, "x", map[string]any{"access_token": "a2", "refresh_token": "r2"}); doc.Version != 2 {
		t.Errorf("version %d", doc.Version)
	}
	r := putRequest("x", []byte(`{"access_token":"a3"}`))
	r.IfVersion = new(account.Version(1))
	_, err := p.Put(t.Context(), r)
	badRequest(t, "if_version", err, "if_version")
	r.IfVersion = new(account.Version(2))
	if doc, err := p.Put(t.Context(), r); err != nil || doc.Version != 3 || doc.HasRefreshToken {
		t.Errorf("%+v %v", doc, err)
	}
	eventually(t, "the last login is announced", func() bool {
		b, err := f.bus.LastBump(t.Context(), key("x"))
		return err == nil && b.Version == 3
	})
	for _, e := range f.bus.AllRefreshed() {
		if e.Reason != events.ReasonExternal {
			t.Errorf("reason %s", e.Reason)
		}
	}
}

// readCounter counts the reads of documents.
type readCounter struct {
	ledger.Store
	reads atomic.Int64
}

func (c *readCounter) Get(ctx context.Context, key account.Key) (account.Account, error) {
	c.reads.Add(1)
	return c.Store.Get(ctx, key)
}

// An account that is said to be new is made without a look at the store. What
// is there all the same is treated as without that: kept, refused, or counted on
// from.
func TestPutOfANewAccount(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	store := &readCounter{Store: f.store}
	p := f.worker(func(c *provider.Config) { c.Store = store })
	put := func(credentials string) (events.Account, error) {
		r := putRequest("x", []byte(credentials))
		r.IfVersion = new(account.Version(0))
		return p.Put(t.Context(), r)
	}
	doc, err := put(`{"access_token":"a1","expires_at":4102444800}`)
	if err != nil || doc.Version != 1 || doc.Status != account.Active || doc.ExpiresAt.Year() != 2100 {
		t.Errorf("%+v %v", doc, err)
	}
	if reply := f.token(p, "x", events.TokenRequest{}); reply.AccessToken.Reveal() != "a1" || reply.Source != events.SourceL1 {
		t.Errorf("the token is %+v", reply)
	}
	if n := store.reads.Load(); n != 0 {
		t.Errorf("%d reads of the store", n)
	}
	if doc, err := put(`{"expires_at":4102444800,"access_token":"a1"}`); err != nil || doc.Version != 1 {
		t.Errorf("the same again: %+v %v", doc, err)
	}
	_, err = put(`{"access_token":"a2"}`)
	badRequest(t, "another login", err, "if_version")
	if _, err := p.Delete(t.Context(), ref("x")); err != nil {
		t.Fatal(err)
	}
	if doc, err := put(`{"access_token":"a2"}`); err != nil || doc.Version != 3 {
		t.Errorf("after the deletion: %+v %v", doc, err)
	}
}

// Two that both say that the account is new: one is refused, as if it had come
// later.
func TestPutOfANewAccountTwice(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	workers := []*provider.Provider{f.worker(), f.worker()}
	for round := range 20 {
		id := fmt.Sprintf("x%d", round)
		var made atomic.Int64
		var wg sync.WaitGroup
		for i, p := range workers {
			wg.Go(func() {
				r := putRequest(id, fmt.Appendf(nil, `{"access_token":"a%d"}`, i))
				r.IfVersion = new(account.Version(0))
				if doc, err := p.Put(t.Context(), r); err == nil && doc.Version == 1 {
					made.Add(1)
				} else {
					badRequest(t, "who came second", err, "if_version")
				}
			})
		}
		wg.Wait()
		if n := made.Load(); n != 1 {
			t.Errorf("%s was made by %d", id, n)
		}
	}
}

func TestPutRefusesASpentRefreshToken(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	access, refresh := f.login(p, "x", -time.Second)
	f.token(p, "x", events.TokenRequest{})
	_, err := p.Put(t.Context(), putRequest("x", []byte(`{"access_token":"`+access+`","refresh_token":"`+refresh+`"}`)))
	badRequest(t, "an old login file", err, "refresh_token")
	if strings.Contains(err.Error(), refresh) {
		t.Error("the error quotes the token")
	}
	if v := f.doc("x").Version; v != 2 {
		t.Errorf("version %d", v)
	}
}

func TestP3VersionsGoOnAfterDelete(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	a, b := f.worker(), f.worker()
	f.login(a, "x", time.Hour)
	eventually(t, "the login is announced", func() bool { return !f.doc("x").AnnouncePending })
	f.token(b, "x", events.TokenRequest{})
	if _, err := a.Delete(t.Context(), ref("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the deletion is announced", func() bool { return !f.doc("x").AnnouncePending })
	for _, p := range []*provider.Provider{a, b, f.worker()} {
		f.refused(p, "x", events.TokenRequest{}, events.CodeNotFound)
	}
	if _, err := a.Get(t.Context(), ref("x")); !errors.Is(err, &events.Error{Code: events.CodeNotFound}) {
		t.Errorf("Get of a deleted account: %v", err)
	}
	if len(f.doc("x").Credentials) != 0 {
		t.Error("the tombstone keeps credentials")
	}
	f.login(a, "x", time.Hour)
	if v := f.doc("x").Version; v != 3 {
		t.Errorf("version %d after 1 and a tombstone of 2", v)
	}
	eventually(t, "the new login is announced", func() bool { return !f.doc("x").AnnouncePending })
	if reply := f.token(b, "x", events.TokenRequest{}); reply.Version != 3 {
		t.Errorf("version %d", reply.Version)
	}
	// Even if the store loses the document altogether.
	f.store.Restore(nil)
	f.login(a, "x", time.Hour)
	if v := f.doc("x").Version; v != 4 {
		t.Errorf("version %d where peers have seen 3", v)
	}
}

func TestPatchRefusesTokens(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Hour)
	_, err := p.Patch(t.Context(), events.PatchRequest{Platform: "demo", ID: "x", Credentials: map[string]jsonRaw{"refresh_token": jsonRaw(`"r"`)}})
	badRequest(t, "a token", err, "refresh_token")
	_, err = p.Patch(t.Context(), events.PatchRequest{Platform: "demo", ID: "x", ProxyURL: jsonRaw(`"gopher://x"`)})
	badRequest(t, "a proxy", err, "proxy_url")
	if v := f.doc("x").Version; v != 1 {
		t.Errorf("version %d", v)
	}
	doc, err := p.Patch(t.Context(), events.PatchRequest{Platform: "demo", ID: "x", Label: new("only a label")})
	if err != nil || doc.Version != 1 || doc.Label != "only a label" {
		t.Errorf("%+v %v", doc, err)
	}
	doc, err = p.Patch(t.Context(), events.PatchRequest{Platform: "demo", ID: "x", ProxyURL: jsonRaw(`"socks5://user:pw@127.0.0.1:1"`)})
	if err != nil || doc.Version != 2 {
		t.Errorf("%+v %v", doc, err)
	}
}

func TestList(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	for _, id := range []string{"c", "a", "b"} {
		f.login(p, id, time.Hour)
	}
	var got []string
	r := events.ListRequest{Limit: 2}
	for {
		page, err := p.List(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.Accounts {
			got = append(got, a.ID)
		}
		if r.Cursor = page.NextCursor; r.Cursor == "" {
			break
		}
	}
	if strings.Join(got, "") != "abc" {
		t.Errorf("got %v", got)
	}
	for name, r := range map[string]events.ListRequest{
		"limit": {Limit: 1001}, "status": {Status: "dead"}, "cursor": {Cursor: "nonsense"}, "platform": {Platform: "A"},
	} {
		_, err := p.List(t.Context(), r)
		badRequest(t, name, err, name)
	}
}

func TestClearErrorLeavesTheDoubt(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.login(p, "x", time.Hour)
	f.orphan("x", func(r *account.Rotation) { r.NoAnswer, r.State = true, account.RotationInDoubt })
	if _, err := p.ClearError(t.Context(), ref("x")); err != nil {
		t.Fatal(err)
	}
	if f.doc("x").Rotation == nil {
		t.Error("the doubt is gone")
	}
	if _, err := p.Refresh(t.Context(), ref("x")); !errors.Is(err, &events.Error{Code: events.CodeUnavailable}) {
		t.Errorf("refresh without force: %v", err)
	}
	if doc, err := p.Refresh(t.Context(), events.KeyRequest{Platform: "demo", ID: "x", Force: true}); err != nil || doc.Version != 2 {
		t.Errorf("refresh with force: %+v %v", doc, err)
	}
}

func TestRunRefreshesAheadOfNeed(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	workers := []*provider.Provider{f.worker(), f.worker()}
	_, refresh := f.login(workers[0], "idle", 100*time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 2)
	for _, p := range workers {
		go func() { done <- p.Run(ctx) }()
	}
	eventually(t, "the idle account is refreshed", func() bool { return f.doc("idle").Version == 2 })
	eventually(t, "that is announced", func() bool { return !f.doc("idle").AnnouncePending })
	cancel()
	<-done
	<-done
	if n := f.endpoint.Sent(refresh); n != 1 {
		t.Errorf("sent %d times", n)
	}
	refreshed := f.bus.AllRefreshed()
	if last := refreshed[len(refreshed)-1]; last.Reason != events.ReasonExpiry {
		t.Errorf("reason %s", last.Reason)
	}
}

func TestSweepRepeatsALostAnnouncement(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	a, b := f.worker(), f.worker()
	f.bus.Fault.Set(failing("Bump", 0, 1<<40, false))
	f.login(a, "x", time.Hour)
	f.token(b, "x", events.TokenRequest{})
	eventually(t, "the announcement has failed", func() bool { return a.Close(t.Context()) == nil })
	if !f.doc("x").AnnouncePending {
		t.Fatal("not marked")
	}
	f.bus.Fault.Set(nil)
	f.clock.advance(10 * time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	eventually(t, "another worker announces it", func() bool {
		bump, err := f.bus.LastBump(t.Context(), key("x"))
		return err == nil && bump.Version == 1 && !f.doc("x").AnnouncePending
	})
	cancel()
	<-done
}

// A login tool that writes the store itself and publishes the event.
func TestExternalChange(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	a, b := f.worker(), f.worker()
	f.login(a, "x", time.Hour)
	eventually(t, "the login is announced", func() bool { return !f.doc("x").AnnouncePending })
	f.token(b, "x", events.TokenRequest{})
	docs := f.store.Snapshot()
	doc := docs[key("x")]
	c := account.Credentials{AccessToken: account.NewSecret("external"), RefreshToken: account.NewSecret("r"), ExpiresAt: f.clock.Now().Add(time.Hour).UTC()}
	sealed, err := f.sealer.Seal(c.Encode(), []byte("demo.x|credentials|1"))
	if err != nil {
		t.Fatal(err)
	}
	doc.Credentials, doc.Version = sealed, 2 // and nothing else: no rev, no fingerprints
	docs[key("x")] = doc
	f.store.Restore(docs)
	event := events.Refreshed{Key: key("x"), Version: 2, Reason: events.ReasonExternal, By: "login-tool", At: f.clock.Now()}
	for range 2 { // delivered twice
		if err := a.ObserveRefreshed(t.Context(), event); err != nil {
			t.Fatal(err)
		}
	}
	if reply := f.token(b, "x", events.TokenRequest{}); reply.Version != 2 || reply.AccessToken.Reveal() != "external" {
		t.Errorf("version %d", reply.Version)
	}
	if d := f.doc("x"); d.Rev != 2 || d.AnnouncePending {
		t.Errorf("rev %d, pending %t", d.Rev, d.AnnouncePending)
	}
	event.Version = 1
	if err := a.ObserveRefreshed(t.Context(), event); err != nil || f.doc("x").Rev != 2 {
		t.Errorf("an old event: %v, rev %d", err, f.doc("x").Rev)
	}
}

func TestRestoredBackupExchangesNothing(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	_, refresh := f.login(p, "x", -time.Second)
	eventually(t, "the login is announced", func() bool { return !f.doc("x").AnnouncePending })
	backup := f.store.Snapshot()
	f.token(p, "x", events.TokenRequest{})
	eventually(t, "version 2 is announced", func() bool { return !f.doc("x").AnnouncePending })
	f.store.Restore(backup)
	f.cache.Fault.Set(down)
	next := f.worker()
	f.refused(next, "x", events.TokenRequest{}, events.CodeUnavailable)
	eventually(t, "it is told", func() bool { return f.hasStatus("x", events.StatusStoreBehind) })
	if n := f.endpoint.Sent(refresh); n != 1 {
		t.Errorf("a spent refresh token was sent %d times", n)
	}
}

func TestUnknownProviderBlamesNobody(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	r := putRequest("x", []byte(`{"access_token":"a","refresh_token":"r","expires_at":1}`))
	r.Platform = "elsewhere"
	if _, err := p.Put(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	k, _ := account.NewKey("elsewhere", "x")
	if _, err := p.Token(t.Context(), k, events.TokenRequest{}); !errors.Is(err, &events.Error{Code: events.CodeUnavailable}) || !strings.Contains(err.Error(), "--providers") {
		t.Errorf("got %v", err)
	}
}

func TestJournalThatCantBeReadBlocksTheExchange(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	_, refresh := f.login(p, "x", -time.Second)
	f.orphan("x", func(r *account.Rotation) { r.NoAnswer, r.State = true, account.RotationInDoubt })
	if err := f.journal.Put(t.Context(), rotation.Record{Key: key("x"), RotationID: "orphan", FromVersion: 1, Answer: []byte("sealed with another keyset")}); err != nil {
		t.Fatal(err)
	}
	f.refused(p, "x", events.TokenRequest{}, events.CodeUnavailable)
	eventually(t, "it is told", func() bool { return f.hasStatus("x", events.StatusJournalBlocked) })
	if n := f.endpoint.Sent(refresh); n != 0 {
		t.Errorf("sent %d times", n)
	}
	if records, err := f.journal.Records(t.Context(), key("x")); err != nil || len(records) != 1 {
		t.Errorf("the record was dropped: %v %v", records, err)
	}
}

// A long-lived setup token is served to its end; then a person is needed.
func TestAccountWithoutRefreshTokenEnds(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	p := f.worker()
	f.put(p, "setup", map[string]any{"access_token": "at", "expires_at": f.clock.Now().Add(time.Hour).Unix()})
	f.token(p, "setup", events.TokenRequest{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	f.clock.advance(time.Hour + time.Second)
	eventually(t, "the end is recorded", func() bool { return f.doc("setup").Status == account.ReauthRequired })
	cancel()
	<-done
	if e := f.doc("setup").LastError; e == nil || e.Code != events.StatusNoRefreshToken {
		t.Errorf("last error %+v", e)
	}
	if n := f.endpoint.Stats().Requests; n != 0 {
		t.Errorf("%d requests", n)
	}
}

// The grace counts from when the refresh token may first have been spent, not
// from the last takeover.
func TestGraceCountsFromTheFirstAttempt(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	a := account.Account{
		Key: key("x"), Status: account.Active, Version: 1, ExpiresAt: now.Add(time.Hour), Fingerprints: account.Fingerprints{Refresh: "r"},
		Rotation: &account.Rotation{ID: "2", StartedAt: now, FirstStartedAt: now.Add(-50 * time.Second), NoAnswer: true, Attempts: 2},
	}
	rules := rotation.Rules{Now: now.Add(5 * time.Second), Timing: rotation.DefaultTiming(), Policy: rotation.Policy{ReuseGrace: time.Minute}}
	if plan := rotation.Decide(&a, 1, events.ReasonRequest, rotation.Sight{}, rules); plan.Step != rotation.StepTakeOver {
		t.Errorf("within the grace: %s", plan.Step)
	}
	rules.Now = now.Add(15 * time.Second)
	if plan := rotation.Decide(&a, 1, events.ReasonRequest, rotation.Sight{}, rules); plan.Step != rotation.StepInDoubt || !plan.At.Equal(now.Add(57*time.Minute)) {
		t.Errorf("past the grace: %s at %s", plan.Step, plan.At)
	}
}
