package natskv_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/natskv"
)

func replicas(t *testing.T, js jetstream.JetStream, c natskv.Config) int {
	t.Helper()
	stream, err := js.Stream(t.Context(), "KV_"+c.Prefix+"_JOURNAL")
	must(t, err)
	return stream.CachedInfo().Config.Replicas
}

// TestReplicas: how many there are is said by the caller, or by the size of
// the cluster; and one that stands alone in a cluster is told of.
func TestReplicas(t *testing.T) {
	t.Parallel()
	const warning = "bucket has one replica in a cluster"
	open := func(t *testing.T, js jetstream.JetStream, change func(*natskv.Config)) (natskv.Config, string, error) {
		t.Helper()
		var logs syncBuffer
		c := config(js)
		c.Logger = logTo(&logs)
		change(&c)
		_, err := natskv.NewJournal(t.Context(), c)
		return c, logs.String(), err
	}
	count := func(n int) func(*natskv.Config) { return func(c *natskv.Config) { c.Replicas = n } }

	t.Run("one server", func(t *testing.T) {
		js := single(t)
		c, logs, err := open(t, js, count(0))
		must(t, err)
		if n := replicas(t, js, c); n != 1 || logs != "" {
			t.Errorf("got %d replicas and the log %q, want one and none", n, logs)
		}
		_, _, err = open(t, js, count(3))
		wantLine(t, err, "a NATS server that is not in a cluster holds one replica alone")
	})
	t.Run("two servers", func(t *testing.T) {
		js := rig.NewNATSCluster(t, 2).Connect(0)
		c, logs, err := open(t, js, count(0))
		must(t, err)
		if n := replicas(t, js, c); n != 1 || !strings.Contains(logs, warning) {
			t.Errorf("got %d replicas and the log %q, want one and a warning", n, logs)
		}
		_, logs, err = open(t, js, count(1))
		if err != nil || logs != "" {
			t.Errorf("one that was asked for: got %v and the log %q", err, logs)
		}
		_, _, err = open(t, js, count(3))
		wantLine(t, err, "the NATS cluster can't place the stream")
	})
	t.Run("three servers", func(t *testing.T) {
		cluster := rig.NewNATSCluster(t, 3, func(i int, o *server.Options) { o.Tags = []string{fmt.Sprint("n", i), "disk:ssd"} })
		js := cluster.Connect(1)
		for _, tags := range [][]string{nil, {"disk:ssd"}} {
			c, logs, err := open(t, js, func(c *natskv.Config) { c.PlacementTags = tags })
			must(t, err)
			if n := replicas(t, js, c); n != 3 || logs != "" {
				t.Errorf("tags %q: got %d replicas and the log %q, want three and none", tags, n, logs)
			}
		}
		c, _, err := open(t, js, func(c *natskv.Config) { c.Replicas, c.PlacementTags = 1, []string{"n2"} })
		must(t, err)
		if got := cluster.Leader("KV_" + c.Prefix + "_JOURNAL"); got != 2 {
			t.Errorf("a bucket for server n2 is on %d", got)
		}
		var logs syncBuffer
		c.Replicas, c.PlacementTags, c.Logger = 0, nil, logTo(&logs)
		newJournal(t, c)
		if !strings.Contains(logs.String(), warning) || !strings.Contains(logs.String(), "nats stream edit KV_"+c.Prefix+"_JOURNAL --replicas=3") {
			t.Errorf("an adopted bucket with one replica: got the log %q", logs.String())
		}
		_, _, err = open(t, js, func(c *natskv.Config) { c.PlacementTags = []string{"tape"} })
		wantLine(t, err, "placement tags", "'tape'")

		// A server that is down is not a smaller cluster: no choice for good
		// rests on that.
		cluster.Stop(0)
		eventually(t, "the others have a leader", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := js.AccountInfo(ctx)
			return err == nil
		})
		c, _, err = open(t, js, count(0))
		if err == nil {
			if n := replicas(t, js, c); n != 3 {
				t.Errorf("with one server down: got %d replicas", n)
			}
		} else {
			wantLine(t, err, "servers of the cluster are down")
		}
	})
}

// TestManyAtOnce: of many that create a bucket at once, with settings that
// differ, all use the one that came first.
func TestManyAtOnce(t *testing.T) {
	js := single(t)
	c := config(js)
	var wg sync.WaitGroup
	ttls := make(chan time.Duration, 8)
	for i := range 8 {
		wg.Go(func() {
			c := c
			c.LeaseTTL = time.Second + time.Duration(i)*time.Millisecond
			l, err := natskv.NewLeases(t.Context(), c)
			if err != nil {
				t.Error(err)
				return
			}
			ttls <- l.TTL()
		})
	}
	wg.Wait()
	close(ttls)
	first := <-ttls
	for ttl := range ttls {
		if ttl != first {
			t.Errorf("leases of one bucket have the TTLs %v and %v", first, ttl)
		}
	}
}

