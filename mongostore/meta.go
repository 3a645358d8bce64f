package mongostore

import (
	"context"
	"errors"
	"fmt"

	"github.com/tokenbus/tokenbus/ledger"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// CheckValue returns the fleet's value of that name. If there is none, it
// stores and returns create; if that is nil too, it returns
// ledger.ErrNotFound. Of many callers at once one stores its value and all
// get it.
func (s *Store) CheckValue(ctx context.Context, name string, create []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	value, err := s.readMeta(ctx, name)
	if errors.Is(err, mongo.ErrNoDocuments) && create != nil {
		value, err = s.createMeta(ctx, name, create)
	}
	switch {
	case errors.Is(err, mongo.ErrNoDocuments):
		err = ledger.ErrNotFound
	case err != nil:
		err = s.explain(err)
	default:
		return value, nil
	}
	return nil, fmt.Errorf("check value %s: %w", name, err)
}

type metaDocument struct {
	Name  string `bson:"_id"`
	Value []byte `bson:"value"`
}

func (s *Store) readMeta(ctx context.Context, name string) ([]byte, error) {
	var d metaDocument
	err := s.meta.FindOne(ctx, bson.D{{Key: "_id", Value: name}}).Decode(&d)
	return d.Value, err
}

// createMeta stores the value, or returns the one that is there.
func (s *Store) createMeta(ctx context.Context, name string, value []byte) ([]byte, error) {
	var d metaDocument
	err := s.meta.FindOneAndUpdate(ctx, bson.D{{Key: "_id", Value: name}},
		bson.D{{Key: "$setOnInsert", Value: bson.D{{Key: "value", Value: value}}}},
		options.FindOneAndUpdate().SetUpsert(true).SetReturnDocument(options.After)).Decode(&d)
	if judge(err) == duplicate { // another caller was quicker
		if d.Value, err = s.readMeta(ctx, name); errors.Is(err, mongo.ErrNoDocuments) {
			err = errors.New("another worker is storing it, and no majority has it yet")
		}
	}
	return d.Value, err
}
