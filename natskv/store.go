package natskv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/streams"
)

// Store keeps account documents in one bucket, as JSON. Due, Pending and List
// come from an index in memory, which one watcher of the bucket keeps.
//
// A tombstone ends 30 days after the deletion where the bucket allows times to
// live of single messages, as one that is made here does, else never.
//
// Consistency: Get asks the stream's leader. Where a network split leaves a
// former leader that doesn't know it yet, its answer may be old; an Update
// that rests on it is refused.
type Store struct {
	bucket *bucket
	index  *watchedIndex
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

var _ ledger.Store = (*Store)(nil)

// tombstoneKept is how long a tombstone remembers its counters.
const tombstoneKept = 30 * 24 * time.Hour

// NewStore opens the bucket <Prefix>_ACCOUNTS and begins to watch it. Close
// ends that.
func NewStore(ctx context.Context, c Config) (*Store, error) {
	b, err := open(ctx, c, settings{suffix: "_ACCOUNTS", about: "tokenbus: account documents, credentials sealed", msgTTL: true})
	if err != nil {
		return nil, err
	}
	b.seen = streams.NewRecent[string, message](seenKeys)
	s := &Store{bucket: b, index: newWatchedIndex()}
	watching, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.wg.Go(func() { s.watch(watching) })
	return s, nil
}

// Close ends the watcher and waits for it. It may be called more than once.
func (s *Store) Close() {
	s.stop()
	s.wg.Wait()
}

// Get implements [ledger.Store].
func (s *Store) Get(ctx context.Context, key account.Key) (account.Account, error) {
	ctx, cancel := s.bucket.bound(ctx)
	defer cancel()
	a, _, err := s.get(ctx, key.String())
	if err != nil {
		return account.Account{}, s.bucket.failed("get account", key.String(), err)
	}
	return a, nil
}

// get returns the document and the sequence that the next write must name,
// which is also returned with ErrNotFound.
func (s *Store) get(ctx context.Context, key string) (account.Account, uint64, error) {
	m, err := s.bucket.read(ctx, key)
	if err != nil {
		return account.Account{}, 0, err
	}
	if !m.live {
		return account.Account{}, m.seq, ledger.ErrNotFound
	}
	a, err := decodeAccount(key, m.data)
	return a, m.seq, err
}

// Create implements [ledger.Store].
func (s *Store) Create(ctx context.Context, a account.Account) error {
	ctx, cancel := s.bucket.bound(ctx)
	defer cancel()
	key := a.Key.String()
	after := uint64(0) // most often there is nothing
	for attempt := 0; ; attempt++ {
		err := s.put(ctx, a, after)
		if err == nil {
			return nil
		}
		if errors.Is(err, errRaced) {
			_, after, err = s.get(ctx, key)
			if err == nil {
				err = ledger.ErrConflict
			} else if errors.Is(err, ledger.ErrNotFound) {
				// The mark of a key that was deleted by other means, or a
				// document that is on its way.
				if err = pause(ctx, attempt); err == nil {
					continue
				}
			}
		}
		return s.bucket.failed("create account", key, err)
	}
}

// Update implements [ledger.Store]: it reads at the leader, checks the guard
// and writes with the sequence that it has read, again if another write came
// in between. Where this process has seen the document a moment ago it writes
// without a read; only that it has written is believed then.
func (s *Store) Update(ctx context.Context, key account.Key, guard account.Guard, change account.Change) (account.Account, error) {
	ctx, cancel := s.bucket.bound(ctx)
	defer cancel()
	name := key.String()
	if m, ok := s.bucket.seen.Get(name); ok {
		a, err := s.change(ctx, name, m, guard, change)
		if err == nil {
			return a, nil
		}
		if !notWritten(err) {
			return account.Account{}, s.bucket.failed("update account", name, err)
		}
	}
	for attempt := 0; ; attempt++ {
		m, err := s.bucket.read(ctx, name)
		var a account.Account
		if err == nil {
			a, err = s.change(ctx, name, m, guard, change)
		}
		if errors.Is(err, errRaced) {
			if err = pause(ctx, attempt); err == nil {
				continue
			}
		}
		if err != nil {
			return account.Account{}, s.bucket.failed("update account", name, err)
		}
		return a, nil
	}
}

// change writes the document that m holds with the change in it, if the guard
// holds.
func (s *Store) change(ctx context.Context, key string, m message, guard account.Guard, change account.Change) (account.Account, error) {
	if !m.live {
		return account.Account{}, ledger.ErrNotFound
	}
	a, err := m.document(key)
	if err != nil {
		return account.Account{}, err
	}
	if !guard.Holds(&a) {
		return account.Account{}, ledger.ErrConflict
	}
	if a.SchemaVersion > account.SchemaVersion {
		return account.Account{}, fmt.Errorf("%w: it has schema version %d, this program knows %d and would lose fields", ledger.ErrDamaged, a.SchemaVersion, account.SchemaVersion)
	}
	change.Apply(&a)
	return a, s.put(ctx, a, m.seq)
}

// notWritten reports whether err says that nothing was written, for certain.
func notWritten(err error) bool {
	for _, certain := range []error{errRaced, ledger.ErrNotFound, ledger.ErrConflict, ledger.ErrDamaged} {
		if errors.Is(err, certain) {
			return true
		}
	}
	return false
}

func (s *Store) put(ctx context.Context, a account.Account, after uint64) error {
	data, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	var ttl time.Duration
	if a.Deleted() && !a.AnnouncePending {
		// At least an hour, however old: the write is news to somebody.
		ttl = max(time.Until(a.DeletedAt.Add(tombstoneKept)), time.Hour)
	}
	key := a.Key.String()
	seq, err := s.bucket.write(ctx, key, nats.Header{headerFacts: {factsOf(a).encode()}}, data, after, ttl)
	if err == nil {
		s.bucket.saw(key, message{account: new(a.Clone()), seq: seq, live: true}) // most are changed again at once
	}
	return err
}

// document returns the document in m, which is the caller's.
func (m message) document(key string) (account.Account, error) {
	if m.account != nil {
		return m.account.Clone(), nil
	}
	return decodeAccount(key, m.data)
}

var errDamaged = fmt.Errorf("damaged document: %w", ledger.ErrDamaged)

// decodeAccount reads a document and checks that it is the one of its key.
func decodeAccount(key string, data []byte) (account.Account, error) {
	var a account.Account
	if err := json.Unmarshal(data, &a); err != nil {
		return account.Account{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if a.Key.String() != key {
		return account.Account{}, fmt.Errorf("%w: it is that of another key", errDamaged)
	}
	return a, nil
}

// Due implements [ledger.Store].
func (s *Store) Due(ctx context.Context, now time.Time, limit int, except ...string) ([]account.Key, error) {
	ix, err := s.index.get(ctx)
	if err != nil {
		return nil, fmt.Errorf("list due accounts of bucket %s: %w", s.bucket.name, err)
	}
	return ix.dueBy(now, limit, except...), nil
}

// Pending implements [ledger.Store].
func (s *Store) Pending(ctx context.Context, limit int) ([]account.Key, error) {
	ix, err := s.index.get(ctx)
	if err != nil {
		return nil, fmt.Errorf("list pending accounts of bucket %s: %w", s.bucket.name, err)
	}
	return ix.pendingKeys(limit), nil
}

// List implements [ledger.Store].
func (s *Store) List(ctx context.Context, q ledger.ListQuery) ([]account.Account, error) {
	ix, err := s.index.get(ctx)
	if err != nil {
		return nil, fmt.Errorf("list accounts of bucket %s: %w", s.bucket.name, err)
	}
	var out []account.Account
	for len(out) < q.Limit {
		keys := ix.page(q, q.Limit-len(out))
		found, err := s.getAll(ctx, keys)
		if err != nil {
			return nil, err
		}
		for _, a := range found {
			// The index may lag behind the document.
			if a != nil && !a.Deleted() && (q.Status == "" || a.Status == q.Status) {
				out = append(out, *a)
			}
		}
		if len(keys) == 0 {
			break
		}
		q.After = keys[len(keys)-1]
	}
	return out, nil
}

// getAll fetches documents, a few at a time; one that is gone is nil.
func (s *Store) getAll(ctx context.Context, keys []string) ([]*account.Account, error) {
	const atOnce = 16
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	found := make([]*account.Account, len(keys))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, key := range keys {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ctx, done := s.bucket.bound(ctx)
			defer done()
			a, _, err := s.get(ctx, key)
			switch {
			case err == nil:
				found[i] = &a
			case !errors.Is(err, ledger.ErrNotFound):
				cancel(s.bucket.failed("get account", key, err))
			}
		})
	}
	wg.Wait()
	return found, context.Cause(ctx)
}