// answering returns a connection to a server without JetStream, where somebody
// gives these answers in its place, by subject, and how many requests were of
// other subjects.
func answering(t *testing.T, answers map[string]string) (jetstream.JetStream, *atomic.Int64) {
	t.Helper()
	js := connect(t, start(t, func(o *server.Options) { o.JetStream = false }))
	nc, others := js.Conn(), new(atomic.Int64)
	_, err := nc.Subscribe("$JS.API.>", func(m *nats.Msg) {
		for subject, answer := range answers {
			if strings.HasPrefix(m.Subject, subject) {
				_ = m.Respond([]byte(answer))
				return
			}
		}
		others.Add(1)
	})
	must(t, err)
	must(t, nc.Flush())
	return js, others
}

// TestServerTooOld: nothing is asked of a server that would ignore what it
// doesn't know.
func TestServerTooOld(t *testing.T) {
	js, others := answering(t, map[string]string{
		// As nats-server 2.10.29 answers.
		"$JS.API.INFO": `{"type":"io.nats.jetstream.api.v1.account_info_response","memory":0,"storage":0,"reserved_memory":0,"reserved_storage":0,"streams":0,"consumers":0,"limits":{"max_memory":-1,"max_storage":-1,"max_streams":-1,"max_consumers":-1,"max_ack_pending":-1,"memory_max_stream_bytes":-1,"storage_max_stream_bytes":-1,"max_bytes_required":false},"api":{"total":0,"errors":0}}`,
	})
	for name, open := range constructors {
		wantLine(t, open(t.Context(), config(js)), "bucket", name, "too old", "found JetStream API level 0", "needed 1", "nats-server 2.11 or later", "upgrade")
	}
	if n := others.Load(); n != 0 {
		t.Errorf("%d requests were made of a server that is too old", n)
	}
}

// TestPeersOffline: what can't be placed while servers are down is not made
// smaller instead.
func TestPeersOffline(t *testing.T) {
	js, others := answering(t, map[string]string{
		"$JS.API.INFO":          `{"type":"io.nats.jetstream.api.v1.account_info_response","api":{"level":1}}`,
		"$JS.API.STREAM.INFO":   `{"type":"io.nats.jetstream.api.v1.stream_info_response","error":{"code":404,"err_code":10059,"description":"stream not found"}}`,
		"$JS.API.STREAM.CREATE": `{"type":"io.nats.jetstream.api.v1.stream_create_response","error":{"code":400,"err_code":10005,"description":"no suitable peers for placement, peer offline"}}`,
	})
	_, err := natskv.NewJournal(t.Context(), config(js))
	wantLine(t, err, "three replicas can't be placed while servers of the cluster are down; start them, or ask for fewer replicas")
	if n := others.Load(); n != 0 {
		t.Errorf("%d unexpected requests", n)
	}
}

func TestJetStreamIsOff(t *testing.T) {
	t.Run("server", func(t *testing.T) {
		js := connect(t, start(t, func(o *server.Options) { o.JetStream = false }))
		for _, open := range constructors {
			wantLine(t, open(t.Context(), config(js)), "open bucket", "JetStream is not enabled on the NATS server: start nats-server with -js")
		}
	})
	t.Run("account", func(t *testing.T) {
		s := start(t, func(o *server.Options) {
			with, without := server.NewAccount("WITH"), server.NewAccount("WITHOUT")
			o.Accounts = []*server.Account{with, without}
			o.Users = []*server.User{{Username: "u", Password: "p", Account: without}}
		})
		nc, err := nats.Connect("", nats.InProcessServer(s), nats.UserInfo("u", "p"))
		must(t, err)
		closed := make(chan struct{})
		nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
		t.Cleanup(func() { nc.Close(); <-closed })
		js, err := jetstream.New(nc)
		must(t, err)
		for _, open := range constructors {
			wantLine(t, open(t.Context(), config(js)), "open bucket", "JetStream is not enabled for our NATS account: give the account JetStream limits")
		}
	})
}

// TestNoQuorum: what is left of a cluster that has lost its majority says so.
func TestNoQuorum(t *testing.T) {
	t.Parallel()
	cluster := rig.NewNATSCluster(t, 3)
	js := cluster.Connect(0)
	c := config(js)
	c.Timeout = time.Second
	j := newJournal(t, c)
	cluster.Stop(1)
	cluster.Stop(2)
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	eventually(t, "a new bucket is refused for want of a leader", func() bool {
		_, err := natskv.NewJournal(t.Context(), config(js))
		return strings.Contains(text(err), "JetStream has no leader: too few servers of the cluster are up")
	})
	eventually(t, "the bucket says that nobody answers", func() bool {
		_, err := j.Records(t.Context(), mustKey("openai.a"))
		return strings.Contains(text(err), "no server answers for stream KV_"+c.Prefix+"_JOURNAL: too few of those that hold it are up")
	})
}
