package client

import (
	"context"
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
