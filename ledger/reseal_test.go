package ledger_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/memory"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/seal"
)

func TestResealUsesTheNewKeyAndChangesNothingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset.json")
	before, err := seal.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	store := new(memory.Store)
	const accounts = 250 // more than a page
	bound := func(key account.Key) []byte { return []byte(key.String() + "|credentials|1") }
	for i := range accounts {
		key, err := account.NewKey("demo", string([]byte{'a' + byte(i/26/26), 'a' + byte(i/26%26), 'a' + byte(i%26)}))
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := before.Seal([]byte(`{"access_token":"`+key.ID()+`"}`), bound(key))
		if err != nil {
			t.Fatal(err)
		}
		a := account.Account{Key: key, Type: "oauth", Status: account.Active, Version: 3, Rev: 5, Credentials: sealed, Lifetime: time.Hour, CreatedAt: time.Now()}
		if err := store.Create(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := seal.Rotate(path); err != nil {
		t.Fatal(err)
	}
	after, err := seal.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if done, total, err := ledger.Reseal(t.Context(), store, after); err != nil || done != accounts || total != accounts {
		t.Fatalf("first: %d of %d, %v; want all %d", done, total, err, accounts)
	}
	list, err := store.List(t.Context(), ledger.ListQuery{Limit: 1000})
	if err != nil || len(list) != accounts {
		t.Fatalf("%d accounts, %v", len(list), err)
	}
	for _, a := range list {
		plain, err := after.Open(a.Credentials, bound(a.Key))
		if err != nil || string(plain) != `{"access_token":"`+a.Key.ID()+`"}` || !after.Current(a.Credentials) {
			t.Fatalf("%s: %q, %v, current %v", a.Key, plain, err, after.Current(a.Credentials))
		}
		if a.Version != 3 || a.Rev != 5 || a.Lifetime != time.Hour || a.Type != "oauth" {
			t.Fatalf("%s has changed: %+v", a.Key, a)
		}
	}
	if done, total, err := ledger.Reseal(t.Context(), store, after); err != nil || done != 0 || total != accounts {
		t.Errorf("again: %d of %d, %v; want none", done, total, err)
	}
}
