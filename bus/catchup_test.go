package bus_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
	testrig "github.com/tokenbus/tokenbus/internal/rig"
)

func catchUp(t testing.TB, nc *nats.Conn, platform string, ids ...string) events.CatchUpReply {
	t.Helper()
	m, err := nc.Request("tokenbus.v1.catchup."+platform, events.CatchUpRequest{IDs: ids}.Encode(), patience)
	check(t, err)
	r, err := events.DecodeCatchUpReply(m.Data)
	check(t, err)
	return r
}

// Clients and operators learn of the last bumps with no more than their role.
func TestCatchUp(t *testing.T) {
	r := rig(t)
	p := publisher(t, r.conn)
	for i, k := range []string{"openai.a", "gemini.b", "openai.a"} {
		check(t, p.Bump(t.Context(), events.Bump{Key: key(t, k), Version: 1, Rev: account.Rev(i + 1), At: time.Now()}))
	}
	// What can't be read, and what is another account's, is left out.
	for subject, body := range map[string]string{"bad": "no JSON", "other": `{"platform":"openai","id":"a","version":9,"rev":9,"at":"2026-03-01T12:00:00Z"}`} {
		_, err := stream(t, r.conn).Publish(t.Context(), "tokenbus.v1.bump.openai."+subject, []byte(body))
		check(t, err)
	}
	for _, nc := range []*nats.Conn{r.client, r.operator} {
		got := catchUp(t, nc, "openai", "a", "b", "bad", "other")
		if len(got.Bumps) != 1 || got.Bumps[0].Key != key(t, "openai.a") || got.Bumps[0].Rev != 3 {
			t.Errorf("openai: %+v", got)
		}
		if got := catchUp(t, nc, "gemini", "a"); len(got.Bumps) != 0 {
			t.Errorf("gemini: %+v", got)
		}
		if got := catchUp(t, nc, "openai"); len(got.Bumps) != 0 {
			t.Errorf("of no account: %+v", got)
		}
	}
}

// As many accounts as a request may name, with the longest names, make a reply
// that fits.
func TestCatchUpOfMany(t *testing.T) {
	s := startServer(t)
	worker := as(t, s, bus.RoleWorker)
	js := streams(t, worker)
	platform := strings.Repeat("p", 64)
	var ids []string
	for i := range events.MaxCatchUpRequest/131 - 1 {
		ids = append(ids, fmt.Sprintf("%0128d", i))
	}
	for _, id := range ids {
		k := key(t, platform+"."+id)
		b := events.Bump{Key: k, Version: 1 << 60, Rev: 1 << 60, At: time.Now()}
		_, err := js.PublishAsync("tokenbus.v1.bump."+k.String(), b.Encode())
		check(t, err)
	}
	receive(t, js.PublishAsyncComplete(), "the stream has them")
	startWorker(t, worker, newFleet())
	if got := catchUp(t, as(t, s, bus.RoleClient), platform, ids...); len(got.Bumps) != len(ids) {
		t.Errorf("%d of %d", len(got.Bumps), len(ids))
	}
}

func TestP10BadCatchUpRequests(t *testing.T) {
	r := rig(t)
	many, _ := json.Marshal(make([]string, events.MaxCatchUp+1))
	for name, tt := range map[string]struct{ platform, body string }{
		"no JSON":        {"openai", "{"},
		"wrong type":     {"openai", `{"ids":"a"}`},
		"no id":          {"openai", `{"ids":["*"]}`},
		"a wildcard":     {"openai", `{"ids":["a.>"]}`},
		"strange name":   {"Open+AI", `{"ids":["a"]}`},
		"too many":       {"openai", `{"ids":` + string(many) + `}`},
		"too long":       {"openai", `{"ids":["` + strings.Repeat("a", events.MaxCatchUpRequest) + `"]}`},
		"null, and more": {"openai", `{"ids":[null]}`},
	} {
		m, err := r.client.Request("tokenbus.v1.catchup."+tt.platform, []byte(tt.body), patience)
		check(t, err)
		if e := errorOf(t, m); e.Code != events.CodeBadRequest || e.Message == "" || len(e.Message) > 500 {
			t.Errorf("%s: error is %v", name, e)
		}
	}
}

func TestCatchUpWithoutAStream(t *testing.T) {
	r := rig(t)
	check(t, stream(t, r.conn).DeleteStream(t.Context(), events.StreamBumps))
	m, err := r.client.Request("tokenbus.v1.catchup.openai", []byte(`{"ids":["a"]}`), patience)
	check(t, err)
	if e := errorOf(t, m); e.Code != events.CodeUnavailable || e.RetryAfter <= 0 || !strings.Contains(e.Message, "the last bumps can't be read") {
		t.Errorf("error is %v", e)
	}
}

// With a stream that doesn't answer and clients that ask all the time, requests
// for tokens are answered, and the surplus is told to come back.
func TestP10CatchUpsAreBounded(t *testing.T) {
	s := testrig.NATS(t, func(o *server.Options) { o.JetStream = false })
	nc, client := testrig.Connect(t, s), testrig.Connect(t, s)
	reads := make(chan *nats.Msg, 1000)
	_, err := testrig.Connect(t, s).ChanSubscribe("$JS.API.DIRECT.GET.TOKENBUS_BUMPS", reads)
	check(t, err)
	check(t, nc.Flush())
	f := newFleet()
	f.token = func(_ context.Context, k account.Key, _ events.TokenRequest) (events.TokenReply, error) {
		return reply(k, 1), nil
	}
	startWorker(t, nc, f, func(c *bus.WorkerConfig) { c.MaxInFlight = 40 })

	answers, err := client.SubscribeSync(client.NewInbox())
	check(t, err)
	const asked, mayWait = 1000, 10
	for range asked {
		check(t, client.PublishRequest("tokenbus.v1.catchup.openai", answers.Subject, []byte(`{"ids":["a"]}`)))
	}
	first := receive(t, reads, "a read")
	if n := s.NumClients(); n != 4 { // the three above, and the worker's second
		t.Errorf("%d connections: the stream is read on the one on which requests are answered", n)
	}
	for range asked - mayWait {
		m, err := answers.NextMsg(patience)
		check(t, err)
		if e := errorOf(t, m); e.Code != events.CodeUnavailable || e.RetryAfter <= 0 {
			t.Fatalf("error is %v", e)
		}
	}
	m, err := client.Request("tokenbus.v1.request.openai.a", nil, patience)
	check(t, err)
	if _, err := events.DecodeTokenReply(key(t, "openai.a"), m.Data); err != nil {
		t.Error(err)
	}
	second := receive(t, reads, "another read")
	if len(reads) > 0 {
		t.Errorf("%d reads at once", 2+len(reads))
	}
	end := func(m *nats.Msg) {
		check(t, m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"404"}}}))
	}
	end(first)
	end(second)
	for n := range mayWait {
		m, err := answers.NextMsg(patience)
		check(t, err)
		if r, err := events.DecodeCatchUpReply(m.Data); err != nil || len(r.Bumps) > 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		if n < mayWait-2 {
			end(receive(t, reads, "the next read"))
		}
	}
}
