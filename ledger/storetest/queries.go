package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
)

func testDue(t *testing.T, s ledger.Store) {
	at := now()
	add := func(id string, due time.Duration, change func(*account.Account)) account.Key {
		a := Minimal(mustKey("openai", id))
		a.RefreshAt = at.Add(due)
		if change != nil {
			change(&a)
		}
		must(t, s.Create(t.Context(), a))
		return a.Key
	}
	b := add("b", -2*time.Hour, nil)
	c := add("c", -time.Hour, nil)
	a := add("a", -3*time.Hour, nil)
	exactly := add("exactly", 0, nil)
	later := add("later", time.Millisecond, nil)
	disabled := add("disabled", -4*time.Hour, func(a *account.Account) { a.Status = account.Disabled })
	add("reauth", -4*time.Hour, func(a *account.Account) { a.Status = account.ReauthRequired })
	add("deleted", -4*time.Hour, func(a *account.Account) { a.DeletedAt = at })
	add("never", 0, func(a *account.Account) { a.RefreshAt = time.Time{} })
	rotating := add("rotating", -5*time.Hour, func(a *account.Account) {
		a.Rotation = &account.Rotation{ID: "r", State: account.RotationInDoubt, StartedAt: at}
	})

	var except []string
	due := func(what string, at time.Time, limit int, want ...account.Key) {
		t.Helper()
		eventually(t, what, want, func() ([]account.Key, error) { return noneAsNil(s.Due(t.Context(), at, limit, except...)) })
	}
	due("the longest overdue first", at, 100, rotating, a, b, c, exactly)
	due("limited", at, 2, rotating, a)
	other := Minimal(mustKey("other", "a"))
	other.RefreshAt = at.Add(-time.Minute)
	must(t, s.Create(t.Context(), other))
	due("of all platforms", at, 100, rotating, a, b, c, other.Key, exactly)
	except = []string{"another", "openai"}
	due("of all but two, limited", at, 1, other.Key)
	except = []string{"other"}
	due("a millisecond later", at.Add(time.Millisecond), 100, rotating, a, b, c, exactly, later)
	due("before all", at.Add(-24*time.Hour), 100)

	update := func(key account.Key, f account.Fields, to account.Account) {
		t.Helper()
		_, err := s.Update(t.Context(), key, account.Guard{}, account.Change{Fields: f, To: to, At: now()})
		must(t, err)
	}
	update(a, account.FieldRefreshAt, account.Account{RefreshAt: at.Add(time.Hour)})
	update(b, account.FieldRotation, account.Account{Rotation: &account.Rotation{ID: "r2", StartedAt: at}})
	update(c, account.FieldDeleted, account.Account{DeletedAt: at})
	update(disabled, account.FieldStatus, account.Account{Status: account.Active})
	update(rotating, account.FieldRotation, account.Account{})
	due("after the changes", at, 100, rotating, disabled, b, exactly)
	update(exactly, account.FieldRefreshAt, account.Account{})
	due("after another", at, 100, rotating, disabled, b)
}

func testPending(t *testing.T, s ledger.Store) {
	var all []account.Key
	for i := range 6 {
		a := Minimal(mustKey("openai", fmt.Sprint("a", i)))
		a.AnnouncePending = i%2 == 0
		if i == 2 {
			a.DeletedAt = now() // a tombstone is announced too
		}
		if i == 4 {
			a.Status = account.Disabled
		}
		must(t, s.Create(t.Context(), a))
		all = append(all, a.Key)
	}
	pending := func(limit int) ([]account.Key, error) {
		keys, err := s.Pending(t.Context(), limit)
		slices.SortFunc(keys, byText)
		return noneAsNil(keys, err)
	}
	eventually(t, "pending", []account.Key{all[0], all[2], all[4]}, func() ([]account.Key, error) { return pending(100) })
	eventually(t, "pending, limited", 2, func() (int, error) { k, err := pending(2); return len(k), err })
	for _, key := range all[:3] {
		_, err := s.Update(t.Context(), key, account.Guard{}, account.Change{Fields: account.FieldAnnounce, At: now()})
		must(t, err)
	}
	_, err := s.Update(t.Context(), all[5], account.Guard{}, account.Change{Fields: account.FieldAnnounce, To: account.Account{AnnouncePending: true}, At: now()})
	must(t, err)
	eventually(t, "pending after changes", all[4:], func() ([]account.Key, error) { return pending(100) })
}

