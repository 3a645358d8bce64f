package rediskv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
)

// How long an entry is kept past its Until, and at most.
const (
	keepPast = time.Hour
	keepMost = 100 * 365 * 24 * time.Hour
)

// putScript stores an entry unless one of the same or a higher rev is there.
// Numbers in Lua are exact up to 2^53 only: revs are compared as text, first
// by length; what is no number is replaced. ARGV: rev, version, until, value,
// time to live in ms.
var putScript = redis.NewScript(`
local old, new = redis.call('HGET', KEYS[1], 'rev'), ARGV[1]
if old and not old:find('%D') and (#old > #new or #old == #new and old >= new) then
  return 0
end
redis.call('HSET', KEYS[1], 'rev', new, 'version', ARGV[2], 'until', ARGV[3], 'value', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
`)

// Cache is the cache that all workers share. It implements ledger.Cache.
type Cache struct {
	client *Client
}

var _ ledger.Cache = (*Cache)(nil)

// Cache returns the cache on this client.
func (c *Client) Cache() *Cache { return &Cache{c} }

// Get implements ledger.Cache.
func (c *Cache) Get(ctx context.Context, key account.Key) (ledger.Entry, error) {
	e, err := c.get(ctx, key)
	if err != nil {
		return ledger.Entry{}, accountError("get cache entry of", key, err)
	}
	return e, nil
}

func (c *Cache) get(ctx context.Context, key account.Key) (ledger.Entry, error) {
	var fields []any
	err := c.client.call(ctx, func(ctx context.Context) (err error) {
		fields, err = c.client.redis.HMGet(ctx, c.client.key("cache", key.String()), "rev", "version", "until", "value").Result()
		return err
	})
	if err != nil {
		return ledger.Entry{}, err
	}
	if fields[0] == nil {
		return ledger.Entry{}, ledger.ErrNotFound
	}
	var problems []error
	number := func(i int, name string) int64 {
		text, _ := fields[i].(string)
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			problems = append(problems, fmt.Errorf("field %s is no number", name))
		}
		return n
	}
	e := ledger.Entry{
		Rev:     account.Rev(number(0, "rev")),
		Version: account.Version(number(1, "version")),
		Until:   time.UnixMilli(number(2, "until")).UTC(),
	}
	value, ok := fields[3].(string)
	if !ok {
		problems = append(problems, errors.New("field value is missing"))
	}
	e.Value = []byte(value)
	return e, errors.Join(problems...)
}

// Put implements ledger.Cache.
func (c *Cache) Put(ctx context.Context, key account.Key, e ledger.Entry) (bool, error) {
	if e.Rev < 0 {
		return false, accountError("put cache entry of", key, fmt.Errorf("rev %d is negative", e.Rev))
	}
	keep := min(max(time.Until(e.Until), 0), keepMost) + keepPast
	n, err := c.client.run(ctx, putScript, c.client.key("cache", key.String()),
		int64(e.Rev), int64(e.Version), e.Until.UnixMilli(), e.Value, keep.Milliseconds())
	if err != nil {
		return false, accountError("put cache entry of", key, err)
	}
	return n == 1, nil
}
