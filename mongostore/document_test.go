package mongostore_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"pgregory.net/rapid"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/ledger/storetest"
	"github.com/tokenbus/tokenbus/mongostore"
)

var update = flag.Bool("update", false, "write the golden files")

// The documents in the database are a format that other programs read and
// that later versions must understand.
func TestGoldenDocuments(t *testing.T) {
	key, err := account.NewKey("openai", "alice")
	if err != nil {
		t.Fatal(err)
	}
	minimal := storetest.Minimal(key)
	minimal.CreatedAt = time.Date(2031, 2, 3, 4, 5, 6, 789e6, time.UTC)
	minimal.UpdatedAt = minimal.CreatedAt
	for name, a := range map[string]account.Account{
		"full":    storetest.Full(key, 3),
		"minimal": minimal,
	} {
		t.Run(name, func(t *testing.T) {
			uri := rig.Mongo(t)
			s := open(t, mongostore.Config{URL: uri})
			c := database(t, uri).Collection("accounts")
			if err := s.Create(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			raw, err := c.FindOne(t.Context(), bson.M{}).Raw()
			if err != nil {
				t.Fatal(err)
			}
			extended, err := bson.MarshalExtJSON(raw, false, false)
			if err != nil {
				t.Fatal(err)
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, extended, "", "  "); err != nil {
				t.Fatal(err)
			}
			indented.WriteByte('\n')
			golden := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(golden, indented.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(indented.Bytes(), want) {
				t.Errorf("document:\n%s\nwant:\n%s", indented.Bytes(), want)
			}

			// And back, from the file.
			var doc bson.D
			if err := bson.UnmarshalExtJSON(want, false, &doc); err != nil {
				t.Fatal(err)
			}
			if _, err := c.ReplaceOne(t.Context(), bson.M{}, doc); err != nil {
				t.Fatal(err)
			}
			got, err := s.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, a) {
				t.Errorf("account:\n%+v\nwant:\n%+v", got, a)
			}
		})
	}
}

// Whatever is changed under whatever guard, the server and account.Change
// agree.
func TestUpdateIsApply(t *testing.T) {
	s := open(t, mongostore.Config{URL: rig.Mongo(t)})
	n := 0
	pick := rapid.Custom(func(t *rapid.T) account.Account {
		key, _ := account.NewKey("other", "key")
		a := storetest.Full(key, rapid.IntRange(1, 4).Draw(t, "n"))
		v := reflect.ValueOf(&a).Elem()
		for i := range v.NumField() { // some fields without a value
			if name := v.Type().Field(i).Name; name != "Key" && rapid.Bool().Draw(t, "zero "+name) {
				v.Field(i).SetZero()
			}
		}
		return a
	})
	rapid.Check(t, func(rt *rapid.T) {
		n++
		old := pick.Draw(rt, "old")
		old.Key, _ = account.NewKey("p", "a"+string(rune('0'+n%10))+time.Now().Format("150405_000000000")+string(rune('a'+n%26)))
		if err := s.Create(t.Context(), old); err != nil {
			rt.Fatal(err)
		}
		guard := account.Guard{
			Version:  account.Version(rapid.IntRange(0, 4).Draw(rt, "guard version")),
			Rotation: rapid.SampledFrom([]*string{nil, nil, new(""), new("rotation-1"), new("rotation-2")}).Draw(rt, "guard rotation"),
		}
		change := account.Change{
			Fields:  account.Fields(rapid.Uint32Range(0, 1<<13-1).Draw(rt, "fields")),
			To:      pick.Draw(rt, "to"),
			BumpRev: rapid.Bool().Draw(rt, "bump rev"),
			At:      time.UnixMilli(rapid.Int64Range(1, 1e12).Draw(rt, "at")).UTC(),
		}
		want := old.Clone()
		holds := guard.Holds(&old)
		if holds {
			change.Apply(&want)
		}
		got, err := s.Update(t.Context(), old.Key, guard, change)
		if (err == nil) != holds {
			rt.Fatalf("Update: %v, the guard holds: %v", err, holds)
		}
		if holds && !reflect.DeepEqual(got, want) {
			rt.Errorf("Update returned:\n%+v\nwant:\n%+v", got, want)
		}
		if got, err = s.Get(t.Context(), old.Key); err != nil || !reflect.DeepEqual(got, want) {
			rt.Errorf("Get returned:\n%+v, %v\nwant:\n%+v", got, err, want)
		}
	})
}