func testList(t *testing.T, s ledger.Store) {
	docs := map[string]account.Account{}
	for _, text := range []string{"b.1", "a.10", "a.2", "a-b.1", "a.1", "ab.1", "a.A", "a._", "a.a"} {
		key, err := account.ParseKey(text)
		must(t, err)
		docs[text] = Minimal(key)
	}
	off := Full(mustKey("a", "off"), 3)
	off.Status, off.DeletedAt = account.Disabled, time.Time{}
	docs["a.off"] = off
	docs["a.gone"] = tombstone(mustKey("a", "gone"))
	for _, a := range docs {
		must(t, s.Create(t.Context(), a))
	}

	all := []string{"a-b.1", "a.1", "a.10", "a.2", "a.A", "a._", "a.a", "a.off", "ab.1", "b.1"}
	for _, c := range []struct {
		name string
		q    ledger.ListQuery
		want []string
	}{
		{"all", ledger.ListQuery{Limit: 100}, all},
		{"exactly the limit", ledger.ListQuery{Limit: len(all)}, all},
		{"the first", ledger.ListQuery{Limit: 1}, all[:1]},
		{"after a key", ledger.ListQuery{Limit: 3, After: "a.10"}, all[3:6]},
		{"after a key that is not there", ledger.ListQuery{Limit: 3, After: "a.100"}, all[3:6]},
		{"after a tombstone", ledger.ListQuery{Limit: 1, After: "a.gone"}, []string{"a.off"}},
		{"after the last", ledger.ListQuery{Limit: 3, After: "b.1"}, nil},
		{"a platform", ledger.ListQuery{Limit: 100, Platform: "a"}, all[1:8]},
		{"a platform, after another's key", ledger.ListQuery{Limit: 100, Platform: "a", After: "a-b.1"}, all[1:8]},
		{"a platform, after its last", ledger.ListQuery{Limit: 100, Platform: "a", After: "a.off"}, nil},
		{"a platform that is not there", ledger.ListQuery{Limit: 100, Platform: "nobody"}, nil},
		{"active", ledger.ListQuery{Limit: 100, Status: account.Active}, slices.Concat(all[:7], all[8:])},
		{"disabled", ledger.ListQuery{Limit: 1, Status: account.Disabled}, []string{"a.off"}},
		{"disabled of another platform", ledger.ListQuery{Limit: 1, Platform: "b", Status: account.Disabled}, nil},
		{"reauth required", ledger.ListQuery{Limit: 10, Status: account.ReauthRequired}, nil},
	} {
		eventually(t, c.name, c.want, func() ([]string, error) { return texts(s.List(t.Context(), c.q)) })
	}
	var paged []string
	q := ledger.ListQuery{Limit: 3, Status: account.Active}
	for range all {
		page, err := s.List(t.Context(), q)
		must(t, err)
		if len(page) == 0 {
			break
		}
		for _, a := range page {
			same(t, a, docs[a.Key.String()])
			paged = append(paged, a.Key.String())
		}
		q.After = paged[len(paged)-1]
	}
	if want := slices.Concat(all[:7], all[8:]); !slices.Equal(paged, want) {
		t.Errorf("paged through: got %v, want %v", paged, want)
	}
	listed, err := s.List(t.Context(), ledger.ListQuery{Limit: 1, Status: account.Disabled})
	must(t, err)
	same(t, listed[0], off)
}

func texts(accounts []account.Account, err error) (out []string, _ error) {
	for _, a := range accounts {
		out = append(out, a.Key.String())
	}
	return out, err
}

func noneAsNil(keys []account.Key, err error) ([]account.Key, error) {
	if len(keys) == 0 {
		return nil, err
	}
	return keys, err
}

func byText(a, b account.Key) int {
	if a.String() < b.String() {
		return -1
	}
	return 1
}
