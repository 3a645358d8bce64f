package provider_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
)

// answers are what comes of requests that are asked at once.
type answers chan answered

type answered struct {
	reply events.TokenReply
	err   error
}

// ask asks n times, as the bus does.
func (a answers) ask(ctx context.Context, p *provider.Provider, id string, req events.TokenRequest, n int) {
	for range n {
		p.Ask(ctx, key(id), req, func(body []byte, err error) {
			var reply events.TokenReply
			if err == nil {
				reply, err = events.DecodeTokenReply(key(id), body)
			}
			a <- answered{reply, err}
		})
	}
}

func (a answers) next(t *testing.T) answered {
	t.Helper()
	select {
	case r := <-a:
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("a request is not answered")
		return answered{}
	}
}

// held is a fleet whose endpoint answers nothing before release is called.
func held(t *testing.T) (f *fleet, exchanges *atomic.Int64, release func()) {
	exchanges, gate := new(atomic.Int64), make(chan struct{})
	f = newFleet(t, oauthtest.Config{OnRequest: func(*http.Request) { exchanges.Add(1); <-gate }})
	release = func() { close(gate) }
	return f, exchanges, release
}

// Very many who ask for the same account cost no goroutine each while they
// wait, and all get what the one refresh brings.
func TestP1ACrowdWaitsForOneRefresh(t *testing.T) {
	f, exchanges, release := held(t)
	p, q := f.worker(), f.worker()
	f.login(p, "x", -time.Minute)
	const n = 5000
	before := runtime.NumGoroutine()
	all := make(answers, 2*n+3)
	for _, w := range []*provider.Provider{p, q} { // p knows the account, q does not
		all.ask(t.Context(), w, "x", events.TokenRequest{}, n)
	}
	eventually(t, "the exchange is under way", func() bool { return exchanges.Load() == 1 })
	known, lived := make(answers, 1), make(answers, 1)
	known.ask(t.Context(), p, "x", events.TokenRequest{KnownVersion: 2}, 1)                  // of another's reply, say
	lived.ask(t.Context(), p, "x", events.TokenRequest{MinTTL: 3 * 365 * 24 * time.Hour}, 1) // longer than any token
	if more := runtime.NumGoroutine() - before; more > 100 {
		t.Errorf("%d goroutines for %d requests that wait", more, 2*n)
	}
	select {
	case r := <-all:
		t.Fatalf("answered before the endpoint has: %+v", r)
	default:
	}
	release()
	for range 2 * n {
		r := all.next(t)
		if r.err != nil || r.reply.Version != 2 || r.reply.Source != events.SourceRefresh || !f.endpoint.Valid(r.reply.AccessToken.Reveal()) {
			t.Fatalf("%+v, want the token of version 2 from a refresh", r)
		}
	}
	if r := known.next(t); r.err != nil || r.reply.Version != 2 || !r.reply.NotModified || !r.reply.AccessToken.IsZero() {
		t.Errorf("who knows version 2 gets %+v, want no token and that it is not modified", r)
	}
	if r := lived.next(t); !isCode(r.err, events.CodeBadRequest) {
		t.Errorf("who wants a token of three years gets %+v, want that it is a bad request", r)
	}
	if n := f.endpoint.Exchanges(); n != 1 {
		t.Errorf("%d exchanges", n)
	}
	if got := p.Stats().Lookups[events.SourceRefresh] + q.Stats().Lookups[events.SourceRefresh]; got != 2*n+1 {
		t.Errorf("%d answers are counted as waited for, want %d", got, 2*n+1)
	}
}

// Everybody in a crowd is answered at the end of its own time; the refresh goes on.
func TestACrowdHasADeadlineForEach(t *testing.T) {
	f, exchanges, release := held(t)
	p := f.worker()
	f.login(p, "x", -time.Minute)
	hasty, patient := make(answers, 100), make(answers, 100)
	patient.ask(t.Context(), p, "x", events.TokenRequest{Timeout: 20 * time.Second}, 100)
	eventually(t, "the exchange is under way", func() bool { return exchanges.Load() == 1 })
	began := time.Now()
	hasty.ask(t.Context(), p, "x", events.TokenRequest{Timeout: 200 * time.Millisecond}, 100)
	for range 100 {
		if r := hasty.next(t); !isCode(r.err, events.CodeTimeout) {
			t.Fatalf("%+v, want a timeout", r)
		}
	}
	if took := time.Since(began); took < 200*time.Millisecond || took > 5*time.Second {
		t.Errorf("answered after %s, want 200 ms", took)
	}
	release()
	for range 100 {
		if r := patient.next(t); r.err != nil || r.reply.Version != 2 {
			t.Fatalf("%+v, want version 2", r)
		}
	}
}

