package mongostore

import (
	"context"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/tokenbus/tokenbus/account"
)

// TombstoneAge is how long the tombstone of a deleted account stays.
const TombstoneAge = 30 * 24 * time.Hour

// EnsureIndexes creates the indexes that are missing. It may be called at
// every start and by many workers at once. Without them everything works, but
// slowly, and tombstones stay.
func (s *Store) EnsureIndexes(ctx context.Context) error {
	partial := func(field string, value any) *options.IndexOptionsBuilder {
		return options.Index().SetPartialFilterExpression(bson.D{{Key: field, Value: value}})
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	_, err := s.accounts.Indexes().CreateMany(ctx, []mongo.IndexModel{
		{
			Keys:    bson.D{{Key: "refresh_at", Value: 1}},
			Options: partial("status", string(account.Active)).SetName("refresh_at"),
		},
		{
			Keys:    bson.D{{Key: "status", Value: 1}, {Key: "_id", Value: 1}},
			Options: options.Index().SetName("status"),
		},
		{
			Keys:    bson.D{{Key: "announce_pending", Value: 1}},
			Options: partial("announce_pending", true).SetName("announce_pending"),
		},
		{
			Keys:    bson.D{{Key: "deleted_at", Value: 1}},
			Options: options.Index().SetName("deleted_at").SetExpireAfterSeconds(int32(TombstoneAge / time.Second)),
		},
	})
	if err != nil {
		return fmt.Errorf("create indexes: %w", explain(err))
	}
	return nil
}
