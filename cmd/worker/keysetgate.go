package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
)

// keysetCheck is the name of the fleet's check value in the store.
const keysetCheck = "keyset"

// checkValues keeps small values of the fleet in the store.
type checkValues interface {
	// CheckValue returns the value of that name, storing create if there is
	// none. All callers get the same.
	CheckValue(ctx context.Context, name string, create []byte) ([]byte, error)
}

// keysetGate is a store that nothing is read from or written to before it is
// certain that our keyset is the one the store was written with: a worker with
// a foreign keyset could read nothing, and what it wrote nobody else could. The
// check is made by the first call and repeated until the store has answered.
type keysetGate struct {
	store  ledger.Store
	values checkValues
	sealer *keyring
	passed atomic.Bool
}

// check returns nil once the keyset is known to be right. An error that is
// seal.ErrOtherKeyset is final.
func (g *keysetGate) check(ctx context.Context) error {
	if g.passed.Load() {
		return nil
	}
	ours, err := g.sealer.now().CheckValue()
	if err != nil {
		return fmt.Errorf("make check value of the keyset: %w", err)
	}
	stored, err := g.values.CheckValue(ctx, keysetCheck, ours)
	if err != nil {
		return fmt.Errorf("read check value of the keyset: %w", err)
	}
	if err := g.sealer.now().Check(stored); err != nil {
		return err
	}
	g.passed.Store(true)
	return nil
}

// guarded makes the check before a call. A foreign keyset is no answer that a
// caller may take for the store's own.
func (g *keysetGate) guarded(ctx context.Context) error {
	err := g.check(ctx)
	if errors.Is(err, ledger.ErrNotFound) || errors.Is(err, ledger.ErrConflict) {
		return fmt.Errorf("check keyset: %s", err)
	}
	return err
}

// Get implements [ledger.Store].
func (g *keysetGate) Get(ctx context.Context, key account.Key) (account.Account, error) {
	if err := g.guarded(ctx); err != nil {
		return account.Account{}, err
	}
	return g.store.Get(ctx, key)
}

// Create implements [ledger.Store].
func (g *keysetGate) Create(ctx context.Context, a account.Account) error {
	if err := g.guarded(ctx); err != nil {
		return err
	}
	return g.store.Create(ctx, a)
}

// Update implements [ledger.Store].
func (g *keysetGate) Update(ctx context.Context, key account.Key, guard account.Guard, change account.Change) (account.Account, error) {
	if err := g.guarded(ctx); err != nil {
		return account.Account{}, err
	}
	return g.store.Update(ctx, key, guard, change)
}

// Due implements [ledger.Store].
func (g *keysetGate) Due(ctx context.Context, now time.Time, limit int, except ...string) ([]account.Key, error) {
	if err := g.guarded(ctx); err != nil {
		return nil, err
	}
	return g.store.Due(ctx, now, limit, except...)
}

// Pending implements [ledger.Store].
func (g *keysetGate) Pending(ctx context.Context, limit int) ([]account.Key, error) {
	if err := g.guarded(ctx); err != nil {
		return nil, err
	}
	return g.store.Pending(ctx, limit)
}

// List implements [ledger.Store].
func (g *keysetGate) List(ctx context.Context, q ledger.ListQuery) ([]account.Account, error) {
	if err := g.guarded(ctx); err != nil {
		return nil, err
	}
	return g.store.List(ctx, q)
}
