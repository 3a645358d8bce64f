package mongostore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
)

// DefaultTimeout is how long a call may take where neither Config nor URL say.
const DefaultTimeout = 5 * time.Second

// Config configures a [Store].
type Config struct {
	// URL is mongodb://[user:password@]host[:port][,…]/database[?options] or
	// mongodb+srv://… Required. Write concern, read preference and read
	// concern are the store's own: options that say otherwise are refused, as
	// are unknown ones. It may hold a password: it is never shown.
	URL string
	// Timeout bounds each call, beside its context. Default: the option
	// timeoutMS, else [DefaultTimeout].
	Timeout time.Duration
	// Logger tells of documents that can't be read. nil: discard.
	Logger *slog.Logger
}

// Store keeps accounts in a MongoDB database. It implements ledger.Store.
type Store struct {
	address  address
	sight    *sight
	client   *mongo.Client
	accounts *mongo.Collection // reads that decide
	listing  *mongo.Collection // the same collection, for queries
	meta     *mongo.Collection
	timeout  time.Duration
	mayWrite atomic.Bool // the server has let us write
	log      *slog.Logger
}

var _ ledger.Store = (*Store)(nil)

// Open returns the store of the database that the URL names. It waits for
// nobody: a server that can't be reached shows in [Store.Ping] and in every
// other call, and is looked for from then on. An error about the URL is
// [ErrConfig]; one that is a [*net.DNSError] isn't: with mongodb+srv the hosts
// are looked up, and Open may be tried again.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cfg.Timeout < 0 {
		return nil, errors.New("open MongoDB: Timeout is negative")
	}
	addr, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	timeout := cmp.Or(cfg.Timeout, addr.timeout, DefaultTimeout)
	seen := new(sight)
	opts := addr.options.
		SetTimeout(timeout).
		SetServerMonitor(seen.monitor()).
		SetReadPreference(readpref.Primary()).
		SetWriteConcern(&writeconcern.WriteConcern{W: "majority", Journal: new(true)}).
		SetReadConcern(addr.readConcern)
	if opts.AppName == nil {
		opts.SetAppName("tokenbus")
	}
	if opts.ConnectTimeout == nil { // also how long a check may take that finds a server gone
		opts.SetConnectTimeout(max(timeout, DefaultTimeout))
	}
	client, err := mongo.Connect(opts)
	if err != nil {
		return nil, fmt.Errorf("open MongoDB: %w", err)
	}
	addr.options = nil // it holds the password
	db := client.Database(addr.database)
	s := &Store{
		address:  addr,
		sight:    seen,
		client:   client,
		accounts: db.Collection("accounts"),
		listing:  db.Collection("accounts", options.Collection().SetReadConcern(readconcern.Majority())),
		meta:     db.Collection("meta"),
		timeout:  timeout,
		log:      cfg.Logger,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// Ping asks the primary whether it is there and takes our credentials, and
// until it has said so once whether we may write. [Final] tells whether an
// error may end by itself.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err := s.client.Ping(ctx, nil)
	if err == nil && !s.mayWrite.Load() {
		err = s.tryWrite(ctx)
	}
	if err != nil {
		return fmt.Errorf("ping MongoDB: %w", s.explain(err))
	}
	return nil
}

// tryWrite writes to a document that isn't there, which a user who may only
// read isn't let do.
func (s *Store) tryWrite(ctx context.Context) error {
	accounts := s.accounts.Clone(options.Collection().SetWriteConcern(writeconcern.W1()))
	err := accounts.FindOneAndUpdate(ctx, bson.D{{Key: "_id", Value: ""}},
		bson.D{{Key: "$set", Value: bson.D{{Key: "never", Value: true}}}}).Err()
	if errors.Is(err, mongo.ErrNoDocuments) {
		s.mayWrite.Store(true)
		return nil
	}
	return err
}

// Close closes all connections, when the calls that use them have ended or
// when ctx ends.
func (s *Store) Close(ctx context.Context) error {
	if err := s.client.Disconnect(ctx); err != nil && !errors.Is(err, mongo.ErrClientDisconnected) {
		return fmt.Errorf("close MongoDB: %w", err)
	}
	return nil
}

// Get implements ledger.Store. The error of a document that a newer worker
// wrote is [ErrNewer], here and in the other methods.
func (s *Store) Get(ctx context.Context, key account.Key) (account.Account, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	raw, err := s.accounts.FindOne(ctx, bson.D{{Key: "_id", Value: key.String()}}).Raw()
	return s.result("get", key, raw, err)
}

// Create implements ledger.Store.
func (s *Store) Create(ctx context.Context, a account.Account) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	_, err := s.accounts.InsertOne(ctx, encode(a))
	switch {
	case err == nil:
		return nil
	case judge(err) == duplicate:
		err = ledger.ErrConflict
	default:
		err = s.explain(err)
	}
	return fmt.Errorf("create account %s: %w", a.Key, err)
}

// Update implements ledger.Store.
func (s *Store) Update(ctx context.Context, key account.Key, guard account.Guard, change account.Change) (account.Account, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	u, err := update(change)
	if err != nil {
		return account.Account{}, fmt.Errorf("update account %s: %w", key, err)
	}
	raw, err := s.accounts.FindOneAndUpdate(ctx, filter(key, guard), u,
		options.FindOneAndUpdate().SetReturnDocument(options.After)).Raw()
	if errors.Is(err, mongo.ErrNoDocuments) {
		raw, err = nil, s.whyNot(ctx, key)
	}
	return s.result("update", key, raw, err)
}

// whyNot says why no document matched an update, which so has written nothing:
// there is none, a newer worker wrote it, or the guard doesn't hold.
func (s *Store) whyNot(ctx context.Context, key account.Key) error {
	raw, err := s.accounts.FindOne(ctx, bson.D{{Key: "_id", Value: key.String()}},
		options.FindOne().SetProjection(bson.D{{Key: "schema_version", Value: 1}})).Raw()
	if err != nil {
		return err
	}
	if err := checkSchema(raw); err != nil {
		return err
	}
	return ledger.ErrConflict
}

// result reads the outcome of a call that returns one document.
func (s *Store) result(verb string, key account.Key, raw bson.Raw, err error) (account.Account, error) {
	var a account.Account
	switch {
	case errors.Is(err, mongo.ErrNoDocuments):
		err = ledger.ErrNotFound
	case errors.Is(err, ledger.ErrConflict), errors.Is(err, ErrNewer):
	case err != nil:
		err = s.explain(err)
	default:
		a, err = decode(raw)
	}
	if err != nil {
		return account.Account{}, fmt.Errorf("%s account %s: %w", verb, key, err)
	}
	return a, nil
}
