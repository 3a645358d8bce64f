package natskv

import (
	"context"
	"errors"
	"fmt"

	"github.com/tokenbus/tokenbus/ledger"
)

// Values keeps small values of the fleet in one bucket, such as those that
// tell whether a worker's keyset and its account store are the fleet's. It is
// safe for concurrent use.
type Values struct {
	bucket *bucket
}

// NewValues opens the bucket <Prefix>_META.
func NewValues(ctx context.Context, c Config) (*Values, error) {
	b, err := open(ctx, c, settings{suffix: "_META", about: "tokenbus: small values of the fleet"})
	if err != nil {
		return nil, err
	}
	return &Values{b}, nil
}

// CheckValue returns the fleet's value of that name. If there is none, it
// stores and returns create; if that is nil too, it returns
// [ledger.ErrNotFound]. Of many callers at once one stores its value and all
// get it.
func (v *Values) CheckValue(ctx context.Context, name string, create []byte) ([]byte, error) {
	ctx, cancel := v.bucket.bound(ctx)
	defer cancel()
	for attempt := 0; ; attempt++ {
		// A read that lags can say no more than that there is nothing yet,
		// for a value never changes; then the write decides.
		m, err := v.bucket.read(ctx, name)
		switch {
		case err == nil && m.live:
			return m.data, nil
		case err == nil && create == nil:
			return nil, fmt.Errorf("check value %s: %w", name, ledger.ErrNotFound)
		case err == nil:
			_, err = v.bucket.write(ctx, name, nil, create, m.seq, 0)
		}
		if err == nil {
			return create, nil
		}
		if errors.Is(err, errRaced) { // another caller was quicker
			if err = pause(ctx, attempt); err == nil {
				continue
			}
		}
		return nil, v.bucket.failed("get value", name, err)
	}
}
