package client

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/rig"
)

// benchFleet is how many accounts the stream has.
const benchFleet = 20_000

// BenchmarkCatchUp is what a client does when it is connected again: it holds the
// accounts that it has used against the last bumps of the fleet.
func BenchmarkCatchUp(b *testing.B) {
	s := rig.NATS(b, func(o *server.Options) { o.SyncInterval = time.Minute })
	nc := rig.Connect(b, s)
	fill(b, nc, benchFleet)
	startWorker(b, nc)
	for _, held := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprint(held), func(b *testing.B) {
			c := behind(b, s, held)
			for b.Loop() {
				c.epoch.Add(1)
				before := c.counts.caughtUp.Load()
				if err := c.catchUp(b.Context()); err != nil || c.counts.caughtUp.Load()-before != int64(held) {
					b.Fatalf("%d accounts, %v", c.counts.caughtUp.Load()-before, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(held), "ns/account")
		})
	}
}

// idle is the part of a worker that catching up does not need.
type idle struct {
	bus.Tokens
	bus.Accounts
	bus.Observer
}

func (idle) ObserveBump(events.Bump) {}
func (idle) Resync()                 {}

// startWorker starts a worker.
func startWorker(b *testing.B, nc *nats.Conn) {
	subjects, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		b.Fatal(err)
	}
	w, err := bus.StartWorker(b.Context(), bus.WorkerConfig{Conn: nc, Subjects: subjects, Tokens: idle{}, Accounts: idle{}, Observer: idle{}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(w.Close)
}

func benchKey(b *testing.B, i int) account.Key { return testKey(b, fmt.Sprintf("openai.user-%08d", i)) }

// fill makes the bump stream with the last bumps of n accounts.
func fill(b *testing.B, nc *nats.Conn, n int) {
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	stream, err := js.CreateStream(b.Context(), jetstream.StreamConfig{Name: events.StreamBumps, Subjects: []string{"tokenbus.v1.bump.>"}, MaxMsgsPerSubject: 1, AllowDirect: true})
	if err != nil {
		b.Fatal(err)
	}
	for i := range n {
		key := benchKey(b, i*7919%n) // not in order
		e := events.Bump{Key: key, Version: 7, Rev: 5, At: time.Now()}
		if err := nc.PublishMsg(&nats.Msg{Subject: "tokenbus.v1.bump." + key.String(), Header: e.Header("host-1-ab"), Data: e.Encode()}); err != nil {
			b.Fatal(err)
		}
		if i%2000 == 1999 || i == n-1 { // as fast as the stream takes them
			for {
				info, err := stream.Info(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				if info.State.LastSeq == uint64(i+1) {
					break
				}
			}
		}
	}
}

// behind returns a client that holds so many accounts and has heard their last
// bumps.
func behind(b *testing.B, s *server.Server, held int) *Client {
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	c, err := New(Config{Conn: nc})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	for i := range held {
		e := c.memory.lock(benchKey(b, i*13%benchFleet))
		now := c.situation()
		reply := events.TokenReply{Key: e.key, Version: 7, AccessToken: account.NewSecret("t"), ExpiresAt: now.now.Add(24 * time.Hour)}
		if _, result := e.take(e.question(want{}, now), reply, now, false); result != given {
			b.Fatal("not taken")
		}
		e.heard = 5
		e.touch()
		c.memory.keep(e)
		e.mu.Unlock()
	}
	return c
}
