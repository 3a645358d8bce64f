package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/rotation"
)

// Resealer is a [Sealer] that knows which of its keys sealed a value.
type Resealer interface {
	Sealer
	// Current reports whether sealed was made with the key that Seal uses now.
	Current(sealed []byte) bool
}

// resealPage is how many accounts are read at once.
const resealPage = 200

// Reseal seals the credentials of every account that are not sealed with the
// current key again with that key. It raises neither version nor rev: nothing
// changes but the key. Workers may run meanwhile; where one of them was
// quicker, the account is looked at again. It may be called again after an
// error.
func Reseal(ctx context.Context, store Store, sealer Resealer) (resealed, total int, err error) {
	for after := ""; ; {
		page, err := store.List(ctx, ListQuery{After: after, Limit: resealPage})
		if err != nil {
			return resealed, total, fmt.Errorf("list accounts: %w", err)
		}
		if len(page) == 0 {
			return resealed, total, nil
		}
		for _, a := range page {
			done, err := reseal(ctx, store, sealer, a)
			if err != nil {
				return resealed, total, fmt.Errorf("reseal %s: %w", a.Key, err)
			}
			if total++; done {
				resealed++
			}
		}
		after = page[len(page)-1].Key.String()
	}
}

func reseal(ctx context.Context, store Store, sealer Resealer, a account.Account) (done bool, err error) {
	for {
		if len(a.Credentials) == 0 || sealer.Current(a.Credentials) {
			return false, nil
		}
		bound := Associated(a.Key, fieldCredentials)
		plain, err := sealer.Open(a.Credentials, bound)
		if err != nil {
			return false, err
		}
		a.Credentials, err = sealer.Seal(plain, bound)
		clear(plain)
		if err != nil {
			return false, err
		}
		_, err = store.Update(ctx, a.Key, account.Guard{Version: a.Version, Rev: a.Rev},
			account.Change{Fields: account.FieldCredentials, To: a, At: rotation.Millis(time.Now())})
		if !errors.Is(err, ErrConflict) {
			return err == nil, err
		}
		if a, err = store.Get(ctx, a.Key); errors.Is(err, ErrNotFound) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
}
