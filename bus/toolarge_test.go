package bus_test

import (
	"strings"
	"testing"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/events"
)

// Where the answer is larger than the server takes, the asker hears so, and the
// log has it once for each endpoint.
func TestAnswerAboveMaxPayload(t *testing.T) {
	var log logs
	r := rig(t, func(c *bus.WorkerConfig) { c.Logger = log.logger() })
	huge := strings.Repeat("x", int(r.conn.MaxPayload()))
	r.fleet.cached = func(account.Key, events.TokenRequest) ([]byte, bool) { return []byte(huge + "x"), true }
	r.fleet.verb = func(string, any) (events.Account, error) {
		return events.Account{Platform: "openai", ID: "a", Label: huge}, nil
	}
	for range 2 {
		for name, e := range map[string]*events.Error{
			"token": errorOf(t, r.ask(t, "openai.a", "")),
			"list":  errorOf(t, r.admin(t, events.VerbList, "")),
		} {
			if e.Code != events.CodeUnavailable || e.RetryAfter == 0 || !strings.Contains(e.Message, "max_payload") {
				t.Errorf("%s: %v", name, e)
			}
		}
	}
	if n := strings.Count(log.String(), "larger than the NATS server takes"); n != 2 {
		t.Errorf("%d lines of two endpoints:\n%s", n, log.String())
	}
}
