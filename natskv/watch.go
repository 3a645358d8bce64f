package natskv

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
)

const (
	// watchRetry is how long the watcher waits after it has failed.
	watchRetry = time.Second
	// watchResets is how often it tries to go on where it was before it
	// starts anew.
	watchResets = 4
	// heartbeat is how often the server shows that it still delivers. After
	// two silent ones the library asks anew: a request that got lost, as when
	// a consumer has just been made in a cluster, would cost half a minute by
	// its default.
	heartbeat = time.Second
	// quiet is how long a gap in the first messages makes it look whether
	// there are more. The library counts its heartbeats anew in each call of
	// Next, so this must be longer than two of them.
	quiet = 3 * heartbeat
)

// watchedIndex is the newest index that is complete.
type watchedIndex struct {
	current atomic.Pointer[index]
	ready   chan struct{} // closed when there is one
}

func newWatchedIndex() *watchedIndex { return &watchedIndex{ready: make(chan struct{})} }

// get waits for the first complete index.
func (w *watchedIndex) get(ctx context.Context) (*index, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-w.ready:
		return w.current.Load(), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("the index is not complete yet: %w", ctx.Err())
	}
}

// complete is called by the watcher alone.
func (w *watchedIndex) complete(ix *index) {
	if w.current.Swap(ix) == nil {
		close(w.ready)
	}
}

// watch keeps the index until ctx ends. While it can't, the last one serves.
func (s *Store) watch(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := s.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		s.bucket.log.Warn("account index lags: its watcher starts anew", "error", err)
		timer.Reset(watchRetry)
	}
}

// follow builds a new index from the headers of all documents and goes on with
// each write. It returns when the watcher can't be kept.
func (s *Store) follow(ctx context.Context) error {
	create, cancel := s.bucket.bound(ctx)
	defer cancel()
	consumer, err := s.bucket.js.OrderedConsumer(create, "KV_"+s.bucket.name, jetstream.OrderedConsumerConfig{
		HeadersOnly: true, InactiveThreshold: time.Minute, MaxResetAttempts: watchResets,
	})
	if err != nil {
		return explain(s.bucket.config.Name, err)
	}
	messages, err := consumer.Messages(jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return err
	}
	defer messages.Stop()
	// Next may be busy with a reset, which ends by Stop alone.
	defer context.AfterFunc(ctx, messages.Stop)()

	ix, synced := newIndex(), false
	left := consumer.CachedInfo().NumPending
	for {
		if !synced && left == 0 {
			s.index.complete(ix)
			synced = true
		}
		var msg jetstream.Msg
		if msg, left, err = next(ctx, consumer, messages, synced); err != nil {
			return err
		}
		if msg != nil {
			if err := s.take(ctx, ix, msg); err != nil {
				return err
			}
		}
	}
}

// next returns the next message and how many are left behind it. A message may
// vanish before it is delivered, so a consumer that isn't synced and falls
// quiet is asked how many are left.
func next(ctx context.Context, consumer jetstream.Consumer, messages jetstream.MessagesContext, synced bool) (jetstream.Msg, uint64, error) {
	wait, cancel := ctx, context.CancelFunc(func() {})
	if !synced {
		wait, cancel = context.WithTimeout(ctx, quiet)
	}
	defer cancel()
	msg, err := messages.Next(jetstream.NextContext(wait))
	if err == nil {
		meta, err := msg.Metadata()
		if err != nil {
			return nil, 0, err
		}
		return msg, meta.NumPending, nil
	}
	if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return nil, 0, err
	}
	asked, done := context.WithTimeout(ctx, DefaultTimeout)
	defer done()
	info, err := consumer.Info(asked)
	if err != nil {
		return nil, 0, err
	}
	return nil, info.NumPending, nil
}

// take brings the index up to one message.
func (s *Store) take(ctx context.Context, ix *index, msg jetstream.Msg) error {
	key, ok := s.bucket.key(msg.Subject())
	if !ok {
		return nil
	}
	if _, err := account.ParseKey(key); err != nil {
		s.bucket.log.Warn("bucket holds a key that is no account", "key", key)
		return nil
	}
	if deleted(msg.Headers()) {
		ix.drop(key)
		return nil
	}
	if f, ok := decodeFacts(msg.Headers().Get(headerFacts)); ok {
		ix.set(key, f)
		return nil
	}
	// Written by other means, such as nats kv put.
	read, cancel := s.bucket.bound(ctx)
	defer cancel()
	a, _, err := s.get(read, key)
	switch {
	case err == nil:
		ix.set(key, factsOf(a))
	case errors.Is(err, ledger.ErrNotFound):
		ix.drop(key)
	case errors.Is(err, errDamaged):
		s.bucket.log.Error("account document can't be read", "account", key, "error", err)
	default:
		return err
	}
	return nil
}
