package account_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tokenbus/tokenbus/account"
)

func TestParseKey(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	for name, tc := range map[string]struct {
		text   string
		reason string // "" for a good key
	}{
		"plain":               {"openai.user-1", ""},
		"one character each":  {"a.B", ""},
		"every character":     {"abcxyz_-019.abcxyzABCXYZ_-019", ""},
		"longest":             {long(64) + "." + long(128), ""},
		"empty":               {"", "want <platform>.<id>"},
		"no dot":              {"openai", "want <platform>.<id>"},
		"dot alone":           {".", "the platform is empty"},
		"no platform":         {".a", "the platform is empty"},
		"no id":               {"a.", "the id is empty"},
		"two dots":            {"a.b.c", "the id may contain only"},
		"dot at the end":      {"a.b.", "the id may contain only"},
		"capital platform":    {"OpenAI.a", "the platform may contain only"},
		"space":               {"open ai.a", "the platform may contain only"},
		"id with a space":     {"a.b c", "the id may contain only"},
		"wildcard":            {"a.*", "the id may contain only"},
		"full wildcard":       {"a.>", "the id may contain only"},
		"platform wildcard":   {"*.a", "the platform may contain only"},
		"slash":               {"a.b/c", "the id may contain only"},
		"line break":          {"a.b\n", "the id may contain only"},
		"NUL":                 {"a.b\x00", "the id may contain only"},
		"accented":            {"a.é", "the id may contain only"},
		"look-alike":          {"а.b", "the platform may contain only"}, // a Cyrillic а
		"invalid UTF-8":       {"a.\xff", "the id may contain only"},
		"email":               {"a.me@example.com", "the id may contain only"},
		"platform too long":   {long(65) + ".a", "the platform has 65 characters"},
		"id too long":         {"a." + long(129), "the id has 129 characters"},
		"an absurdly long id": {"a." + long(1<<20), "the id has 1048576 characters"},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := account.ParseKey(tc.text)
			if tc.reason == "" {
				if err != nil || k.String() != tc.text || k.IsZero() || k.Platform()+"."+k.ID() != tc.text {
					t.Errorf("ParseKey = %v, %v", k, err)
				}
				return
			}
			keyErr, ok := errors.AsType[*account.KeyError](err)
			if !ok || !strings.Contains(err.Error(), tc.reason) || !k.IsZero() {
				t.Fatalf("ParseKey = %v, %v; want a KeyError with %q", k, err, tc.reason)
			}
			if keyErr.Text != tc.text || len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\n\x00") || !utf8.ValidString(err.Error()) {
				t.Errorf("the error isn't one printable line: %q", err)
			}
		})
	}
}

func TestNewKeyTakesNoDotInPlatform(t *testing.T) {
	if k, err := account.NewKey("a.b", "c"); err == nil {
		t.Errorf("NewKey = %v", k)
	}
}

func TestKeyAsText(t *testing.T) {
	k, err := account.NewKey("acme", "User_1")
	if err != nil {
		t.Fatal(err)
	}
	type doc struct {
		Key  account.Key
		ByID map[account.Key]int
	}
	data, err := json.Marshal(doc{k, map[account.Key]int{k: 1}})
	if err != nil || string(data) != `{"Key":"acme.User_1","ByID":{"acme.User_1":1}}` {
		t.Fatalf("Marshal = %s, %v", data, err)
	}
	var d doc
	if err := json.Unmarshal(data, &d); err != nil || d.Key != k || d.ByID[k] != 1 {
		t.Errorf("Unmarshal = %v, %v", d, err)
	}
	if err := json.Unmarshal([]byte(`{"Key":"nonsense"}`), &d); err == nil || !d.Key.IsZero() {
		t.Errorf("Unmarshal of nonsense = %v, %v", d.Key, err)
	}
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"openai.user-1", "", ".", "a.b.c", "A.b", "a.*", "a.\xff", "x." + strings.Repeat("y", 200)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := account.ParseKey(s)
		if err != nil {
			if _, ok := errors.AsType[*account.KeyError](err); !ok || !k.IsZero() {
				t.Fatalf("ParseKey = %v, %v", k, err)
			}
			return
		}
		if k.String() != s || strings.ContainsAny(s, "*> \t\r\n/\\\x00") || strings.Count(s, ".") != 1 || len(s) > 64+1+128 {
			t.Fatalf("ParseKey takes %q", s)
		}
		if again, err := account.NewKey(k.Platform(), k.ID()); err != nil || again != k {
			t.Fatalf("NewKey = %v, %v; want %v", again, err, k)
		}
	})
}

func ExampleParseKey() {
	k, err := account.ParseKey("openai.user-1")
	fmt.Println(k.Platform(), k.ID(), err)
	_, err = account.ParseKey("OpenAI.user-1")
	fmt.Println(err)
	// Output:
	// openai user-1 <nil>
	// account key "OpenAI.user-1": the platform may contain only a-z, 0-9, _ and -
}
