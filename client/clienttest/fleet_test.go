package clienttest_test

import (
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/client/clienttest"
	"github.com/tokenbus/tokenbus/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What the package comment promises.
func TestFleet(t *testing.T) {
	fleet := clienttest.Start(t)
	key := fleet.Login("openai.alice", time.Hour)
	c := fleet.Client()
	token, err := c.Token(t.Context(), key)
	if err != nil || token.AccessToken() != "openai.alice-1" || fleet.Token(key) != "openai.alice-1" {
		t.Errorf("got %v, %v", token, err)
	}
	fleet.Advance(time.Hour)
	token, err = c.Token(t.Context(), key)
	if err != nil || token.AccessToken() != "openai.alice-2" {
		t.Errorf("an hour later: %v, %v", token, err)
	}
	v := fleet.Rotate(key)
	token, err = c.Token(t.Context(), key, client.WithMinVersion(v))
	if err != nil || token.AccessToken() != "openai.alice-3" {
		t.Errorf("rotated: %v, %v", token, err)
	}
	// A dead grant.
	fleet.FailRefresh(key, events.ReauthRequired(key, "invalid_grant", "revoked"))
	fleet.Advance(time.Hour)
	if token, err := c.Token(t.Context(), key); !errors.Is(err, client.ErrReauthRequired) {
		t.Errorf("without a living grant: %v, %v", token, err)
	}
	// Everything goes wrong at once, and is put right.
	fleet.Freeze(0)
	fleet.Leave()
	fleet.Cut()
	fleet.Heal()
	fleet.Join()
	fleet.Login(key.String(), time.Hour)
	for deadline := time.Now().Add(30 * time.Second); ; {
		if token, err = c.Token(t.Context(), key); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if token.Version != 4 || len(fleet.Requests(key)) == 0 {
		t.Errorf("after a new login: %v", token)
	}
}

// The workers answer as the contract says.
func TestFleetSpeaksTheProtocol(t *testing.T) {
	fleet := clienttest.Start(t)
	key := fleet.Login("openai.alice", time.Hour)
	nc := fleet.Connect()
	for _, tt := range []struct {
		name, subject, body string
		code                events.Code
		version             int64
	}{
		{"a token", "openai.alice", ``, "", 1},
		{"not modified", "openai.alice", `{"known_version":1}`, "", 1},
		{"no such account", "openai.bob", ``, events.CodeNotFound, 0},
		{"no account's key", "openai", ``, events.CodeBadRequest, 0},
		{"no JSON", "openai.alice", `{`, events.CodeBadRequest, 0},
		{"a version that is not there", "openai.alice", `{"min_version":9}`, events.CodeUnavailable, 0},
		{"more than a lifetime", "openai.alice", `{"min_ttl":"2h"}`, events.CodeBadRequest, 0},
		{"rejected", "openai.alice", `{"rejected_version":1}`, "", 2},
		{"a longer life", "openai.alice", `{"min_ttl":"59m59.999999999s"}`, "", 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := nc.Request("tokenbus.v1.request."+tt.subject, []byte(tt.body), 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			reply, err := events.DecodeTokenReply(key, m.Data)
			e, _ := errors.AsType[*events.Error](err)
			switch {
			case tt.code != "" && (e == nil || e.Code != tt.code || m.Header.Get(events.HeaderErrorCode) == ""):
				t.Errorf("got %v", err)
			case tt.code == "" && (err != nil || int64(reply.Version) != tt.version):
				t.Errorf("got %+v, %v", reply, err)
			}
		})
	}
}
