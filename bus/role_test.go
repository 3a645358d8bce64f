package bus_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
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
			publish:   []string{"tokenbus.v1.admin.accounts.put", "tokenbus.v1.admin.accounts.list", "tokenbus.v1.refreshed." + key, "$JS.API.STREAM.INFO.TOKENBUS_BUMPS", "$SRV.PING", "$SRV.INFO.tokenbus-admin", "$SRV.STATS.tokenbus", "$JS.API.DIRECT.GET.TOKENBUS_BUMPS", "$JS.API.DIRECT.GET.TOKENBUS_BUMPS.tokenbus.v1.bump." + key},
			subscribe: []string{"tokenbus.v1.refreshed.>", "tokenbus.v1.status.>", "tokenbus.v1.bump.>", "_INBOX_operator.x"},
		},
		mayNot: permission{
			publish:   []string{"tokenbus.v1.request." + key, "tokenbus.v1.bump." + key, "tokenbus.v1.status." + key, "$JS.API.INFO", "$JS.API.STREAM.INFO.TOKENBUS_EVENTS", "$JS.API.STREAM.DELETE.TOKENBUS_EVENTS", "$JS.API.CONSUMER.CREATE.TOKENBUS_EVENTS", "$JS.API.DIRECT.GET.KV_x.$KV.x.y", "$JS.API.STREAM.MSG.GET.KV_x", "$KV.bucket.key", "_INBOX_client.x", "_INBOX_worker.x", "other"},
			subscribe: []string{">", "tokenbus.>", "tokenbus.v1.request.>", "tokenbus.v1.admin.>", "_INBOX_client.>", "_INBOX_worker.>", "_INBOX.>", "*.v1.request.>", "$SRV.>", "$KV.>", "$JS.>", "$SYS.>"},
		},
	}, {
		role: bus.RoleClient,
		may: permission{
			publish:   []string{"tokenbus.v1.request." + key, "$JS.API.STREAM.INFO.TOKENBUS_BUMPS", "$JS.API.DIRECT.GET.TOKENBUS_BUMPS", "$JS.API.DIRECT.GET.TOKENBUS_BUMPS.tokenbus.v1.bump." + key},
			subscribe: []string{"tokenbus.v1.status.>", "tokenbus.v1.bump.>", "_INBOX_client.x"},
		},
		mayNot: permission{
			publish:   []string{"tokenbus.v1.admin.accounts.list", "tokenbus.v1.admin.accounts.put", "tokenbus.v1.bump." + key, "tokenbus.v1.refreshed." + key, "tokenbus.v1.status." + key, "$SRV.PING", "$SRV.INFO.tokenbus", "$JS.API.INFO", "$JS.API.STREAM.INFO.TOKENBUS_EVENTS", "$JS.API.STREAM.MSG.GET.TOKENBUS_BUMPS", "$JS.API.STREAM.PURGE.TOKENBUS_BUMPS", "$JS.API.CONSUMER.CREATE.TOKENBUS_BUMPS", "$JS.API.DIRECT.GET.TOKENBUS_EVENTS", "$JS.API.DIRECT.GET.KV_x.$KV.x.y", "$KV.bucket.key", "$JS.ACK.x", "_INBOX_client.x", "_INBOX_worker.x", "other"},
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

// TestClientCatchesUpOnBumps reads the last bumps in the way a gateway does:
// with no more than its role.
func TestClientCatchesUpOnBumps(t *testing.T) {
	s := startServer(t)
	worker := as(t, s, bus.RoleWorker)
	streams(t, worker)
	p := publisher(t, worker)
	for i, k := range []string{"openai.a", "gemini.b", "openai.a"} {
		check(t, p.Bump(t.Context(), events.Bump{Key: key(t, k), Version: 1, Rev: account.Rev(i + 1), At: time.Now()}))
	}
	for _, role := range []bus.Role{bus.RoleClient, bus.RoleOperator} {
		nc := as(t, s, role)
		msg, err := nc.Request("$JS.API.DIRECT.GET.TOKENBUS_BUMPS.tokenbus.v1.bump.openai.a", nil, patience)
		check(t, err)
		if b, err := events.DecodeBump(msg.Data); err != nil || b.Rev != 3 {
			t.Errorf("%s: last bump is %+v, %v", role, b, err)
		}
		inbox, got := nc.NewInbox(), map[account.Key]account.Rev{}
		sub, err := nc.SubscribeSync(inbox)
		check(t, err)
		check(t, nc.PublishRequest("$JS.API.DIRECT.GET.TOKENBUS_BUMPS", inbox, []byte(`{"seq":1,"batch":100,"next_by_subj":"tokenbus.v1.bump.>"}`)))
		for {
			msg, err := sub.NextMsg(patience)
			check(t, err)
			if len(msg.Data) == 0 {
				break // end of batch
			}
			b, err := events.DecodeBump(msg.Data)
			check(t, err)
			got[b.Key] = b.Rev
		}
		if len(got) != 2 || got[key(t, "openai.a")] != 3 || got[key(t, "gemini.b")] != 2 {
			t.Errorf("%s: caught up on %v", role, got)
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
