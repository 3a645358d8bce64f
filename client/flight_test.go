package client

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// besideSilence is a client that holds version 1 of demo.alice, and wants to ask
// about it since it heard a bump, and what a worker is asked, who answers nothing.
func besideSilence(t *testing.T) (c *Client, key account.Key, asked chan *nats.Msg) {
	t.Helper()
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(s.Shutdown)
	connect := func() *nats.Conn {
		nc, err := nats.Connect("", nats.InProcessServer(s))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	worker := connect()
	asked = make(chan *nats.Msg, 100)
	if _, err := worker.ChanSubscribe("tokenbus.v1.request.>", asked); err != nil {
		t.Fatal(err)
	}
	if err := worker.Flush(); err != nil {
		t.Fatal(err)
	}
	if c, err = New(Config{Conn: connect()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if key, err = account.NewKey("demo", "alice"); err != nil {
		t.Fatal(err)
	}
	e := c.memory.lock(key)
	defer e.mu.Unlock()
	now := c.situation()
	e.hold(Token{Key: key, Version: 1, ExpiresAt: now.now.Add(time.Hour)}, question{when: now}, now)
	c.memory.keep(e)
	e.hear(events.Bump{Key: key, Version: 1, Rev: 2})
	return c, key, asked
}

// A question that was asked before bumps were missed says nothing of them: who
// looks up afterwards asks anew.
func TestP4NobodyJoinsAQuestionFromBeforeACut(t *testing.T) {
	c, key, asked := besideSilence(t)
	look := func() *flight {
		t.Helper()
		e := c.memory.lock(key)
		defer e.mu.Unlock()
		a := e.flights[want{}]
		if a == nil {
			t.Fatal("nothing is asked")
		}
		return a
	}
	done := make(chan struct{}, 2)
	ask := func() { _, _ = c.Token(t.Context(), key); done <- struct{}{} }
	go ask()
	<-asked
	before := look()
	c.missed("a test")
	go ask()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	ended := 0 // look-ups, which wait for a second
	for look() == before {
		select {
		case <-tick.C:
		case <-done:
			if ended++; ended == 2 && look() == before {
				t.Fatal("the look-up joined a question from before")
			}
		}
	}
	for ; ended < 2; ended++ {
		<-done
	}
}

// Nor does its failure let anybody have what is held without a question.
func TestP4AFailureFromBeforeACutCountsForNothing(t *testing.T) {
	c, key, asked := besideSilence(t)
	done := make(chan error, 1)
	go func() { _, err := c.Token(t.Context(), key); done <- err }()
	refuse := func(m *nats.Msg) {
		t.Helper()
		e := events.CoolingDown(time.Second, "a test")
		if err := m.RespondMsg(&nats.Msg{Header: e.Header(), Data: e.Encode()}); err != nil {
			t.Fatal(err)
		}
	}
	m := <-asked
	c.missed("a test")
	refuse(m)
	select {
	case m = <-asked:
	case err := <-done:
		t.Fatalf("what is held was had without a question (%v)", err)
	}
	refuse(m) // of this epoch: it may be had now
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Nor may it be had because who began the question had no patience: others ask anew.
func TestP4AnothersLackOfPatienceCountsForNothing(t *testing.T) {
	c, key, asked := besideSilence(t)
	e := c.memory.lock(key)
	over, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	f, _ := c.join(e, want{}, over, nil) // as of a look-up whose time is over
	done := make(chan error, 1)
	go func() { _, err := c.Token(t.Context(), key); done <- err }()
	e.mu.Unlock()
	<-f.done
	select {
	case m := <-asked:
		e := events.CoolingDown(time.Second, "a test")
		if err := m.RespondMsg(&nats.Msg{Header: e.Header(), Data: e.Encode()}); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	case err := <-done:
		t.Fatalf("what is held was had without a question (%v)", err)
	}
}

// Who can wait no longer has what is held: as of now, not as of when it began to wait.
func TestP4WhatCameMeanwhileCounts(t *testing.T) {
	for name, tt := range map[string]struct {
		news func(*Client, *entry)
		want account.Version // 0: none
	}{
		"nothing": {func(*Client, *entry) {}, 1},
		"a newer version": {func(c *Client, e *entry) {
			now := c.situation()
			_, result := e.take(e.question(want{rejected: 1}, now), events.TokenReply{Key: e.key, Version: 2, ExpiresAt: now.now.Add(time.Hour)}, now, false)
			if result != given {
				t.Errorf("the reply was not taken: %d", result)
			}
		}, 2},
		"a bump":             {func(_ *Client, e *entry) { e.hear(events.Bump{Key: e.key, Version: 2, Rev: 3}) }, 0},
		"it was disabled":    {func(_ *Client, e *entry) { e.deny() }, 0},
		"a refresh ends it":  {func(c *Client, e *entry) { e.hearBusy(c.situation().at + time.Minute) }, 0},
		"a bump of the same": {func(_ *Client, e *entry) { e.hear(events.Bump{Key: e.key, Version: 1, Rev: 3}) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			c, key, asked := besideSilence(t)
			ctx, cancel := context.WithCancel(t.Context())
			type answer struct {
				token Token
				err   error
			}
			done := make(chan answer, 1)
			go func() { token, err := c.Token(ctx, key); done <- answer{token, err} }()
			<-asked
			e := c.memory.lock(key)
			tt.news(c, e)
			cancel()
			e.mu.Unlock()
			a := <-done
			if a.token.Version != tt.want || tt.want == 0 && !errors.Is(a.err, context.Canceled) {
				t.Errorf("got %v, %v; want version %d", a.token, a.err, tt.want)
			}
		})
	}
}

// The place of a question beside look-ups is taken for as long as one runs, and
// by no question that is somebody else's or is not begun.
func TestPlacesBesideComeBack(t *testing.T) {
	c, key, _ := besideSilence(t)
	e := c.memory.lock(key)
	s := c.situation()
	taken := func(what string, want int) {
		t.Helper()
		if n := len(c.slots); n != want {
			e.mu.Unlock() // for the client to close
			t.Fatalf("%s: %d places are taken; want %d", what, n, want)
		}
	}
	c.epoch.Add(1) // between the look at the situation and the lock
	c.join(e, want{}, t.Context(), nil)
	for range mostBeside + 1 {
		c.beside(e, s)
	}
	taken("somebody has asked", 0)
	c.slots <- struct{}{}
	if _, joined := c.join(e, want{}, t.Context(), func() { <-c.slots }); !joined {
		t.Error("it was not joined")
	}
	taken("somebody asked just then", 0)
	c.epoch.Add(1)
	c.beside(e, s)
	taken("it runs", 1)
	e.mu.Unlock()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	e.mu.Lock()
	c.slots <- struct{}{}
	c.join(e, want{}, t.Context(), func() { <-c.slots })
	taken("the client is closed", 0)
	e.mu.Unlock()
}

// The second request comes soon, for a worker that is stopped; the later ones
// take ever longer, for workers that all wait for a refresh.
func TestSilenceIsAskedAgainEverMoreSlowly(t *testing.T) {
	c, _, asked := besideSilence(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3800*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	began := time.Now()
	go func() { _, err := c.Token(ctx, testKey(t, "demo.bob")); done <- err }()
	<-asked
	<-asked
	if d := time.Since(began); d < hedgeAfter*9/10 || d > 2*time.Second {
		t.Errorf("the second request came after %s", d)
	}
	if err := <-done; !errors.Is(err, ErrTimeout) {
		t.Errorf("got %v", err)
	}
	if n := 2 + len(asked); n > 6 { // after 0, ¼, ½, 1, 2 and 3 s
		t.Errorf("%d requests", n)
	}
	if n := c.Stats().Requests; n < 4 || n > 6 {
		t.Errorf("%d requests by the count", n)
	}
}
