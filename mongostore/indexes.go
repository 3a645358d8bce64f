package mongostore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
)

// TombstoneAge is how long the tombstone of a deleted account stays.
const TombstoneAge = 30 * 24 * time.Hour

// buildTimeout is how long the building of indexes may take: of a restored
// database it is more than that of a call.
const buildTimeout = 10 * time.Minute

// index is one that the store wants.
type index struct {
	name    string
	keys    []string // ascending
	partial bson.D   // nil: of all documents
	expire  int64    // seconds after the key's time; 0: never
}

// That they are used, and how far, can be seen on MongoDB alone (explain): the
// stand-in of the tests keeps them and looks at every document all the same.
var indexes = []index{
	// Due: in order of time, so that nothing is sorted and nothing is touched
	// that is not due; and accounts that are due on a platform that the caller
	// leaves out are passed over in the index, where they would else be
	// fetched at each look. Only those that are returned are fetched, at most
	// the limit, for what the index can't tell of them (deleted, or written by
	// a newer worker).
	{name: "due", keys: []string{"refresh_at", "platform"}, partial: bson.D{{Key: "status", Value: string(account.Active)}}},
	{name: "status", keys: []string{"status", "_id"}},
	{name: "announce_pending", keys: []string{"announce_pending"}, partial: bson.D{{Key: "announce_pending", Value: true}}},
	{name: "deleted_at", keys: []string{"deleted_at"}, expire: int64(TombstoneAge / time.Second)},
}

// EnsureIndexes creates the indexes that are missing. It may be called at
// every start and by many workers at once. Without them everything works, but
// slowly, and tombstones stay.
//
// An index that has the name of one of ours and isn't it is left as it is, and
// is an error. That error, and one about privileges, is marked
// [backoff.Permanent].
func (s *Store) EnsureIndexes(ctx context.Context) error {
	present, err := s.presentIndexes(ctx)
	var wrong []error
	for _, ix := range indexes {
		if err != nil {
			break
		}
		there, differs := ix.among(present)
		if !there && differs == nil {
			if err = s.create(ctx, ix); conflicts(err) {
				differs, err = ix.differs(err), nil
			}
		}
		wrong = append(wrong, differs)
	}
	if err == nil {
		return backoff.Permanent(errors.Join(wrong...))
	}
	err = fmt.Errorf("make indexes of collection accounts: %w", s.explain(err))
	if Final(err) {
		return backoff.Permanent(err)
	}
	return err
}

func (s *Store) presentIndexes(ctx context.Context) (present []bson.Raw, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	cursor, err := s.accounts.Indexes().List(ctx)
	if err == nil {
		err = cursor.All(ctx, &present)
	}
	if e, ok := errors.AsType[mongo.ServerError](err); ok && e.HasErrorCode(26) {
		return nil, nil // NamespaceNotFound: no collection yet
	}
	return present, err
}

func (s *Store) create(ctx context.Context, ix index) error {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	_, err := s.accounts.Indexes().CreateOne(ctx, ix.model())
	return err
}

// conflicts reports whether the server has another index in the place of the
// one that it was to make.
func conflicts(err error) bool {
	e, ok := errors.AsType[mongo.ServerError](err)
	return ok && (e.HasErrorCode(85) || e.HasErrorCode(86)) // IndexOptionsConflict, IndexKeySpecsConflict
}

// differs is the error of an index in the place of the wanted one.
func (ix index) differs(present any) error {
	return fmt.Errorf("index %s of collection accounts is not the one that the store needs: there is %v, wanted is %v; it is left as it is: drop it, and the next start makes it anew",
		ix.name, present, ix)
}

func (ix index) model() mongo.IndexModel {
	keys := bson.D{}
	for _, k := range ix.keys {
		keys = append(keys, bson.E{Key: k, Value: int32(1)})
	}
	o := options.Index().SetName(ix.name)
	if ix.partial != nil {
		o.SetPartialFilterExpression(ix.partial)
	}
	if ix.expire != 0 {
		o.SetExpireAfterSeconds(int32(ix.expire))
	}
	return mongo.IndexModel{Keys: keys, Options: o}
}

// among reports whether the index is among those that are present, be it by
// another name. It is an error if one of its name differs.
func (ix index) among(present []bson.Raw) (bool, error) {
	for _, raw := range present {
		var p presentIndex
		if err := bson.Unmarshal(raw, &p); err != nil {
			return false, fmt.Errorf("read index: %w", err)
		}
		if p.is(ix) {
			return true, nil
		}
		if p.Name == ix.name {
			return false, ix.differs(raw)
		}
	}
	return false, nil
}

// presentIndex is an index as the server describes it, as far as it matters.
type presentIndex struct {
	Name      string   `bson:"name"`
	Key       bson.Raw `bson:"key"`
	Partial   bson.D   `bson:"partialFilterExpression"`
	Expire    *float64 `bson:"expireAfterSeconds"`
	Unique    bool     `bson:"unique"`
	Sparse    bool     `bson:"sparse"`
	Hidden    bool     `bson:"hidden"`
	Collation bson.Raw `bson:"collation"`
}

// is reports whether the index does what the wanted one does.
func (p presentIndex) is(want index) bool {
	elements, err := p.Key.Elements()
	if err != nil || len(elements) != len(want.keys) || p.Unique || p.Sparse || p.Hidden || p.Collation != nil {
		return false
	}
	for i, e := range elements {
		if order, ok := e.Value().AsInt64OK(); !ok || order != 1 || e.Key() != want.keys[i] {
			return false
		}
	}
	expire := int64(0)
	if p.Expire != nil {
		expire = int64(*p.Expire)
	}
	return expire == want.expire && fmt.Sprint(p.Partial) == fmt.Sprint(want.partial)
}

// String returns the index as [mongo.IndexView] would list it.
func (ix index) String() string {
	m := ix.model()
	d := bson.D{{Key: "key", Value: m.Keys}, {Key: "name", Value: ix.name}}
	if ix.partial != nil {
		d = append(d, bson.E{Key: "partialFilterExpression", Value: ix.partial})
	}
	if ix.expire != 0 {
		d = append(d, bson.E{Key: "expireAfterSeconds", Value: ix.expire})
	}
	return d.String()
}
