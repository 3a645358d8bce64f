package mongostore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
)

var notDeleted = bson.E{Key: "deleted_at", Value: bson.D{{Key: "$exists", Value: false}}}

// Due implements ledger.Store. Documents of newer workers are theirs to
// refresh, and left out. The index "due" has all but that and the deletion, so
// accounts that are not due, and those of the platforms in except, cost no
// fetch; of the others the key alone is sent.
func (s *Store) Due(ctx context.Context, now time.Time, limit int, except ...string) ([]account.Key, error) {
	filter := bson.D{
		{Key: "status", Value: string(account.Active)},
		{Key: "refresh_at", Value: bson.D{{Key: "$lte", Value: now}}},
		notDeleted, known,
	}
	if len(except) > 0 {
		filter = append(filter, bson.E{Key: "platform", Value: bson.D{{Key: "$nin", Value: except}}})
	}
	return s.keys(ctx, "list due accounts", filter, bson.D{{Key: "refresh_at", Value: 1}}, limit)
}

// Pending implements ledger.Store. Documents of newer workers are left out.
func (s *Store) Pending(ctx context.Context, limit int) ([]account.Key, error) {
	return s.keys(ctx, "list pending announcements", bson.D{{Key: "announce_pending", Value: true}, known}, nil, limit)
}

// List implements ledger.Store. A document of a newer worker is an error: a
// list without it would be taken for the whole.
func (s *Store) List(ctx context.Context, q ledger.ListQuery) ([]account.Account, error) {
	ids := bson.D{}
	if q.Platform != "" {
		// Keys of one platform lie together: "/" is the character after ".".
		ids = append(ids, bson.E{Key: "$gte", Value: q.Platform + "."}, bson.E{Key: "$lt", Value: q.Platform + "/"})
	}
	if q.After != "" {
		ids = append(ids, bson.E{Key: "$gt", Value: q.After})
	}
	f := bson.D{notDeleted}
	if len(ids) > 0 {
		f = append(f, bson.E{Key: "_id", Value: ids})
	}
	if q.Status != "" {
		f = append(f, bson.E{Key: "status", Value: string(q.Status)})
	}
	var accounts []account.Account
	err := s.find(ctx, f, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(q.Limit)),
		func(raw bson.Raw) error {
			a, err := decode(raw)
			if err == nil {
				accounts = append(accounts, a)
			}
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	return accounts, nil
}

// keys returns the keys of the documents that match.
func (s *Store) keys(ctx context.Context, verb string, filter, sort bson.D, limit int) ([]account.Key, error) {
	opts := options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit))
	if sort != nil {
		opts.SetSort(sort)
	}
	var keys []account.Key
	err := s.find(ctx, filter, opts, func(raw bson.Raw) error {
		text, _ := raw.Lookup("_id").StringValueOK()
		key, err := account.ParseKey(text)
		if err == nil {
			keys = append(keys, key)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", verb, err)
	}
	return keys, nil
}

// find calls read with each document that matches. One that can't be read,
// which somebody else must have written, is left out with a warning, so that
// it doesn't hide all others.
func (s *Store) find(ctx context.Context, filter bson.D, opts *options.FindOptionsBuilder, read func(bson.Raw) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	cursor, err := s.listing.Find(ctx, filter, opts)
	if err != nil {
		return s.explain(err)
	}
	defer func() { _ = cursor.Close(ctx) }() // at worst the server forgets it later
	for cursor.Next(ctx) {
		err := read(cursor.Current)
		if errors.Is(err, ErrNewer) {
			return fmt.Errorf("account %v: %w", cursor.Current.Lookup("_id"), err)
		}
		if err != nil {
			s.log.WarnContext(ctx, "account document can't be read", "id", cursor.Current.Lookup("_id").String(), "error", err)
		}
	}
	return s.explain(cursor.Err())
}
