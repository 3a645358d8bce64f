package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tokenbus/tokenbus/events"
)

// seed adds the golden files whose names match, and some that are none.
func seed(f *testing.F, pattern string) {
	f.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern+".golden"))
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds match %s (%v)", pattern, err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, s := range []string{``, `null`, `[]`, `{}`, `{"min_ttl":1}`, `{"version":1e9}`, `{"at":"0000-01-01T00:00:00+23:00"}`, `{"error":null}`, `{"error":{"retry_after":1}}`} {
		f.Add([]byte(s))
	}
}

func checkBadRequest(t *testing.T, err error) {
	t.Helper()
	if e, ok := errors.AsType[*events.Error](err); !ok || e.Code != events.CodeBadRequest || e.Message == "" {
		t.Fatalf("unexpected error %v", err)
	}
}

func FuzzDecodeTokenRequest(f *testing.F) {
	seed(f, "request")
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := events.DecodeTokenRequest(body)
		if err != nil {
			checkBadRequest(t, err)
			return
		}
		if r.MinVersion < 0 || r.MinTTL < 0 || r.RejectedVersion < 0 || r.KnownVersion < 0 || r.Timeout <= 0 || r.Timeout > events.MaxTimeout {
			t.Fatalf("decoded %+v", r)
		}
		if again, err := events.DecodeTokenRequest(r.Encode()); err != nil || again != r {
			t.Fatalf("%+v came back as %+v, %v", r, again, err)
		}
	})
}

func FuzzDecodeTokenReply(f *testing.F) {
	seed(f, "reply*")
	seed(f, "error_*")
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := events.DecodeTokenReply(key, body)
		if err != nil {
			return
		}
		again, err := events.DecodeTokenReply(key, r.Encode())
		if err != nil || !bytes.Equal(again.Encode(), r.Encode()) {
			t.Fatalf("%s came back as %s, %v", r.Encode(), again.Encode(), err)
		}
	})
}

func FuzzDecodeRefreshed(f *testing.F) {
	seed(f, "refreshed*")
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := events.DecodeRefreshed(body)
		if err != nil {
			return
		}
		again, err := events.DecodeRefreshed(e.Encode())
		if err != nil || !bytes.Equal(again.Encode(), e.Encode()) {
			t.Fatalf("%s came back as %s, %v", e.Encode(), again.Encode(), err)
		}
	})
}

func FuzzDecodeBump(f *testing.F) {
	seed(f, "bump*")
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := events.DecodeBump(body)
		if err != nil {
			return
		}
		if again, err := events.DecodeBump(e.Encode()); err != nil || again != e {
			t.Fatalf("%+v came back as %+v, %v", e, again, err)
		}
	})
}

func FuzzDecodeCatchUpRequest(f *testing.F) {
	seed(f, "catchup_request")
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := events.DecodeCatchUpRequest("openai", body)
		if err != nil {
			checkBadRequest(t, err)
			return
		}
		var r events.CatchUpRequest
		for _, k := range keys {
			r.IDs = append(r.IDs, k.ID())
		}
		if again, err := events.DecodeCatchUpRequest("openai", r.Encode()); err != nil || !slices.Equal(again, keys) {
			t.Fatalf("%v came back as %v, %v", keys, again, err)
		}
	})
}

func FuzzDecodeCatchUpReply(f *testing.F) {
	seed(f, "catchup_reply*")
	seed(f, "error_*")
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := events.DecodeCatchUpReply(body)
		if err != nil {
			return
		}
		if again, err := events.DecodeCatchUpReply(r.Encode()); err != nil || !slices.Equal(again.Bumps, r.Bumps) {
			t.Fatalf("%+v came back as %+v, %v", r, again, err)
		}
	})
}

func FuzzDecodeStatus(f *testing.F) {
	seed(f, "status*")
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := events.DecodeStatus(body)
		if err != nil {
			return
		}
		again, err := events.DecodeStatus(e.Encode())
		if err != nil || !bytes.Equal(again.Encode(), e.Encode()) {
			t.Fatalf("%s came back as %s, %v", e.Encode(), again.Encode(), err)
		}
	})
}

// FuzzDecodeAdmin: each request is decoded or refused, and what was decoded
// can be sent on.
func FuzzDecodeAdmin(f *testing.F) {
	seed(f, "put*")
	seed(f, "patch*")
	seed(f, "key_request*")
	seed(f, "list*")
	f.Fuzz(func(t *testing.T, body []byte) {
		decodeAdmin[events.PutRequest](t, body)
		decodeAdmin[events.PatchRequest](t, body)
		decodeAdmin[events.KeyRequest](t, body)
		decodeAdmin[events.ListRequest](t, body)
		decodeAdmin[events.JournalRequest](t, body)
	})
}

func decodeAdmin[T events.PutRequest | events.PatchRequest | events.KeyRequest | events.ListRequest | events.JournalRequest](t *testing.T, body []byte) {
	r, err := events.DecodeRequest[T](body)
	if err != nil {
		checkBadRequest(t, err)
		return
	}
	if _, err := json.Marshal(r); err != nil {
		t.Fatalf("%s was decoded and can't be encoded: %v", body, err)
	}
}
