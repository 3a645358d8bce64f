package mongostore_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/mongostore"
)

// Version 2 of the document needs more than the constant: its first write of
// an older document must write all of it, for a change writes the fields that
// it names and the schema version.
func TestSchemaVersionIsOne(t *testing.T) {
	if account.SchemaVersion != 1 {
		t.Fatalf("schema version %d: see known in document.go, write the migration, and then change this test", account.SchemaVersion)
	}
}

// withSchema returns a store and the collection of a database with one
// account, due and pending, whose schema version is as given; nil: it has none.
func withSchema(t *testing.T, version any) (*mongostore.Store, account.Account, func() bson.Raw) {
	t.Helper()
	uri := rig.Mongo(t)
	s := open(t, mongostore.Config{URL: uri})
	a := testAccount("a")
	a.RefreshAt, a.AnnouncePending = time.UnixMilli(1).UTC(), true
	if err := s.Create(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	c := database(t, uri).Collection("accounts")
	change := bson.D{{Key: "$set", Value: bson.D{{Key: "schema_version", Value: version}}}}
	if version == nil {
		change = bson.D{{Key: "$unset", Value: bson.D{{Key: "schema_version", Value: ""}}}}
	}
	if _, err := c.UpdateByID(t.Context(), a.Key.String(), change); err != nil {
		t.Fatal(err)
	}
	return s, a, func() bson.Raw {
		t.Helper()
		raw, err := c.FindOne(t.Context(), bson.D{{Key: "_id", Value: a.Key.String()}}).Raw()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
}

// Documents of older schema versions, and of programs that know of none, are
// read, found, and brought to ours by the next change.
func TestOlderSchema(t *testing.T) {
	for name, version := range map[string]any{
		"none": nil, "null": bson.Null{}, "0": int64(0), "below 0": int32(-1), "1, of a shell": 1.0,
	} {
		t.Run(name, func(t *testing.T) {
			s, a, stored := withSchema(t, version)
			got, err := s.Get(t.Context(), a.Key)
			if err != nil || got.Version != a.Version || !got.RefreshAt.Equal(a.RefreshAt) {
				t.Errorf("Get: %+v, %v", got, err)
			}
			due, err := s.Due(t.Context(), time.Now(), 10)
			if err != nil || len(due) != 1 {
				t.Errorf("Due: %v, %v", due, err)
			}
			pending, err := s.Pending(t.Context(), 10)
			if err != nil || len(pending) != 1 {
				t.Errorf("Pending: %v, %v", pending, err)
			}
			list, err := s.List(t.Context(), ledger.ListQuery{Limit: 10})
			if err != nil || len(list) != 1 {
				t.Errorf("List: %v, %v", list, err)
			}
			got, err = s.Update(t.Context(), a.Key, account.Guard{Version: a.Version}, account.Change{BumpRev: true, At: time.Now()})
			if err != nil || got.SchemaVersion != account.SchemaVersion || got.Rev != a.Rev+1 {
				t.Errorf("Update: schema version %d, rev %d, %v", got.SchemaVersion, got.Rev, err)
			}
			if v, ok := stored().Lookup("schema_version").AsInt64OK(); !ok || v != account.SchemaVersion {
				t.Errorf("stored: schema version %v", stored().Lookup("schema_version"))
			}
		})
	}
}

// A document of a newer worker is left as it is, and every call that would
// need to understand it says why it doesn't.
func TestNewerSchema(t *testing.T) {
	for name, version := range map[string]any{
		"2": int64(2), "2, short": int32(2), "2, of a shell": 2.0, "between": 1.5, "huge": int64(1 << 60),
	} {
		t.Run(name, func(t *testing.T) {
			s, a, stored := withSchema(t, version)
			before := stored()
			newer := func(what string, err error) {
				t.Helper()
				if !errors.Is(err, mongostore.ErrNewer) || !strings.Contains(err.Error(), "upgrade this worker") {
					t.Errorf("%s: got error %v, want %q", what, err, mongostore.ErrNewer)
				}
				if errors.Is(err, ledger.ErrConflict) || errors.Is(err, ledger.ErrNotFound) || mongostore.Final(err) {
					t.Errorf("%s: the error claims too much: %v", what, err)
				}
			}
			_, err := s.Get(t.Context(), a.Key)
			newer("Get", err)
			_, err = s.List(t.Context(), ledger.ListQuery{Limit: 10})
			newer("List", err)
			for _, g := range []account.Guard{{}, {Version: a.Version}, {Version: a.Version + 1}, {Rotation: account.NoRotation()}} {
				_, err = s.Update(t.Context(), a.Key, g, account.Change{Fields: account.FieldLabel, To: account.Account{Label: "l"}, BumpRev: true, At: time.Now()})
				newer("Update", err)
			}
			if err := s.Create(t.Context(), a); !errors.Is(err, ledger.ErrConflict) {
				t.Errorf("Create: got error %v, want %q", err, ledger.ErrConflict)
			}
			if due, err := s.Due(t.Context(), time.Now(), 10); err != nil || len(due) != 0 {
				t.Errorf("Due: %v, %v: it is the newer workers'", due, err)
			}
			if pending, err := s.Pending(t.Context(), 10); err != nil || len(pending) != 0 {
				t.Errorf("Pending: %v, %v: it is the newer workers'", pending, err)
			}
			if after := stored(); after.String() != before.String() {
				t.Errorf("the document was changed:\n%v\nbefore:\n%v", after, before)
			}
		})
	}
}
