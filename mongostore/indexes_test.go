package mongostore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/internal/rig/opmsg"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/mongostore"
)

// listed returns the indexes of the collection by name.
func listed(t *testing.T, c *mongo.Collection) map[string]mongo.IndexSpecification {
	t.Helper()
	specs, err := c.Indexes().ListSpecifications(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]mongo.IndexSpecification{}
	for _, spec := range specs {
		out[spec.Name] = spec
	}
	return out
}

func TestIndexes(t *testing.T) {
	uri := rig.Mongo(t)
	var wg sync.WaitGroup
	for range 3 { // every worker of a fleet, at every start
		wg.Go(func() {
			s, err := mongostore.Open(t.Context(), mongostore.Config{URL: uri})
			if err != nil {
				t.Error(err)
				return
			}
			for range 2 {
				if err := s.EnsureIndexes(t.Context()); err != nil {
					t.Error(err)
				}
			}
			_ = s.Close(t.Context())
		})
	}
	wg.Wait()
	got := listed(t, database(t, uri).Collection("accounts"))
	for _, name := range []string{"due", "status", "announce_pending", "deleted_at"} {
		if got[name].Name == "" {
			t.Errorf("no index %s: %v", name, got)
		}
	}
	if due := fmt.Sprint(got["due"].KeysDocument); !strings.Contains(due, "refresh_at") || !strings.Contains(due, "platform") || strings.Index(due, "refresh_at") > strings.Index(due, "platform") {
		t.Errorf("the index of what is due has the keys %s", due)
	}
	if expire := got["deleted_at"].ExpireAfterSeconds; expire == nil || *expire != 30*24*3600 {
		t.Errorf("tombstones expire after %v seconds", expire)
	}
	if len(got) != 5 { // and _id
		t.Errorf("indexes: %v", got)
	}
}

// An index in the place of ours is an error, stays, and keeps none of the
// others from being made.
func TestOtherIndexes(t *testing.T) {
	keys := func(field string, order any) bson.D { return bson.D{{Key: field, Value: order}} }
	named := func(name string) *options.IndexOptionsBuilder { return options.Index().SetName(name) }
	for _, c := range []struct {
		name  string
		model mongo.IndexModel
		want  string // in the error; "": it does
	}{
		{"other keys", mongo.IndexModel{Keys: keys("expires_at", 1), Options: named("due").SetPartialFilterExpression(keys("status", "active"))}, "index due"},
		{"descending", mongo.IndexModel{Keys: bson.D{{Key: "refresh_at", Value: -1}, {Key: "platform", Value: 1}}, Options: named("due").SetPartialFilterExpression(keys("status", "active"))}, "index due"},
		{"fewer keys", mongo.IndexModel{Keys: keys("refresh_at", 1), Options: named("due").SetPartialFilterExpression(keys("status", "active"))}, "index due"},
		{"more keys", mongo.IndexModel{Keys: bson.D{{Key: "status", Value: 1}, {Key: "_id", Value: 1}, {Key: "version", Value: 1}}, Options: named("status")}, "index status"},
		{"of all documents", mongo.IndexModel{Keys: keys("announce_pending", 1), Options: named("announce_pending")}, "index announce_pending"},
		{"of other documents", mongo.IndexModel{Keys: bson.D{{Key: "refresh_at", Value: 1}, {Key: "platform", Value: 1}}, Options: named("due").SetPartialFilterExpression(keys("status", "disabled"))}, "index due"},
		{"unique", mongo.IndexModel{Keys: keys("deleted_at", 1), Options: named("deleted_at").SetUnique(true).SetExpireAfterSeconds(30 * 24 * 3600)}, "index deleted_at"},
		{"expires earlier", mongo.IndexModel{Keys: keys("deleted_at", 1), Options: named("deleted_at").SetExpireAfterSeconds(60)}, "index deleted_at"},
		{"never expires", mongo.IndexModel{Keys: keys("deleted_at", 1), Options: named("deleted_at")}, "index deleted_at"},
		{"the same by another name", mongo.IndexModel{Keys: bson.D{{Key: "refresh_at", Value: 1.0}, {Key: "platform", Value: 1}}, Options: named("by_hand").SetPartialFilterExpression(keys("status", "active"))}, ""},
		{"another one beside", mongo.IndexModel{Keys: keys("label", 1), Options: named("label")}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			uri := rig.Mongo(t)
			collection := database(t, uri).Collection("accounts")
			name, err := collection.Indexes().CreateOne(t.Context(), c.model)
			if err != nil {
				t.Fatal(err)
			}
			before := listed(t, collection)[name]
			s := open(t, mongostore.Config{URL: uri})
			err = once(t.Context(), s.EnsureIndexes)
			if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "drop it") || strings.Contains(err.Error(), "\n")) {
				t.Errorf("got error %v, want %q", err, c.want)
			}
			after := listed(t, collection)
			if !slices.Equal(after[name].KeysDocument, before.KeysDocument) {
				t.Errorf("the index was changed: %v, before: %v", after[name], before)
			}
			if n := len(after); c.name == "another one beside" && n != 6 || c.name != "another one beside" && n != 5 {
				t.Errorf("%d indexes: %v", n, after)
			}
		})
	}
}

