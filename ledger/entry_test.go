package ledger

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/rotation"
)

// full is a view with something in each of its fields.
func full(t *testing.T) *rotation.View {
	at := time.Date(2026, 3, 1, 12, 0, 0, int(250*time.Millisecond), time.UTC)
	v := &rotation.View{
		Key: hotKey(1), Status: account.Active, Version: 7, Rev: 9, Gone: true,
		Token: account.NewSecret("line one\nline two\x00\xff"), TokenType: "Bearer", Extra: account.Extra{"project_id": json.RawMessage(`"p\n1"`)},
		Expires: at, End: at.Add(time.Second), Lifetime: time.Hour, Issued: at.Add(-time.Minute), Streak: 2, Earliest: at.Add(-time.Hour),
		HasRefresh: true, Dead: true, Code: "invalid_grant", Text: "said\nthe endpoint",
	}
	for i, fields := 0, reflect.ValueOf(*v); i < fields.NumField(); i++ {
		if fields.Field(i).IsZero() {
			t.Fatalf("give %s a value: an entry has to keep it", fields.Type().Field(i).Name)
		}
	}
	return v
}

// TestEntryKeepsTheView: what a worker finds in the shared cache is what another
// has put there, whatever is in it.
func TestEntryKeepsTheView(t *testing.T) {
	views := map[string]*rotation.View{"full": full(t), "empty": {Key: hotKey(1)}}
	for name, v := range views {
		plain, err := encodeView(v)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeView(v.Key, Entry{Rev: v.Rev, Version: v.Version}, plain)
		if err != nil || got.Token.Reveal() != v.Token.Reveal() {
			t.Fatalf("%s: got %+v and %v, want the token of %+v", name, got, err, v)
		}
		got.Token, v.Token = account.Secret{}, account.Secret{} // can't be compared
		if !reflect.DeepEqual(got, v) {
			t.Errorf("%s: got %+v, want %+v", name, got, v)
		}
	}

	// One without a token's line is no entry: there the token was in the JSON once.
	if v, err := decodeView(hotKey(1), Entry{}, []byte(`{"status":"active","token":"t"}`)); err != errEntry {
		t.Errorf("an entry of one line: got %+v and %v", v, err)
	}

	// A time that is known is never one that isn't.
	v := full(t)
	v.End = time.Unix(0, 0)
	plain, _ := encodeView(v)
	if got, err := decodeView(v.Key, Entry{}, plain); err != nil || got.End.IsZero() {
		t.Errorf("an end in 1970: got %v and %v", got, err)
	}
}

// FuzzDecodeView reads what was sealed by another program with the same keyset.
func FuzzDecodeView(f *testing.F) {
	f.Add([]byte("{\"status\":\"active\",\"end\":1772366400000}\ntoken"))
	f.Add([]byte(`{"status":"active"}`))
	f.Add([]byte("null\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, plain []byte) {
		v, err := decodeView(hotKey(1), Entry{Rev: 3, Version: 2}, plain)
		if err != nil {
			if v != nil || err != errEntry { // which names nothing of a secret
				t.Fatalf("got %v and %v", v, err)
			}
			return
		}
		again, err := encodeView(v)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeView(v.Key, Entry{Rev: v.Rev, Version: v.Version}, again)
		if err != nil || got.Token.Reveal() != v.Token.Reveal() || !got.End.Equal(v.End) || !got.Expires.Equal(v.Expires) || got.Status != v.Status || got.Streak != v.Streak {
			t.Fatalf("got %+v and %v of %+v", got, err, v)
		}
	})
}
