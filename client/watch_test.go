package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/client/clienttest"
	"github.com/tokenbus/tokenbus/events"
)

// seen is one step of a watch.
type seen struct {
	version account.Version
	err     error
}

func watch(ctx context.Context, t *testing.T, c *client.Client, key account.Key) <-chan seen {
	steps := make(chan seen)
	go func() {
		defer close(steps)
		for v, err := range c.Watch(ctx, key) {
			steps <- seen{v, err}
		}
	}()
	return steps
}

func receive(t *testing.T, ch <-chan seen) seen {
	t.Helper()
	select {
	case s, ok := <-ch:
		if !ok {
			t.Fatal("the watch has ended")
		}
		return s
	case <-time.After(30 * time.Second):
		t.Fatal("nothing is seen")
		panic("unreachable")
	}
}

func TestWatch(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	ctx, stop := context.WithCancel(t.Context())
	steps := watch(ctx, t, c, key)
	if s := receive(t, steps); s.version != 1 || s.err != nil {
		t.Fatalf("first: %+v", s)
	}
	f.Rotate(key)
	if s := receive(t, steps); s.version != 2 || s.err != nil {
		t.Fatalf("second: %+v", s)
	}
	f.Fail(key, &events.Error{Code: events.CodeDisabled, Message: "an operator"})
	if s := receive(t, steps); !errors.Is(s.err, client.ErrDisabled) {
		t.Fatalf("third: %+v", s)
	}
	f.Fail(key, nil)
	f.Rotate(key)
	if s := receive(t, steps); s.version != 3 || s.err != nil {
		t.Fatalf("fourth: %+v", s)
	}
	// Cut off and back: what happened meanwhile is seen.
	f.Cut()
	eventually(t, "cut off", func() bool { return !c.Stats().Connected })
	f.Rotate(key)
	f.Heal()
	for s := receive(t, steps); s.version != 4; s = receive(t, steps) {
		if s.err == nil {
			t.Fatalf("after a cut: %+v", s)
		}
	}
	stop()
	if s, ok := <-steps; ok {
		t.Errorf("after the end: %+v", s)
	}
}

func TestWatchEnds(t *testing.T) {
	f := clienttest.Start(t)
	key := f.Login("openai.alice", time.Hour)
	c := f.Client()
	for _, err := range c.Watch(t.Context(), account.Key{}) {
		if !errors.Is(err, client.ErrBadRequest) {
			t.Errorf("without an account: %v", err)
		}
	}
	for v := range c.Watch(t.Context(), key) {
		if v == 1 {
			break
		}
	}
	steps := watch(t.Context(), t, c, key)
	receive(t, steps)
	check(t, c.Close())
	if s := receive(t, steps); !errors.Is(s.err, client.ErrClosed) {
		t.Errorf("closed: %+v", s)
	}
	if s, ok := <-steps; ok {
		t.Errorf("after the end: %+v", s)
	}
}
