package client

import (
	"errors"
	"testing"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// FuzzReadReply: whatever a worker sends is a token of the account that was asked
// about, of a version that will do, or a typed error.
func FuzzReadReply(f *testing.F) {
	key := testKey(f, "openai.alice")
	f.Add(events.TokenReply{Key: key, Version: 7, AccessToken: account.NewSecret("t")}.Encode(), int64(7), int64(0), int64(0))
	f.Add(events.TokenReply{Version: 7, NotModified: true}.Encode(), int64(1), int64(7), int64(0))
	f.Add(events.CoolingDown(1, "x").Encode(), int64(0), int64(0), int64(6))
	f.Add([]byte(`{"platform":"openai","id":"bob","version":3,"access_token":"t"}`), int64(0), int64(0), int64(0))
	f.Add([]byte(`{"version":-1,"not_modified":true}`), int64(0), int64(0), int64(0))
	f.Add([]byte(`null`), int64(0), int64(0), int64(0))
	f.Fuzz(func(t *testing.T, body []byte, least, known, rejected int64) {
		if least < 0 || known < 0 || rejected < 0 || rejected == 1<<63-1 {
			return
		}
		req := events.TokenRequest{MinVersion: account.Version(least), KnownVersion: account.Version(known), RejectedVersion: account.Version(rejected)}
		reply, err := readReply(key, body, req)
		if err != nil {
			if e, ok := errors.AsType[*Error](err); !ok || e.Key != key {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		switch {
		case reply.Key != key, reply.Version < req.MinVersion, req.RejectedVersion > 0 && reply.Version <= req.RejectedVersion:
			t.Fatalf("taken: %+v", reply)
		case reply.NotModified && (known == 0 || reply.Version != req.KnownVersion), !reply.NotModified && reply.AccessToken.IsZero():
			t.Fatalf("taken: %+v", reply)
		}
	})
}
