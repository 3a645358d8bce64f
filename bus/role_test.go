package bus_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
)

// violations returns the permission violations of a connection as they come.
func violations(c *bus.Config) <-chan string {
	ch := make(chan string, 100)
	c.Logger = violationLogger(ch)
	return ch
}

// TestRolePermissions tries what each role may and must not.
func TestRolePermissions(t *testing.T) {
	s := startServer(t)
	streams(t, as(t, s, bus.RoleWorker))
	type permission struct{ publish, subscribe []string }
	const key = "openai.a"
	tests := []struct {
		role        bus.Role
		may, mayNot permission
	}{{
		role: bus.RoleWorker,
		may: permission{
			publish:   []string{"tokenbus.v1.request." + key, "tokenbus.v1.bump." + key, "tokenbus.v1.status." + key, "tokenbus.v1.refreshed." + key, "_INBOX_client.x", "_INBOX_operator.x", "_INBOX_worker.x", "$KV.bucket.key", "$JS.API.INFO", "$JS.ACK.x", "$SRV.PING"},
			subscribe: []string{"tokenbus.v1.request.>", "tokenbus.v1.admin.>", "tokenbus.v1.bump.>", "$SRV.PING.tokenbus", "_INBOX_worker.x"},
		},
		mayNot: permission{
			publish:   []string{"other", "tokenbus.v2.request." + key, "$SYS.REQ.SERVER.PING", "_INBOX.x"},
			subscribe: []string{">", "other", "_INBOX.>", "_INBOX_client.>", "_INBOX_operator.>", "$JS.API.>", "$KV.>", "$SYS.>"},
		},
	}, {
		role: bus.RoleOperator,
		may: permission{
			publish:   []string{"tokenbus.v1.admin.accounts.put", "tokenbus.v1.admin.accounts.list", "tokenbus.v1.catchup.openai", "$SRV.PING", "$SRV.INFO.tokenbus-admin", "$SRV.STATS.tokenbus"},
			subscribe: []string{"tokenbus.v1.refreshed.>", "tokenbus.v1.status.>", "tokenbus.v1.bump.>", "_INBOX_operator.x"},
		},
		mayNot: permission{
			publish:   []string{"tokenbus.v1.request." + key, "tokenbus.v1.bump." + key, "tokenbus.v1.status." + key, "tokenbus.v1.refreshed." + key, "$JS.API.INFO", "$JS.API.STREAM.INFO.TOKENBUS_BUMPS", "$JS.API.STREAM.INFO.TOKENBUS_EVENTS", "$JS.API.STREAM.DELETE.TOKENBUS_EVENTS", "$JS.API.DIRECT.GET.TOKENBUS_BUMPS", "$JS.API.DIRECT.GET.TOKENBUS_BUMPS.tokenbus.v1.bump." + key, "$JS.API.CONSUMER.CREATE.TOKENBUS_EVENTS", "$JS.API.DIRECT.GET.KV_x.$KV.x.y", "$JS.API.STREAM.MSG.GET.KV_x", "$KV.bucket.key", "_INBOX_client.x", "_INBOX_worker.x", "other"},
			subscribe: []string{">", "tokenbus.>", "tokenbus.v1.request.>", "tokenbus.v1.admin.>", "_INBOX_client.>", "_INBOX_worker.>", "_INBOX.>", "*.v1.request.>", "$SRV.>", "$KV.>", "$JS.>", "$SYS.>"},
		},
	}, {
		role: bus.RoleClient,
		may: permission{
			publish:   []string{"tokenbus.v1.request." + key, "tokenbus.v1.catchup.openai"},
			subscribe: []string{"tokenbus.v1.status.>", "tokenbus.v1.bump.>", "_INBOX_client.x"},
		},
		mayNot: permission{
			publish:   []string{"tokenbus.v1.admin.accounts.list", "tokenbus.v1.admin.accounts.put", "tokenbus.v1.bump." + key, "tokenbus.v1.refreshed." + key, "tokenbus.v1.status." + key, "$SRV.PING", "$SRV.INFO.tokenbus", "$JS.API.INFO", "$JS.API.STREAM.INFO.TOKENBUS_BUMPS", "$JS.API.STREAM.INFO.TOKENBUS_EVENTS", "$JS.API.DIRECT.GET.TOKENBUS_BUMPS", "$JS.API.DIRECT.GET.TOKENBUS_BUMPS.tokenbus.v1.bump." + key, "$JS.API.STREAM.MSG.GET.TOKENBUS_BUMPS", "$JS.API.STREAM.PURGE.TOKENBUS_BUMPS", "$JS.API.CONSUMER.CREATE.TOKENBUS_BUMPS", "$JS.API.DIRECT.GET.TOKENBUS_EVENTS", "$JS.API.DIRECT.GET.KV_x.$KV.x.y", "$KV.bucket.key", "$JS.ACK.x", "_INBOX_client.x", "_INBOX_worker.x", "other"},
			subscribe: []string{">", "tokenbus.>", "tokenbus.v1.request.>", "tokenbus.v1.request." + key, "tokenbus.v1.refreshed.>", "tokenbus.v1.admin.>", "_INBOX_operator.>", "_INBOX_worker.>", "_INBOX.>", "*.>", "$SRV.>", "$KV.>", "$JS.>", "$SYS.>"},
		},
	}}
	for _, tt := range tests {
		t.Run(string(tt.role), func(t *testing.T) {
			var refusals <-chan string
			nc := as(t, s, tt.role, func(c *bus.Config) { refusals = violations(c) })
			publish := func(subject string) { check(t, nc.Publish(subject, nil)) }
			subscribe := func(subject string) {
				for _, queue := range []string{"", "tokenbus"} {
					sub, err := nc.QueueSubscribe(subject, queue, func(*nats.Msg) {})
					check(t, err)
					check(t, sub.Unsubscribe())
				}
			}
			for _, subject := range tt.may.publish {
				publish(subject)
			}
			for _, subject := range tt.may.subscribe {
				subscribe(subject)
			}
			check(t, nc.Flush())
			select {
			case v := <-refusals:
				t.Errorf("refused, though allowed: %s", v)
			default:
			}
			for _, subject := range tt.mayNot.publish {
				publish(subject)
				if v := receive(t, refusals, "publish to "+subject); !strings.Contains(strings.ToLower(v), "publish to \""+strings.ToLower(subject)+"\"") {
					t.Errorf("publish to %s: %s", subject, v)
				}
			}
			for _, subject := range tt.mayNot.subscribe {
				subscribe(subject)
				for range 2 {
					if v := receive(t, refusals, "subscribe to "+subject); !strings.Contains(v, "\""+subject+"\"") {
						t.Errorf("subscribe to %s: %s", subject, v)
					}
				}
			}
		})
	}
}

