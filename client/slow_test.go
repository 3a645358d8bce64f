package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/rig"
)

// Bumps that come faster than they are taken are missed, which is a cut: what
// was held is asked about.
func TestP4SlowConsumerIsACut(t *testing.T) {
	s := rig.NATS(t, func(o *server.Options) { o.DontListen = true })
	workers := rig.Connect(t, s)
	version := make(chan account.Version, 1)
	version <- 1
	_, err := workers.Subscribe("tokenbus.v1.request.>", func(m *nats.Msg) {
		v := <-version
		version <- v
		key := testKey(t, "openai.alice")
		_ = m.Respond(events.TokenReply{Key: key, Version: v, AccessToken: account.NewSecret("t"), ExpiresAt: time.Now().Add(time.Hour)}.Encode())
	})
	if err = errors.Join(err, workers.Flush()); err != nil {
		t.Fatal(err)
	}
	missed := make(chan string, 10)
	c, err := New(Config{Conn: rig.Connect(t, s), Hooks: Hooks{Missed: func(why string) { missed <- why }}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	key := testKey(t, "openai.alice")
	ask := func(want account.Version) {
		t.Helper()
		token, err := c.Token(context.Background(), key)
		if err != nil || token.Version != want {
			t.Fatalf("got %v, %v; want version %d", token, err, want)
		}
	}
	ask(1)
	ask(1)
	// The callback is held up by an account's lock, and takes no more than two.
	sub := c.ears.subs["openai"][0]
	if strings.Contains(sub.Subject, "status") {
		sub = c.ears.subs["openai"][1]
	}
	if err := sub.SetPendingLimits(2, -1); err != nil {
		t.Fatal(err)
	}
	e := c.memory.lock(testKey(t, "openai.busy"))
	for i := range 20 {
		b := events.Bump{Key: e.key, Version: account.Version(i + 1), Rev: account.Rev(i + 1), At: time.Now()}
		if err := workers.Publish(fmt.Sprintf("tokenbus.v1.bump.%s", e.key), b.Encode()); err != nil {
			t.Fatal(err)
		}
	}
	<-version
	version <- 2 // whose bump is among those that were dropped
	select {
	case <-missed:
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was noticed")
	}
	e.mu.Unlock()
	ask(2)
}
