package natskv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/streams"
)

// Cache is the cache that all workers share, in one bucket. Lookups go to the
// nearest replica; a put is a compare-and-set at the leader.
//
// An entry ends an hour past its Until where the bucket allows times to live of
// single messages, as one that is made here does, else never.
type Cache struct {
	bucket *bucket
}

var _ ledger.Cache = (*Cache)(nil)

const (
	// orderKept is how long past its Until an entry holds its place, so that
	// late puts are refused.
	orderKept = time.Hour
	// maxTTL is the longest time to live that is worth setting.
	maxTTL = 10 * 365 * 24 * time.Hour
)

// NewCache opens the bucket <Prefix>_CACHE.
func NewCache(ctx context.Context, c Config) (*Cache, error) {
	b, err := open(ctx, c, settings{suffix: "_CACHE", about: "tokenbus: tokens shared by the workers, sealed", keeps: nothing, direct: true, msgTTL: true})
	if err != nil {
		return nil, err
	}
	b.seen = streams.NewRecent[string, message](seenKeys)
	return &Cache{b}, nil
}

// Get implements [ledger.Cache].
func (c *Cache) Get(ctx context.Context, key account.Key) (ledger.Entry, error) {
	ctx, cancel := c.bucket.bound(ctx)
	defer cancel()
	e, err := c.get(ctx, key.String())
	if err != nil {
		return ledger.Entry{}, c.bucket.failed("get", key.String(), err)
	}
	return e, nil
}

func (c *Cache) get(ctx context.Context, key string) (ledger.Entry, error) {
	if err := ctx.Err(); err != nil {
		return ledger.Entry{}, err
	}
	m, err := c.bucket.stream.GetLastMsgForSubject(ctx, c.bucket.subjects+key)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		c.bucket.saw(key, message{})
		return ledger.Entry{}, ledger.ErrNotFound
	case err != nil:
		return ledger.Entry{}, err
	case deleted(m.Header):
		return ledger.Entry{}, ledger.ErrNotFound
	}
	c.bucket.saw(key, message{data: m.Data, seq: m.Sequence, live: true})
	return decodeEntry(m.Data)
}

// Put implements [ledger.Cache].
func (c *Cache) Put(ctx context.Context, key account.Key, e ledger.Entry) (bool, error) {
	ctx, cancel := c.bucket.bound(ctx)
	defer cancel()
	name := key.String()
	if m, ok := c.bucket.seen.Get(name); ok {
		ok, err := c.put(ctx, name, e, m)
		if ok {
			return true, nil
		}
		if err != nil && !errors.Is(err, errRaced) {
			return false, c.bucket.failed("put", name, err)
		}
	}
	for attempt := 0; ; attempt++ {
		m, err := c.bucket.read(ctx, name)
		ok := false
		if err == nil {
			ok, err = c.put(ctx, name, e, m)
		}
		if errors.Is(err, errRaced) { // by a write that may have a lower rev
			if err = pause(ctx, attempt); err == nil {
				continue
			}
		}
		if err != nil {
			return false, c.bucket.failed("put", name, err)
		}
		return ok, nil
	}
}

// put writes e in the place of m, unless that is as new.
func (c *Cache) put(ctx context.Context, key string, e ledger.Entry, m message) (bool, error) {
	if m.live {
		rev, err := decodeRev(m.data)
		if err != nil {
			c.bucket.log.Warn("cache entry is damaged and gets replaced", "account", key, "error", err)
		} else if rev >= e.Rev {
			return false, nil
		}
	}
	ttl := max(time.Until(e.Until), 0) + orderKept
	if ttl > maxTTL {
		ttl = 0
	}
	_, err := c.bucket.write(ctx, key, nil, encodeEntry(e), m.seq, ttl)
	return err == nil, err
}

// An entry is stored as one byte for the format, the rev, the version and the
// end in Unix milliseconds as variable-length integers (0: no end), and the
// value. Every later format keeps the rev where it is.
const entryFormat = 1

func encodeEntry(e ledger.Entry) []byte {
	out := make([]byte, 0, 1+3*binary.MaxVarintLen64+len(e.Value))
	out = append(out, entryFormat)
	out = binary.AppendVarint(out, int64(e.Rev))
	out = binary.AppendVarint(out, int64(e.Version))
	until := int64(0)
	if !e.Until.IsZero() {
		until = e.Until.UnixMilli()
	}
	out = binary.AppendVarint(out, until)
	return append(out, e.Value...)
}

var errEntry = errors.New("not a cache entry")

func decodeRev(data []byte) (account.Rev, error) {
	if len(data) == 0 || data[0] == 0 {
		return 0, errEntry
	}
	rev, n := binary.Varint(data[1:])
	if n <= 0 {
		return 0, errEntry
	}
	return account.Rev(rev), nil
}

func decodeEntry(data []byte) (ledger.Entry, error) {
	if len(data) == 0 {
		return ledger.Entry{}, errEntry
	}
	if data[0] != entryFormat {
		return ledger.Entry{}, fmt.Errorf("cache entry of format %d, want %d", data[0], entryFormat)
	}
	rest := data[1:]
	var fields [3]int64
	for i := range fields {
		v, n := binary.Varint(rest)
		if n <= 0 {
			return ledger.Entry{}, errEntry
		}
		fields[i], rest = v, rest[n:]
	}
	e := ledger.Entry{Rev: account.Rev(fields[0]), Version: account.Version(fields[1]), Value: rest}
	if fields[2] != 0 {
		e.Until = time.UnixMilli(fields[2]).UTC()
	}
	return e, nil
}
