package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
)

// rigged is a worker on a server, with a gateway's and an operator's connection.
type rigged struct {
	server           *bus.Server
	worker           *bus.Worker
	fleet            *fleet
	conn             *nats.Conn
	client, operator *nats.Conn
}

func rig(t testing.TB, change ...func(*bus.WorkerConfig)) rigged {
	t.Helper()
	r := rigged{server: startServer(t), fleet: newFleet()}
	r.conn = as(t, r.server, bus.RoleWorker)
	streams(t, r.conn)
	r.client, r.operator = as(t, r.server, bus.RoleClient), as(t, r.server, bus.RoleOperator)
	r.worker = startWorker(t, r.conn, r.fleet, change...)
	return r
}

func (r rigged) ask(t testing.TB, account, body string) *nats.Msg {
	t.Helper()
	m, err := r.client.Request("tokenbus.v1.request."+account, []byte(body), patience)
	check(t, err)
	return m
}

// errorOf returns the error of a reply after checking its headers.
func errorOf(t testing.TB, m *nats.Msg) *events.Error {
	t.Helper()
	var body struct{ Error *events.Error }
	if err := json.Unmarshal(m.Data, &body); err != nil || body.Error == nil {
		t.Fatalf("reply is no error: %q", m.Data)
	}
	for name, want := range body.Error.Header() {
		if got := m.Header.Get(name); got != want[0] {
			t.Errorf("header %s is %q, want %q", name, got, want[0])
		}
	}
	return body.Error
}

func reply(k account.Key, v account.Version) events.TokenReply {
	return events.TokenReply{Key: k, Version: v, AccessToken: account.NewSecret("token"), TokenType: "Bearer", Source: events.SourceStore}
}

func TestRequestIsAnsweredFromMemory(t *testing.T) {
	r := rig(t)
	k := key(t, "openai.a")
	r.fleet.cached = func(got account.Key, req events.TokenRequest) ([]byte, bool) {
		if got != k || req.Timeout != events.DefaultTimeout {
			t.Errorf("asked for %s with %+v", got, req)
		}
		return reply(k, 3).Encode(), true
	}
	r.fleet.token = func(context.Context, account.Key, events.TokenRequest) (events.TokenReply, error) {
		t.Error("asked although it is cached")
		return events.TokenReply{}, nil
	}
	got, err := events.DecodeTokenReply(k, r.ask(t, "openai.a", "").Data)
	check(t, err)
	if got.Version != 3 || got.AccessToken.Reveal() != "token" {
		t.Errorf("reply is %+v", got)
	}
}

func TestRequestWaitsForAToken(t *testing.T) {
	r := rig(t)
	k := key(t, "openai.a")
	r.fleet.token = func(ctx context.Context, got account.Key, req events.TokenRequest) (events.TokenReply, error) {
		deadline, ok := ctx.Deadline()
		if left := time.Until(deadline); !ok || left > 2*time.Second || left < time.Second {
			t.Errorf("%s are left", left)
		}
		if got != k || req.MinVersion != 7 || req.MinTTL != time.Minute {
			t.Errorf("asked for %s with %+v", got, req)
		}
		return reply(k, 7), nil
	}
	got, err := events.DecodeTokenReply(k, r.ask(t, "openai.a", `{"min_version":7,"min_ttl":"1m","timeout":"2s","news":1}`).Data)
	check(t, err)
	if got.Version != 7 {
		t.Errorf("reply is %+v", got)
	}
}

