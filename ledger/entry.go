package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/rotation"
)

// entryJSON is the plaintext of a shared-cache entry: a view, but for what the
// entry itself tells.
type entryJSON struct {
	Status     account.Status `json:"status"`
	Gone       bool           `json:"gone,omitempty"`
	Token      string         `json:"token,omitempty"`
	TokenType  string         `json:"token_type,omitempty"`
	Extra      account.Extra  `json:"extra,omitempty"`
	Expires    time.Time      `json:"expires,omitzero"`
	End        time.Time      `json:"end,omitzero"`
	Lifetime   time.Duration  `json:"lifetime,omitempty"`
	Issued     time.Time      `json:"issued,omitzero"`
	Streak     int            `json:"streak,omitempty"`
	Earliest   time.Time      `json:"earliest,omitzero"`
	HasRefresh bool           `json:"has_refresh,omitempty"`
	Dead       bool           `json:"dead,omitempty"`
	Code       string         `json:"code,omitempty"`
	Text       string         `json:"text,omitempty"`
}

// put puts v into the shared cache, where it only replaces older ones.
func (l *Ledger) put(ctx context.Context, v *rotation.View) error {
	plain, err := json.Marshal(entryJSON{
		v.Status, v.Gone, v.Token.Reveal(), v.TokenType, v.Extra, v.Expires, v.End, v.Lifetime, v.Issued, v.Streak,
		v.Earliest, v.HasRefresh, v.Dead, v.Code, v.Text,
	})
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
	var j entryJSON
	if err := json.Unmarshal(plain, &j); err != nil {
		return nil, fmt.Errorf("decode cache entry of %s: not of the expected form", key)
	}
	return &rotation.View{
		Key: key, Status: j.Status, Version: e.Version, Rev: e.Rev, Gone: j.Gone,
		Token: account.NewSecret(j.Token), TokenType: j.TokenType, Extra: j.Extra, Expires: j.Expires, End: j.End,
		Lifetime: j.Lifetime, Issued: j.Issued, Streak: j.Streak, Earliest: j.Earliest,
		HasRefresh: j.HasRefresh, Dead: j.Dead, Code: j.Code, Text: j.Text,
	}, nil
}
