package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/natskv"
)

// Names of the fleet's check values.
const (
	keysetCheck = "keyset" // in the store: made with the fleet's keyset
	// storeCheck in NATS says which store the fleet uses: its kind, and with
	// MongoDB the value that lies under the same name in the database itself.
	storeCheck = "store"
)

// Kinds of stores as the check value in NATS begins with them.
const (
	inJetStream = "nats"
	inMongoDB   = "mongodb"
)

// checkValues keeps small values of the fleet.
type checkValues interface {
	// CheckValue returns the value of that name, storing create if there is
	// none. All callers get the same. If create is nil too, the error is
	// [ledger.ErrNotFound].
	CheckValue(ctx context.Context, name string, create []byte) ([]byte, error)
}

// storeGate is a store that nothing is read from or written to before it is
// certain that it is the fleet's, and that our keyset is the one it was written
// with. In another store a worker would miss every account, and could take in
// one that the fleet has too: its refresh token would be spent twice. With a
// foreign keyset it could read nothing, and what it wrote nobody else could.
// The check is made by the first call and repeated until there is an answer.
type storeGate struct {
	kind   string // of the store
	store  ledger.Store
	values checkValues // in the store
	fleet  checkValues // in NATS; nil: whichever store it is will do
	sealer *keyring
	passed atomic.Bool
}

// check returns nil once store and keyset are known to be right. An error that
// is an [otherStore] or seal.ErrOtherKeyset is final.
func (g *storeGate) check(ctx context.Context) error {
	if g.passed.Load() {
		return nil
	}
	// The store first: the check of the keyset writes to one that is new.
	if err := g.checkStore(ctx); err != nil {
		return err
	}
	if err := g.checkKeyset(ctx); err != nil {
		return err
	}
	g.passed.Store(true)
	return nil
}

// checkStore returns nil if the fleet keeps its accounts in this store. To one
// that isn't the fleet's it writes nothing.
func (g *storeGate) checkStore(ctx context.Context) error {
	if g.fleet == nil {
		return nil
	}
	fleets, err := g.fleet.CheckValue(ctx, storeCheck, nil)
	if errors.Is(err, ledger.ErrNotFound) {
		fleets, err = g.nameStore(ctx)
	}
	if err != nil {
		return fmt.Errorf("read which store the fleet uses: %w", err)
	}
	kind, id, _ := strings.Cut(string(fleets), " ")
	if kind != g.kind {
		return &otherStore{fleet: kind, ours: g.kind}
	}
	if kind == inJetStream {
		return nil // there is one in each NATS account
	}
	ours, err := g.values.CheckValue(ctx, storeCheck, nil)
	if errors.Is(err, ledger.ErrNotFound) || err == nil && string(ours) != id {
		return &otherStore{fleet: kind, ours: g.kind}
	}
	if err != nil {
		return fmt.Errorf("read which store this is: %w", err)
	}
	return nil
}

// nameStore makes this store the fleet's, unless another worker is quicker with
// its own. It returns the fleet's.
func (g *storeGate) nameStore(ctx context.Context) ([]byte, error) {
	name := g.kind
	if g.kind != inJetStream {
		var random [16]byte
		_, _ = rand.Read(random[:]) // never fails
		id, err := g.values.CheckValue(ctx, storeCheck, []byte(hex.EncodeToString(random[:])))
		if err != nil {
			return nil, err
		}
		name += " " + string(id)
	}
	return g.fleet.CheckValue(ctx, storeCheck, []byte(name))
}

func (g *storeGate) checkKeyset(ctx context.Context) error {
	ours, err := g.sealer.now().CheckValue()
	if err != nil {
		return fmt.Errorf("make check value of the keyset: %w", err)
	}
	stored, err := g.values.CheckValue(ctx, keysetCheck, ours)
	if err != nil {
		return fmt.Errorf("read check value of the keyset: %w", err)
	}
	return g.sealer.now().Check(stored)
}

// otherStore is the error of a store that isn't the one the fleet uses.
type otherStore struct{ fleet, ours string } // kinds

func (e *otherStore) Error() string {
	where := "in another MongoDB database"
	if e.fleet != e.ours {
		where = "in " + kindName(e.fleet) + ", not in " + kindName(e.ours)
	}
	return fmt.Sprintf("this fleet keeps its accounts %s; give the fleet's own store. If it has moved here: stop all workers, remove what says so (nats kv del %s %s), start again",
		where, natskv.DefaultPrefix+"_META", storeCheck)
}

// kindName names a kind of store, such as one of a newer worker, to a person.
func kindName(kind string) string {
	switch kind {
	case inJetStream:
		return "JetStream"
	case inMongoDB:
		return "MongoDB"
	}
	return strconv.Quote(kind)
}

// guarded makes the check before a call. What it finds is no answer that a
// caller may take for the store's own.
func (g *storeGate) guarded(ctx context.Context) error {
	err := g.check(ctx)
	if errors.Is(err, ledger.ErrNotFound) || errors.Is(err, ledger.ErrConflict) {
		return fmt.Errorf("check store: %s", err)
	}
	return err
}

// Get implements [ledger.Store].
func (g *storeGate) Get(ctx context.Context, key account.Key) (account.Account, error) {
	if err := g.guarded(ctx); err != nil {
		return account.Account{}, err
	}
	return g.store.Get(ctx, key)
}

// Create implements [ledger.Store].
func (g *storeGate) Create(ctx context.Context, a account.Account) error {
	if err := g.guarded(ctx); err != nil {
		return err
	}
	return g.store.Create(ctx, a)
}

// Update implements [ledger.Store].
func (g *storeGate) Update(ctx context.Context, key account.Key, guard account.Guard, change account.Change) (account.Account, error) {
	if err := g.guarded(ctx); err != nil {
		return account.Account{}, err
	}
	return g.store.Update(ctx, key, guard, change)
}

// Due implements [ledger.Store].
func (g *storeGate) Due(ctx context.Context, now time.Time, limit int, except ...string) ([]account.Key, error) {
	if err := g.guarded(ctx); err != nil {
		return nil, err
	}
	return g.store.Due(ctx, now, limit, except...)
}

// Pending implements [ledger.Store].
func (g *storeGate) Pending(ctx context.Context, limit int) ([]account.Key, error) {
	if err := g.guarded(ctx); err != nil {
		return nil, err
	}
	return g.store.Pending(ctx, limit)
}

// List implements [ledger.Store].
func (g *storeGate) List(ctx context.Context, q ledger.ListQuery) ([]account.Account, error) {
	if err := g.guarded(ctx); err != nil {
		return nil, err
	}
	return g.store.List(ctx, q)
}
