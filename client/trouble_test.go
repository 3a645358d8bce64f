package client

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
)

// What the server doesn't permit ends the questions that get no answer for it, and
// no others.
func TestForbiddenEndsWhatGetsNoAnswer(t *testing.T) {
	tr := &trouble{inbox: "_INBOX_client"}
	violation := func(what string) error {
		return fmt.Errorf("%w: Permissions Violation for %s", nats.ErrPermissionViolation, what)
	}
	ended := map[string]error{}
	watch := func(subject string) (stop func()) {
		delete(ended, subject)
		return tr.watch(subject, func(err error) { ended[subject] = err })
	}
	defer watch("r.openai.a")()
	stopB := watch("r.openai.b")
	defer watch("r.openai.ab")()
	for _, what := range []string{`Subscription to "tokenbus.v1.bump.openai.*"`, `Subscription to "_INBOX_clients.x"`, `Publish to "$JS.API.DIRECT.GET.X"`, `Publish to "r.openai"`} {
		if tr.forbidden(violation(what)); len(ended) != 0 {
			t.Fatalf("%s ended %v", what, ended)
		}
	}
	if tr.forbidden(violation(`Publish to "r.openai.a"`)); len(ended) != 1 || ended["r.openai.a"] == nil {
		t.Errorf("ended: %v; want the one", ended)
	}
	stopB()
	inbox := violation(`Subscription to "_INBOX_client.Kq3.*"`)
	if tr.forbidden(inbox); len(ended) != 2 || !errors.Is(ended["r.openai.ab"], nats.ErrPermissionViolation) {
		t.Errorf("ended: %v; want both that waited", ended)
	}
	if watch("r.openai.c")(); ended["r.openai.c"] == nil {
		t.Error("a later question waits for a reply that can't be heard")
	}
	tr.lost(nil)
	if watch("r.openai.c")(); ended["r.openai.c"] != nil {
		t.Errorf("on another connection: %v", ended["r.openai.c"])
	}
}
