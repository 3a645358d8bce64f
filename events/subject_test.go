package events_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

func TestSubjects(t *testing.T) {
	s, err := events.NewSubjects(events.DefaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "subjects", []byte(strings.Join([]string{
		s.Request(key), s.AllRequests(), s.CatchUp(key.Platform()), s.AllCatchUps(), s.Refreshed(key), s.AllRefreshed(), s.Bump(key), s.AllBumps(), s.Status(key), s.AllStatus(), s.Admin(events.VerbPut),
		events.StreamEvents, events.StreamBumps, events.QueueGroup, events.AdminService,
	}, "\n")))
}

func TestNewSubjects(t *testing.T) {
	for prefix, ok := range map[string]bool{
		"tokenbus": true, "a.b": true, "A-1_b": true,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "a.*": false, ">": false, "a b": false, "é": false, "$SYS": false, "a\n": false,
	} {
		s, err := events.NewSubjects(prefix)
		if (err == nil) != ok {
			t.Errorf("NewSubjects(%q) = %v, %v", prefix, s, err)
		}
		if ok && s.Request(key) != prefix+".v1.request.openai.user-1" {
			t.Errorf("under %q a request goes to %s", prefix, s.Request(key))
		}
	}
}

func TestParseRequest(t *testing.T) {
	s, err := events.NewSubjects("a.b")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.ParseRequest(s.Request(key)); err != nil || got != key {
		t.Errorf("ParseRequest = %v, %v", got, err)
	}
	for _, subject := range []string{
		"", "a.b.v1.request.", "a.b.v1.request.x", "a.b.v1.request.x.y.z", "a.b.v1.request.X.y", "a.b.v1.bump.x.y", "tokenbus.v1.request.x.y",
	} {
		got, err := s.ParseRequest(subject)
		if _, ok := errors.AsType[*account.KeyError](err); !ok {
			t.Errorf("ParseRequest(%q) = %v, %v; want a KeyError", subject, got, err)
		}
	}
}