// A worker that stops has an answer for everybody, wherever they wait.
func TestAllInACrowdAreAnsweredAtTheEnd(t *testing.T) {
	f, exchanges, release := held(t)
	defer release()
	p := f.worker()
	f.login(p, "x", -time.Minute)
	f.login(p, "y", time.Hour)
	ctx, end := context.WithCancel(t.Context())
	all := make(answers, 200)
	all.ask(ctx, p, "x", events.TokenRequest{}, 100)
	eventually(t, "the exchange is under way", func() bool { return exchanges.Load() == 1 })
	f.store.Fault.Set(hang)
	f.cache.Fault.Set(hang)
	defer f.store.Fault.Set(nil)
	defer f.cache.Fault.Set(nil)
	q := f.worker()
	all.ask(ctx, q, "y", events.TokenRequest{}, 100) // they wait for a look
	end()
	for range 200 {
		if r := all.next(t); !isCode(r.err, events.CodeTimeout) {
			t.Fatalf("%+v, want a timeout", r)
		}
	}
}

// One that asks for more than the others is not answered with what does for
// them, and a refused refresh is refused to all.
func TestACrowdIsJudgedOneByOne(t *testing.T) {
	f, exchanges, release := held(t)
	p := f.worker()
	f.login(p, "x", -time.Minute)
	all, more := make(answers, 10), make(answers, 1)
	all.ask(t.Context(), p, "x", events.TokenRequest{}, 10)
	eventually(t, "the exchange is under way", func() bool { return exchanges.Load() == 1 })
	more.ask(t.Context(), p, "x", events.TokenRequest{RejectedVersion: 1}, 1)
	f.endpoint.Revoke("x")
	release()
	for range 10 {
		if r := all.next(t); !isCode(r.err, events.CodeReauthRequired) {
			t.Fatalf("%+v, want that a login is needed", r)
		}
	}
	if r := more.next(t); !isCode(r.err, events.CodeReauthRequired) {
		t.Errorf("%+v, want that a login is needed", r)
	}
	if n := exchanges.Load(); n != 1 {
		t.Errorf("%d requests reached the endpoint, want 1", n)
	}
}

// A look that outlasts the request for it keeps no living token from it: what
// is in memory is served at its deadline, as it would be if the look had failed.
func TestP7WhatIsInMemoryServesAtTheDeadline(t *testing.T) {
	for name, c := range map[string]struct {
		timeout time.Duration // less than the looks take
		stale   func(f *fleet, p *provider.Provider)
	}{
		"too old":     {800 * time.Millisecond, func(f *fleet, _ *provider.Provider) { f.clock.advance(f.timing.L1MaxAge) }},
		"after a cut": {time.Second, func(_ *fleet, p *provider.Provider) { p.Resync() }},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, oauthtest.Config{})
			p := f.worker()
			f.login(p, "x", 2*time.Hour)
			f.token(p, "x", events.TokenRequest{})
			eventually(t, "the login is announced", func() bool { return !f.doc("x").AnnouncePending })
			f.store.Fault.Set(hang)
			f.cache.Fault.Set(hang)
			defer f.store.Fault.Set(nil)
			defer f.cache.Fault.Set(nil)
			c.stale(f, p)
			r, err := p.Token(t.Context(), key("x"), events.TokenRequest{Timeout: c.timeout})
			if err != nil || r.Version != 1 || r.Source != events.SourceL1 {
				t.Errorf("%+v, %v, want version 1 from memory", r, err)
			}
			if _, err := p.Token(t.Context(), key("x"), events.TokenRequest{Timeout: 10 * time.Millisecond, MinVersion: 2}); err == nil {
				t.Error("version 1 is served to who has seen version 2")
			}
		})
	}
}

// A token that a refresh ends which runs is not served at a deadline either.
func TestATokenThatIsBeingEndedIsNotServedAtTheDeadline(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	f.def.ServeWhileRefreshing = false
	p := f.worker()
	release := f.exchanging(p, "x")
	f.refused(p, "x", events.TokenRequest{Timeout: 50 * time.Millisecond}, events.CodeTimeout)
	release()
	if r := f.token(p, "x", events.TokenRequest{}); r.Version != 2 {
		t.Errorf("%+v, want version 2", r)
	}
}

// Looks that hang are bounded, also where each is another's and all requests
// have been answered.
func TestLooksAreBounded(t *testing.T) {
	f := newFleet(t, oauthtest.Config{})
	f.login(f.worker(), "x", 2*time.Hour)
	p := f.worker() // knows nothing
	f.store.Fault.Set(hang)
	f.cache.Fault.Set(hang)
	defer f.store.Fault.Set(nil)
	defer f.cache.Fault.Set(nil)
	before := runtime.NumGoroutine()
	const n, most = 50_000, 1 << 14
	all := make(answers, n)
	for i := range n {
		all.ask(t.Context(), p, "x", events.TokenRequest{Timeout: time.Millisecond, MinTTL: time.Duration(i + 1)}, 1)
	}
	refused := 0
	for range n {
		switch r := all.next(t); {
		case isCode(r.err, events.CodeUnavailable):
			refused++
		case !isCode(r.err, events.CodeTimeout):
			t.Fatalf("%+v, want a timeout, or that too many look", r)
		}
	}
	if more := runtime.NumGoroutine() - before; more > most+100 || refused == 0 {
		t.Errorf("%d goroutines for %d looks, %d refused; want at most %d", more, n, refused, most)
	}
}

func isCode(err error, code events.Code) bool {
	e, ok := errors.AsType[*events.Error](err)
	return ok && e.Code == code
}