func TestP10BadRequests(t *testing.T) {
	r := rig(t)
	r.fleet.token = func(context.Context, account.Key, events.TokenRequest) (events.TokenReply, error) {
		t.Error("a bad request got through")
		return events.TokenReply{}, nil
	}
	tests := []struct{ name, account, body string }{
		{"no id", "openai", ""},
		{"three tokens", "openai.a.b", ""},
		{"platform in capitals", "OpenAI.a", ""},
		{"strange id", "openai.a+b", ""},
		{"long id", "openai." + strings.Repeat("a", 129), ""},
		{"no JSON", "openai.a", "{"},
		{"no object", "openai.a", "[]"},
		{"wrong type", "openai.a", `{"min_version":"3"}`},
		{"negative version", "openai.a", `{"min_version":-1}`},
		{"negative duration", "openai.a", `{"min_ttl":"-1s"}`},
		{"no duration", "openai.a", `{"timeout":"soon"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if e := errorOf(t, r.ask(t, tt.account, tt.body)); e.Code != events.CodeBadRequest || e.Message == "" {
				t.Errorf("error is %v", e)
			}
		})
	}
}

func TestErrorReplies(t *testing.T) {
	var log logs
	r := rig(t, func(c *bus.WorkerConfig) { c.Logger = log.logger() })
	tests := []struct {
		name string
		err  error
		want events.Error
	}{
		{"not found", &events.Error{Code: events.CodeNotFound, Message: "no"}, events.Error{Code: events.CodeNotFound, Message: "no"}},
		{"cooling down", &events.Error{Code: events.CodeCoolingDown, Message: "wait", RetryAfter: 7 * time.Second}, events.Error{Code: events.CodeCoolingDown, Message: "wait", RetryAfter: 7 * time.Second}},
		{"retry after is never missing", &events.Error{Code: events.CodeUnavailable, Message: "down"}, events.Error{Code: events.CodeUnavailable, Message: "down", RetryAfter: time.Second}},
		{"lines in a message", &events.Error{Code: events.CodeNotFound, Message: "a b"}, events.Error{Code: events.CodeNotFound, Message: "a b"}},
		{"error without a code", errors.New("innards"), events.Error{Code: events.CodeUnavailable, Message: "the worker failed; its log says why", RetryAfter: time.Second}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r.fleet.token = func(context.Context, account.Key, events.TokenRequest) (events.TokenReply, error) {
				return events.TokenReply{}, tt.err
			}
			if e := errorOf(t, r.ask(t, "openai.a", "")); *e != tt.want {
				t.Errorf("error is %+v, want %+v", *e, tt.want)
			}
		})
	}
	if !strings.Contains(log.String(), "innards") {
		t.Error("the error without a code is not in the log")
	}
}

// TestReplySubjectsThatMeanSomething makes sure that nobody can have a worker
// publish with its own permissions into a stream or the JetStream API.
func TestReplySubjectsThatMeanSomething(t *testing.T) {
	r := rig(t)
	asked := make(chan string, 10)
	r.fleet.cached = func(k account.Key, _ events.TokenRequest) ([]byte, bool) {
		asked <- k.String()
		return []byte("secret"), true
	}
	heard := make(chan *nats.Msg, 10)
	for _, subject := range []string{"tokenbus.v1.bump.>", "tokenbus.v1.status.>", "$SRV.PING.x"} {
		_, err := r.conn.ChanSubscribe(subject, heard)
		check(t, err)
	}
	check(t, r.conn.Flush())
	for _, to := range []string{"tokenbus.v1.bump.openai.a", "tokenbus.v1.status.openai.a", "$JS.API.STREAM.PURGE.TOKENBUS_BUMPS", "$KV.bucket.key", "$SRV.PING.x"} {
		check(t, r.client.PublishRequest("tokenbus.v1.request.openai.a", to, nil))
		check(t, r.operator.PublishRequest("tokenbus.v1.admin.accounts.get", to, nil))
		check(t, r.operator.PublishRequest("$SRV.PING", to, nil))
	}
	check(t, r.client.Publish("tokenbus.v1.request.openai.a", nil)) // no reply subject at all
	check(t, r.client.Flush())
	check(t, r.operator.Flush())
	r.ask(t, "openai.last", "") // by now the others were handled
	if k := receive(t, asked, "request"); k != "openai.last" || len(asked) > 0 {
		t.Errorf("%s was asked for", k)
	}
	check(t, r.conn.Flush())
	if len(heard) > 0 {
		m := <-heard
		t.Errorf("the worker published %q to %s", m.Data, m.Subject)
	}
}

func TestTooManyRequestsAtOnce(t *testing.T) {
	r := rig(t, func(c *bus.WorkerConfig) { c.MaxInFlight = 2 })
	begun, release := make(chan struct{}), make(chan struct{})
	r.fleet.token = func(_ context.Context, k account.Key, _ events.TokenRequest) (events.TokenReply, error) {
		begun <- struct{}{}
		<-release
		return reply(k, 1), nil
	}
	inbox := r.client.NewInbox()
	answers, err := r.client.SubscribeSync(inbox)
	check(t, err)
	for range 2 {
		check(t, r.client.PublishRequest("tokenbus.v1.request.openai.a", inbox, nil))
		receive(t, begun, "request")
	}
	if e := errorOf(t, r.ask(t, "openai.a", "")); e.Code != events.CodeUnavailable || e.RetryAfter <= 0 {
		t.Errorf("error is %+v", e)
	}
	if n := r.worker.Refused(); n != 1 {
		t.Errorf("%d requests count as refused, want 1", n)
	}
	close(release)
	for range 2 {
		m, err := answers.NextMsg(patience)
		check(t, err)
		if _, err := events.DecodeTokenReply(key(t, "openai.a"), m.Data); err != nil {
			t.Error(err)
		}
	}
}

func TestRequestsAreSharedByWorkers(t *testing.T) {
	r := rig(t)
	second := newFleet()
	startWorker(t, as(t, r.server, bus.RoleWorker), second)
	var mu sync.Mutex
	answered := map[*fleet]int{}
	for _, f := range []*fleet{r.fleet, second} {
		f.cached = func(k account.Key, _ events.TokenRequest) ([]byte, bool) {
			mu.Lock()
			defer mu.Unlock()
			answered[f]++
			return reply(k, 1).Encode(), true
		}
	}
	for range 100 {
		r.ask(t, "openai.a", "")
	}
	mu.Lock()
	defer mu.Unlock()
	if answered[r.fleet]+answered[second] != 100 || answered[second] == 0 || answered[r.fleet] == 0 {
		t.Errorf("workers answered %d and %d of 100", answered[r.fleet], answered[second])
	}
}

func TestDrainAnswersWhatWasTaken(t *testing.T) {
	r := rig(t)
	begun, release := make(chan struct{}, 1), make(chan struct{})
	r.fleet.token = func(_ context.Context, k account.Key, _ events.TokenRequest) (events.TokenReply, error) {
		begun <- struct{}{}
		<-release
		return reply(k, 1), nil
	}
	inbox := r.client.NewInbox()
	answers, err := r.client.SubscribeSync(inbox)
	check(t, err)
	check(t, r.client.PublishRequest("tokenbus.v1.request.openai.a", inbox, nil))
	receive(t, begun, "request")
	drained := make(chan error, 1)
	go func() { drained <- r.worker.Drain(t.Context()) }()
	// Once the queue group is left, there is nobody to ask.
	for {
		_, err := r.client.Request("tokenbus.v1.request.bad", nil, patience)
		if errors.Is(err, nats.ErrNoResponders) {
			break
		}
		check(t, err)
	}
	select {
	case err := <-drained:
		t.Fatalf("drained before the request was answered: %v", err)
	default:
	}
	// Bumps are heard on.
	check(t, r.conn.Publish("tokenbus.v1.bump.openai.a", bump(t, 5).Encode()))
	receive(t, r.fleet.bumps, "bump while draining")
	close(release)
	check(t, receive(t, drained, "end of drain"))
	m, err := answers.NextMsg(patience)
	check(t, err)
	if _, err := events.DecodeTokenReply(key(t, "openai.a"), m.Data); err != nil {
		t.Error(err)
	}
	r.worker.Close()
	r.worker.Close()
	check(t, r.worker.Drain(t.Context()))
}

// TestDrainAnswersWhatIsQueued: requests that the server handed to us belong
// to us, also those that no handler has seen yet.
func TestDrainAnswersWhatIsQueued(t *testing.T) {
	r := rig(t)
	const n = 50
	begun, release := make(chan struct{}, n), make(chan struct{})
	r.fleet.cached = func(k account.Key, _ events.TokenRequest) ([]byte, bool) {
		begun <- struct{}{}
		<-release
		return reply(k, 1).Encode(), true
	}
	inbox := r.client.NewInbox()
	answers, err := r.client.SubscribeSync(inbox)
	check(t, err)
	for range n {
		check(t, r.client.PublishRequest("tokenbus.v1.request.openai.a", inbox, nil))
	}
	check(t, r.client.Flush())
	receive(t, begun, "first request")
	check(t, r.conn.Flush()) // all were handed over
	drained := make(chan error, 1)
	go func() { drained <- r.worker.Drain(t.Context()) }()
	for { // until the queue group is left
		_, err := r.client.Request("tokenbus.v1.request.openai.a", nil, 50*time.Millisecond)
		if errors.Is(err, nats.ErrNoResponders) {
			break
		}
	}
	close(release)
	check(t, receive(t, drained, "end of drain"))
	for i := range n {
		if _, err := answers.NextMsg(patience); err != nil {
			t.Fatalf("answer %d of %d: %v", i, n, err)
		}
	}
}

func TestDrainCutsShortWhenItsTimeIsUp(t *testing.T) {
	r := rig(t)
	begun := make(chan struct{}, 1)
	r.fleet.token = func(ctx context.Context, _ account.Key, _ events.TokenRequest) (events.TokenReply, error) {
		begun <- struct{}{}
		<-ctx.Done()
		return events.TokenReply{}, &events.Error{Code: events.CodeTimeout, Message: "cut short"}
	}
	inbox := r.client.NewInbox()
	answers, err := r.client.SubscribeSync(inbox)
	check(t, err)
	check(t, r.client.PublishRequest("tokenbus.v1.request.openai.a", inbox, nil))
	receive(t, begun, "request")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = r.worker.Drain(ctx)
	if err == nil || !strings.Contains(err.Error(), "1 request") {
		t.Errorf("error is %v", err)
	}
	m, err := answers.NextMsg(patience)
	check(t, err)
	if e := errorOf(t, m); e.Code != events.CodeTimeout {
		t.Errorf("error is %v", e)
	}
}

func TestDiscovery(t *testing.T) {
	r := rig(t)
	r.fleet.token = func(_ context.Context, k account.Key, _ events.TokenRequest) (events.TokenReply, error) {
		return reply(k, 1), nil
	}
	r.ask(t, "openai.a", "")
	r.ask(t, "bad", "")
	get := func(subject string, into any) {
		t.Helper()
		m, err := r.operator.Request(subject, nil, patience)
		check(t, err)
		check(t, json.Unmarshal(m.Data, into))
	}
	var ping micro.Ping
	get("$SRV.PING.tokenbus", &ping)
	if ping.Name != "tokenbus" || ping.Type != micro.PingResponseType || ping.Version != "1.2.3" || ping.Metadata["worker"] != "worker-1" {
		t.Errorf("ping is %+v", ping)
	}
	var stats micro.Stats
	get("$SRV.STATS.tokenbus."+ping.ID, &stats)
	if len(stats.Endpoints) != 2 || stats.Endpoints[1].Name != "catchup" || stats.Endpoints[0].NumRequests != 2 || stats.Endpoints[0].NumErrors != 1 ||
		stats.Endpoints[0].ProcessingTime <= 0 || !strings.Contains(stats.Endpoints[0].LastError, "bad_request") {
		t.Errorf("stats are %+v", stats)
	}
	var info micro.Info
	get("$SRV.INFO.tokenbus-admin", &info)
	found := map[string]string{}
	for _, e := range info.Endpoints {
		found[e.Subject] = e.QueueGroup
	}
	for _, verb := range []string{"put", "patch", "get", "list", "delete", "enable", "disable", "refresh", "clear_error"} {
		if found["tokenbus.v1.admin.accounts."+verb] == "" {
			t.Errorf("verb %s is missing in %v", verb, found)
		}
	}
	if found["tokenbus.v1.admin.journal.list"] == "" {
		t.Errorf("verb journal.list is missing in %v", found)
	}
	if info.Name != "tokenbus-admin" || len(info.Endpoints) != 10 || info.Description == "" {
		t.Errorf("info is %+v", info)
	}
	inbox := r.operator.NewInbox()
	all, err := r.operator.SubscribeSync(inbox)
	check(t, err)
	check(t, r.operator.PublishRequest("$SRV.PING", inbox, nil))
	names := map[string]bool{}
	for range 2 {
		m, err := all.NextMsg(patience)
		check(t, err)
		var p micro.Ping
		check(t, json.Unmarshal(m.Data, &p))
		names[p.Name] = true
	}
	if !names["tokenbus"] || !names["tokenbus-admin"] {
		t.Errorf("found %v", names)
	}
}

func TestStartWorkerNamesWhatIsMissing(t *testing.T) {
	if _, err := bus.StartWorker(t.Context(), bus.WorkerConfig{}); err == nil {
		t.Error("a worker without anything starts")
	}
}
