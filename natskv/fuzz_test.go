package natskv_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/ledger/storetest"
	"github.com/tokenbus/tokenbus/natskv"
	"github.com/tokenbus/tokenbus/refresh/journaltest"
)

func FuzzEntry(f *testing.F) {
	f.Add(natskv.EncodeEntry(ledger.Entry{Rev: 1 << 40, Version: 3, Value: []byte("v"), Until: time.UnixMilli(1_700_000_000_123)}))
	f.Add(natskv.EncodeEntry(ledger.Entry{Rev: -1}))
	f.Add([]byte{2, 0x80, 0x80})
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := natskv.DecodeEntry(data)
		if err != nil {
			return
		}
		if rev, err := natskv.DecodeRev(data); err != nil || rev != e.Rev {
			t.Fatalf("rev alone: got %d, %v, want %d", rev, err, e.Rev)
		}
		again, err := natskv.DecodeEntry(natskv.EncodeEntry(e))
		if err != nil || again.Rev != e.Rev || again.Version != e.Version || !again.Until.Equal(e.Until) || !bytes.Equal(again.Value, e.Value) {
			t.Fatalf("got %+v, %v, want %+v", again, err, e)
		}
	})
}

func FuzzFacts(f *testing.F) {
	f.Add(natskv.EncodeFacts(storetest.Full(mustKey("openai.a"), 1)))
	f.Add(natskv.EncodeFacts(storetest.Minimal(mustKey("openai.a"))))
	f.Add("1 active - -")
	f.Add("1 disabled -5 dp")
	f.Fuzz(func(t *testing.T, text string) {
		once, ok := natskv.ReencodeFacts(text)
		if !ok {
			return
		}
		if twice, ok := natskv.ReencodeFacts(once); !ok || twice != once {
			t.Fatalf("%q became %q and that %q, %v", text, once, twice, ok)
		}
	})
}

func FuzzRecord(f *testing.F) {
	good, err := json.Marshal(journaltest.Record(mustKey("openai.a"), "r1"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("openai.a.r1", good)
	f.Add("openai.a.r1", good[:20])
	f.Add("openai.b.r1", good)
	f.Fuzz(func(t *testing.T, key string, data []byte) {
		r, err := natskv.DecodeRecord(key, data)
		if err == nil && (r.Key.String()+"."+r.RotationID != key || len(r.Answer) == 0) {
			t.Fatalf("key %q gave the record %s/%s", key, r.Key, r.RotationID)
		}
	})
}

func FuzzAccount(f *testing.F) {
	good, err := json.Marshal(storetest.Full(mustKey("openai.a"), 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("openai.a", good)
	f.Add("openai.a", []byte(`{"_id":"openai.a","version":1e30}`))
	f.Fuzz(func(t *testing.T, key string, data []byte) {
		a, err := natskv.DecodeAccount(key, data)
		if err != nil {
			return
		}
		if a.Key.String() != key {
			t.Fatalf("key %q gave the document of %s", key, a.Key)
		}
		// Whatever it says, it can be changed and written again.
		account.Change{BumpRev: true}.Apply(&a)
		if _, err := json.Marshal(a); err != nil {
			t.Fatal(err)
		}
	})
}