// once tries op as a worker does, and fails if it is tried more than once.
func once(ctx context.Context, op func(context.Context) error) error {
	tried := false
	return backoff.Retry(ctx, backoff.Policy{Base: time.Millisecond, Cap: time.Millisecond}, func(ctx context.Context) error {
		if tried {
			return backoff.Permanent(errors.New("it was tried again"))
		}
		tried = true
		return op(ctx)
	})
}

// What only a person can mend is not tried again, everything else is.
func TestIndexesRefused(t *testing.T) {
	for _, c := range []struct {
		name, command string
		fault         opmsg.Fault
		kind          error
		want          string
	}{
		{"may not list", "listIndexes", opmsg.Fault{Answer: opmsg.Refuse(13, "Unauthorized")}, mongostore.ErrCredentials, "Unauthorized"},
		{"may not create", "createIndexes", opmsg.Fault{Answer: opmsg.Refuse(13, "Unauthorized")}, mongostore.ErrCredentials, "Unauthorized"},
		{"another in its place", "createIndexes", opmsg.Fault{Answer: opmsg.Refuse(85, "IndexOptionsConflict")}, nil, "index due of collection accounts is not the one"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, uri := behind(t, opmsg.Config{})
			s := open(t, mongostore.Config{URL: uri})
			p.Next(1, c.command, c.fault)
			err := once(t.Context(), s.EnsureIndexes)
			if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got error %v, want %q", err, c.want)
			}
			if err := s.EnsureIndexes(t.Context()); err != nil {
				t.Errorf("after that: %v", err)
			}
		})
	}
	t.Run("not primary", func(t *testing.T) {
		p, uri := behind(t, opmsg.Config{})
		s := open(t, mongostore.Config{URL: uri})
		p.Next(1, "createIndexes", opmsg.Fault{Answer: opmsg.Refuse(10107, "NotWritablePrimary")})
		tries := 0
		err := backoff.Retry(t.Context(), backoff.Policy{Base: time.Millisecond, Cap: time.Millisecond}, func(ctx context.Context) error {
			tries++
			return s.EnsureIndexes(ctx)
		})
		if err != nil || tries != 2 {
			t.Errorf("%d tries, %v, want 2", tries, err)
		}
	})
}

// A unique index that isn't ours makes no conflict: there is no account that a
// caller could look at.
func TestStrangeUniqueIndex(t *testing.T) {
	p, uri := behind(t, opmsg.Config{})
	s := open(t, mongostore.Config{URL: uri})
	p.Next(1, "insert", opmsg.Fault{Answer: func(bson.Raw) bson.D {
		return bson.D{{Key: "ok", Value: 1.0}, {Key: "n", Value: 0}, {Key: "writeErrors", Value: bson.A{bson.D{
			{Key: "index", Value: 0}, {Key: "code", Value: 11000}, {Key: "keyPattern", Value: bson.D{{Key: "label", Value: 1}}},
			{Key: "errmsg", Value: `E11000 duplicate key error collection: db.accounts index: label_1 dup key: { label: "x" }`},
		}}}}
	}})
	err := s.Create(t.Context(), testAccount("a"))
	if !errors.Is(err, mongostore.ErrConfig) || errors.Is(err, ledger.ErrConflict) || !strings.Contains(err.Error(), "label_1") || !strings.Contains(err.Error(), "drop it") {
		t.Errorf("got error %v, want %q", err, mongostore.ErrConfig)
	}
}
