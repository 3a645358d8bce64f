package natskv_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/natskv"
)

// TestIndexAgainstModel drives the index at random and compares every answer
// with one that looks at all documents.
func TestIndexAgainstModel(t *testing.T) {
	base := time.UnixMilli(1_700_000_000_000).UTC()
	rapid.Check(t, func(t *rapid.T) {
		ix, model := natskv.NewIndex(), map[string]account.Account{}
		key := rapid.Custom(func(t *rapid.T) account.Key {
			return mustKey(rapid.SampledFrom([]string{"a", "a-b", "ab", "b"}).Draw(t, "platform") + "." + fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "id")))
		})
		all := func(keep func(account.Account) bool) (keys []account.Key) {
			for _, a := range model {
				if keep(a) {
					keys = append(keys, a.Key)
				}
			}
			slices.SortFunc(keys, func(a, b account.Key) int { return cmp.Compare(a.String(), b.String()) })
			return keys
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				for range rapid.IntRange(1, 8).Draw(t, "documents") {
					a := account.Account{Key: key.Draw(t, "key"), AnnouncePending: rapid.Bool().Draw(t, "pending")}
					a.Status = rapid.SampledFrom([]account.Status{account.Active, account.Active, account.Disabled}).Draw(t, "status")
					if minutes := rapid.IntRange(0, 20).Draw(t, "minutes"); minutes > 0 {
						a.RefreshAt = base.Add(time.Duration(minutes) * time.Minute)
					}
					if rapid.IntRange(0, 3).Draw(t, "deleted") == 0 {
						a.DeletedAt = base
					}
					ix.Set(a)
					model[a.Key.String()] = a
				}
			},
			"drop": func(t *rapid.T) {
				k := key.Draw(t, "key")
				ix.Drop(k)
				delete(model, k.String())
			},
			"due": func(t *rapid.T) {
				now := base.Add(time.Duration(rapid.IntRange(0, 22).Draw(t, "now")) * time.Minute)
				limit := rapid.IntRange(0, 12).Draw(t, "limit")
				except := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "a-b", "ab", "b", "c"}), 0, 4, rapid.ID).Draw(t, "except")
				want := all(func(a account.Account) bool {
					return a.Status == account.Active && !a.Deleted() && !a.RefreshAt.IsZero() && !a.RefreshAt.After(now) && !slices.Contains(except, a.Key.Platform())
				})
				slices.SortStableFunc(want, func(a, b account.Key) int {
					return model[a.String()].RefreshAt.Compare(model[b.String()].RefreshAt)
				})
				want = want[:min(limit, len(want))]
				got := ix.Due(now, limit, except...)
				if slices.ContainsFunc(got, func(k account.Key) bool { return slices.Contains(except, k.Platform()) }) {
					t.Fatalf("due by %v except %v: got %v", now, except, got)
				}
				// Keys that are due at the same time come in any order.
				same := slices.EqualFunc(got, want, func(a, b account.Key) bool {
					return model[a.String()].RefreshAt.Equal(model[b.String()].RefreshAt)
				})
				if !same || len(slices.Compact(slices.SortedFunc(slices.Values(got), func(a, b account.Key) int { return cmp.Compare(a.String(), b.String()) }))) != len(want) {
					t.Fatalf("due by %v, limit %d, except %v: got %v, want %v", now, limit, except, got, want)
				}
			},
			"pending": func(t *rapid.T) {
				want := all(func(a account.Account) bool { return a.AnnouncePending })
				got := ix.Pending(100)
				slices.SortFunc(got, func(a, b account.Key) int { return cmp.Compare(a.String(), b.String()) })
				if !slices.Equal(got, want) {
					t.Fatalf("pending: got %v, want %v", got, want)
				}
				if n := len(ix.Pending(2)); n != min(2, len(want)) {
					t.Fatalf("pending, at most 2: got %d of %d", n, len(want))
				}
			},
			"page": func(t *rapid.T) {
				q := ledger.ListQuery{
					Platform: rapid.SampledFrom([]string{"", "a", "a-b", "b", "c"}).Draw(t, "of"),
					Status:   rapid.SampledFrom([]account.Status{"", account.Active, account.Disabled}).Draw(t, "status"),
					Limit:    rapid.IntRange(0, 50).Draw(t, "limit"),
				}
				if rapid.Bool().Draw(t, "further") {
					q.After = key.Draw(t, "after").String()
				}
				var want []string
				for _, k := range all(func(a account.Account) bool {
					return !a.Deleted() && (q.Platform == "" || a.Key.Platform() == q.Platform) && (q.Status == "" || a.Status == q.Status) && a.Key.String() > q.After
				}) {
					want = append(want, k.String())
				}
				want = want[:min(q.Limit, len(want))]
				if got := ix.Page(q); !slices.Equal(got, want) {
					t.Fatalf("page %+v: got %v, want %v", q, got, want)
				}
			},
		})
	})
}

// A status that the index doesn't know hides no account: List reads the
// documents and leaves out those of other statuses.
func TestIndexOfAnUnknownStatus(t *testing.T) {
	ix := natskv.NewIndex()
	ix.Set(account.Account{Key: mustKey("a.new"), Status: "paused"})
	ix.Set(account.Account{Key: mustKey("a.old"), Status: account.Active})
	if got := ix.Page(ledger.ListQuery{Status: "paused", Limit: 10}); !slices.Equal(got, []string{"a.new"}) {
		t.Errorf("those that are paused: got %v", got)
	}
	if got := ix.Page(ledger.ListQuery{Status: account.Active, Limit: 10}); !slices.Equal(got, []string{"a.old"}) {
		t.Errorf("those that are active: got %v", got)
	}
}