// TestP10ReplySubjectsReachNoStream names, as the reply subject of everything
// that a client or an operator may publish to, or might before, what deletes a
// stream or overwrites a document: whoever answers has rights that the asker
// lacks.
func TestP10ReplySubjectsReachNoStream(t *testing.T) {
	s := startServer(t)
	worker := as(t, s, bus.RoleWorker)
	js := streams(t, worker)
	startWorker(t, as(t, s, bus.RoleWorker), newFleet())
	check(t, publisher(t, worker).Bump(t.Context(), events.Bump{Key: key(t, "openai.a"), Version: 1, Rev: 1, At: time.Now()}))
	store := func(name string) jetstream.KeyValue {
		kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: name})
		check(t, err)
		_, err = kv.PutString(t.Context(), "openai.a", "document")
		check(t, err)
		return kv
	}
	accounts := store("ACCOUNTS")
	store("OTHER")

	const last = "$JS.API.DIRECT.GET.TOKENBUS_BUMPS"
	questions := map[string][]string{ // and bodies
		"tokenbus.v1.request.openai.a":              {"", `{"min_version":1}`, "no JSON"},
		"tokenbus.v1.catchup.openai":                {"", `{"ids":["a"]}`, `{"ids":["nobody"]}`, "no JSON"},
		"tokenbus.v1.admin.accounts.get":            {"", `{"platform":"openai","id":"a"}`},
		"tokenbus.v1.admin.journal.list":            {""},
		"tokenbus.v1.refreshed.openai.a":            {"", "{}"},
		"tokenbus.v1.bump.openai.a":                 {"", "{}"},
		"tokenbus.v1.status.openai.a":               {"", "{}"},
		"$SRV.PING":                                 {""},
		"$SRV.INFO.tokenbus":                        {""},
		"$SRV.STATS.tokenbus-admin":                 {""},
		last:                                        {"", `{"multi_last":["tokenbus.v1.bump.openai.a"]}`, `{"multi_last":["tokenbus.v1.bump.no.body"]}`},
		last + ".tokenbus.v1.bump.openai.a":         {""},
		last + ".tokenbus.v1.bump.openai.nobody":    {""},
		"$JS.API.STREAM.INFO.TOKENBUS_BUMPS":        {""},
		"$JS.API.STREAM.MSG.GET.TOKENBUS_BUMPS":     {`{"last_by_subj":"tokenbus.v1.bump.openai.a"}`},
		"$JS.API.STREAM.MSG.GET.KV_ACCOUNTS":        {`{"last_by_subj":"$KV.ACCOUNTS.openai.a"}`},
		"$JS.API.DIRECT.GET.KV_ACCOUNTS":            {`{"last_by_subj":"$KV.ACCOUNTS.openai.a"}`},
		"$JS.API.CONSUMER.CREATE.TOKENBUS_BUMPS":    {`{"stream_name":"TOKENBUS_BUMPS","config":{}}`},
		"$JS.API.INFO":                              {""},
		"$JS.API.STREAM.LIST":                       {""},
		"$JS.API.CONSUMER.LIST.TOKENBUS_EVENTS":     {""},
		"$JS.ACK.TOKENBUS_EVENTS.tokenbus-workers.": {"+NXT"},
	}
	targets := func(bucket string) []string {
		return []string{"$JS.API.STREAM.DELETE.KV_" + bucket, "$JS.API.STREAM.PURGE.KV_" + bucket, "$KV." + bucket + ".openai.a"}
	}
	attack := func(nc *nats.Conn, bucket string) {
		t.Helper()
		for subject, bodies := range questions {
			for _, body := range bodies {
				for _, reply := range targets(bucket) {
					check(t, nc.PublishRequest(subject, reply, []byte(body)))
					// The trace of a message is an answer too.
					traced := &nats.Msg{Subject: subject, Data: []byte(body), Header: nats.Header{"Nats-Trace-Dest": {reply}}}
					check(t, nc.PublishMsg(traced))
				}
			}
		}
		check(t, nc.Flush())
	}
	for _, role := range []bus.Role{bus.RoleClient, bus.RoleOperator} {
		nc := as(t, s, role)
		attack(nc, "ACCOUNTS")
		// A worker has answered what came before, one after the other.
		m, err := nc.Request("tokenbus.v1.catchup.openai", []byte(`{"ids":["a"]}`), patience)
		check(t, err)
		if r, err := events.DecodeCatchUpReply(m.Data); err != nil || len(r.Bumps) != 1 || r.Bumps[0].Rev != 1 {
			t.Errorf("%s: last bumps %+v, %v", role, r, err)
		}
	}
	// What the keys above lack is all that is in the way.
	attack(worker, "OTHER")
	for began := time.Now(); ; {
		_, err := js.Stream(t.Context(), "KV_OTHER")
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			break
		}
		if time.Since(began) > patience {
			t.Fatalf("the attack does no harm with a worker's key either (%v)", err)
		}
	}
	history, err := accounts.History(t.Context(), "openai.a")
	check(t, err)
	info, err := js.Stream(t.Context(), "KV_ACCOUNTS")
	check(t, err)
	if state := info.CachedInfo().State; len(history) != 1 || string(history[0].Value()) != "document" || state.LastSeq != 1 || state.Msgs != 1 {
		t.Errorf("the document is %v, the stream %+v", history, state)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
