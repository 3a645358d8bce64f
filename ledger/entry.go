package ledger

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/rotation"
)

// entryJSON is the first line of a shared-cache entry's plaintext: a view, but
// for what the entry itself tells. Its token is the rest: nothing needs to look
// at each byte of that. Times are in Unix milliseconds, as stores keep them; 0 is
// none.
type entryJSON struct {
	Status     account.Status `json:"status"`
	Gone       bool           `json:"gone,omitempty"`
	TokenType  string         `json:"token_type,omitempty"`
	Extra      account.Extra  `json:"extra,omitempty"`
	Expires    int64          `json:"expires,omitempty"`
	End        int64          `json:"end,omitempty"`
	Lifetime   time.Duration  `json:"lifetime,omitempty"`
	Issued     int64          `json:"issued,omitempty"`
	Streak     int            `json:"streak,omitempty"`
	Earliest   int64          `json:"earliest,omitempty"`
	HasRefresh bool           `json:"has_refresh,omitempty"`
	Dead       bool           `json:"dead,omitempty"`
	Code       string         `json:"code,omitempty"`
	Text       string         `json:"text,omitempty"`
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return cmp.Or(t.UnixMilli(), 1) // 1970 as well
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func encodeView(v *rotation.View) ([]byte, error) {
	head, err := json.Marshal(entryJSON{
		v.Status, v.Gone, v.TokenType, v.Extra, millis(v.Expires), millis(v.End), v.Lifetime, millis(v.Issued), v.Streak,
		millis(v.Earliest), v.HasRefresh, v.Dead, v.Code, v.Text,
	})
	return append(append(head, '\n'), v.Token.Reveal()...), err
}

var errEntry = errors.New("not of the expected form")

// decodeView undoes encodeView for the view of e.
func decodeView(key account.Key, e Entry, plain []byte) (*rotation.View, error) {
	head, token, whole := bytes.Cut(plain, []byte{'\n'})
	var j entryJSON
	if err := json.Unmarshal(head, &j); err != nil || !whole {
		return nil, errEntry
	}
	return &rotation.View{
		Key: key, Status: j.Status, Version: e.Version, Rev: e.Rev, Gone: j.Gone,
		Token: account.NewSecret(string(token)), TokenType: j.TokenType, Extra: j.Extra, Expires: fromMillis(j.Expires), End: fromMillis(j.End),
		Lifetime: j.Lifetime, Issued: fromMillis(j.Issued), Streak: j.Streak, Earliest: fromMillis(j.Earliest),
		HasRefresh: j.HasRefresh, Dead: j.Dead, Code: j.Code, Text: j.Text,
	}, nil
}

// put puts v into the shared cache, where it only replaces older ones.
func (l *Ledger) put(ctx context.Context, v *rotation.View) error {
	plain, err := encodeView(v)
	if err != nil {
		return fmt.Errorf("encode cache entry of %s: %w", v.Key, err)
	}
	value, err := l.cfg.Sealer.Seal(plain, Associated(v.Key, fieldCache))
	if err != nil {
		return fmt.Errorf("seal cache entry of %s: %w", v.Key, err)
	}
	until := l.cfg.Clock.Now().Add(rotation.LifetimeUnknown)
	if !v.End.IsZero() {
		until = v.End.Add(-l.cfg.Timing.CacheSkewOf(v.Lifetime))
	}
	return l.cache.Do(ctx, func(ctx context.Context) error {
		_, err := l.cfg.Cache.Put(ctx, v.Key, Entry{Rev: v.Rev, Version: v.Version, Value: value, Until: rotation.Millis(until)})
		return err
	}, nil)
}

// share is put for when nobody depends on it.
func (l *Ledger) share(ctx context.Context, v *rotation.View) {
	if err := l.put(ctx, v); err != nil {
		l.log.Debug("write shared cache", "account", v.Key.String(), "error", err)
	}
}

// fetch reads the shared cache; nil where it has nothing that can be read.
func (l *Ledger) fetch(ctx context.Context, key account.Key) (v *rotation.View, until time.Time) {
	var e Entry
	err := l.cache.Do(ctx, func(ctx context.Context) (err error) {
		e, err = l.cfg.Cache.Get(ctx, key)
		return err
	}, ofOneAccount)
	switch {
	case absent(err):
		return nil, time.Time{}
	case err != nil:
		l.log.Debug("read shared cache", "account", key.String(), "error", err)
		return nil, time.Time{}
	}
	if v, err = l.decode(key, e); err != nil {
		l.log.Warn("shared cache entry is unreadable", "account", key.String(), "error", err)
		return nil, time.Time{}
	}
	return v, e.Until
}

func (l *Ledger) decode(key account.Key, e Entry) (*rotation.View, error) {
	plain, err := l.cfg.Sealer.Open(e.Value, Associated(key, fieldCache))
	if err != nil {
		return nil, fmt.Errorf("open cache entry of %s: %w", key, err)
	}
	v, err := decodeView(key, e, plain)
	if err != nil {
		return nil, fmt.Errorf("decode cache entry of %s: %w", key, err)
	}
	return v, nil
}
