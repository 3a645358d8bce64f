// Package storetest is the conformance suite of ledger.Store: what the
// contract promises, tried on the real thing by every adapter.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
)

// patience is how long Due, Pending and List may lag behind a write.
const patience = 10 * time.Second

// Run tries the store that newStore returns. Each call of newStore must return
// an empty one, shut down by t.Cleanup. The store may be wrapped, to inject
// latency or faults that the contract allows an adapter to hide.
func Run(t *testing.T, newStore func(t *testing.T) ledger.Store) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, ledger.Store)
	}{
		{"RoundTrip", testRoundTrip},
		{"NotFound", testNotFound},
		{"CreateConflict", testCreateConflict},
		{"NoAliasing", testNoAliasing},
		{"Guards", testGuards},
		{"Fields", testFields},
		{"SetRev", testSetRev},
		{"Due", testDue},
		{"Pending", testPending},
		{"List", testList},
		{"OneCreateWins", testOneCreateWins},
		{"OneRotationWins", testOneRotationWins},
		{"NoUpdateLost", testNoUpdateLost},
		{"CancelledContext", testCancelledContext},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, newStore(t)) })
	}
}

func testRoundTrip(t *testing.T, s ledger.Store) {
	for name, want := range map[string]account.Account{
		"every field":  Full(mustKey("openai", "full"), 7),
		"few fields":   Minimal(mustKey("openai", "Few_-1")),
		"longest key":  Minimal(mustKey(strings.Repeat("p", 64), strings.Repeat("I", 128))),
		"64 KiB":       withCredentials(Minimal(mustKey("gemini", "big")), 64<<10),
		"tombstone":    tombstone(mustKey("openai", "gone")),
		"old and late": withTimes(mustKey("openai", "times")),
	} {
		t.Run(name, func(t *testing.T) {
			must(t, s.Create(t.Context(), want))
			got, err := s.Get(t.Context(), want.Key)
			must(t, err)
			same(t, got, want)
			got, err = s.Update(t.Context(), want.Key, account.Guard{}, account.Change{At: want.UpdatedAt})
			must(t, err)
			same(t, got, want)
		})
	}
}

func testNotFound(t *testing.T, s ledger.Store) {
	must(t, s.Create(t.Context(), Minimal(mustKey("openai", "there"))))
	_, err := s.Get(t.Context(), mustKey("openai", "ther"))
	wantErr(t, "Get", err, ledger.ErrNotFound)
	_, err = s.Update(t.Context(), mustKey("gemini", "there"), account.Guard{}, account.Change{At: now()})
	wantErr(t, "Update", err, ledger.ErrNotFound)
	_, err = s.Update(t.Context(), mustKey("gemini", "there"), account.Guard{Version: 1}, account.Change{At: now()})
	wantErr(t, "Update with a guard", err, ledger.ErrNotFound)
	_, err = s.Get(t.Context(), mustKey("gemini", "there"))
	wantErr(t, "Get after the updates", err, ledger.ErrNotFound)
}

func testCreateConflict(t *testing.T, s ledger.Store) {
	for name, old := range map[string]account.Account{
		"living":    Full(mustKey("openai", "living"), 3),
		"tombstone": tombstone(mustKey("openai", "dead")),
	} {
		t.Run(name, func(t *testing.T) {
			must(t, s.Create(t.Context(), old))
			wantErr(t, "Create", s.Create(t.Context(), Full(old.Key, 9)), ledger.ErrConflict)
			got, err := s.Get(t.Context(), old.Key)
			must(t, err)
			same(t, got, old)
		})
	}
}

func testNoAliasing(t *testing.T, s ledger.Store) {
	want := Full(mustKey("openai", "a"), 3)
	in := want.Clone()
	must(t, s.Create(t.Context(), in))
	scribble(&in)
	got, err := s.Get(t.Context(), want.Key)
	must(t, err)
	same(t, got, want)
	scribble(&got)
	got, err = s.Update(t.Context(), want.Key, account.Guard{}, account.Change{At: want.UpdatedAt})
	must(t, err)
	same(t, got, want)
	scribble(&got)
	got, err = s.Get(t.Context(), want.Key)
	must(t, err)
	same(t, got, want)
}

func scribble(a *account.Account) {
	a.Credentials[0] ^= 0xff
	a.Fingerprints.Spent[0] = "scribbled"
	a.Rotation.ID = "scribbled"
	a.LastError.Code = "scribbled"
}

func testCancelledContext(t *testing.T, s ledger.Store) {
	want := Full(mustKey("openai", "a"), 3)
	must(t, s.Create(t.Context(), want))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range map[string]func() error{
		"Get":    func() error { _, err := s.Get(ctx, want.Key); return err },
		"Create": func() error { return s.Create(ctx, Minimal(mustKey("openai", "b"))) },
		"Update": func() error {
			_, err := s.Update(ctx, want.Key, account.Guard{}, account.Change{BumpRev: true, At: now()})
			return err
		},
		"Due":     func() error { _, err := s.Due(ctx, now(), 1); return err },
		"Pending": func() error { _, err := s.Pending(ctx, 1); return err },
		"List":    func() error { _, err := s.List(ctx, ledger.ListQuery{Limit: 1}); return err },
	} {
		err := call()
		wantErr(t, name, err, context.Canceled)
		if errors.Is(err, ledger.ErrNotFound) || errors.Is(err, ledger.ErrConflict) {
			t.Errorf("%s with a cancelled context claims a certain outcome: %v", name, err)
		}
	}
	got, err := s.Get(t.Context(), want.Key)
	must(t, err)
	same(t, got, want)
	_, err = s.Get(t.Context(), mustKey("openai", "b"))
	wantErr(t, "Get of what a cancelled Create left", err, ledger.ErrNotFound)
}

// eventually calls get until what it returns equals want.
func eventually[T any](t *testing.T, what string, want T, get func() (T, error)) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; {
		got, err := get()
		must(t, err)
		if reflect.DeepEqual(got, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: got %v, want %v after %v", what, got, want, patience)
		}
		<-tick.C
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: got error %v, want one that is %q", what, err, target)
	}
	for _, other := range []error{ledger.ErrNotFound, ledger.ErrConflict} {
		if other != target && errors.Is(err, other) {
			t.Errorf("%s: error %v is also %q", what, err, other)
		}
	}
}

// same compares two documents field by field. Empty and nil are the same.
func same(t *testing.T, got, want account.Account) {
	t.Helper()
	for _, d := range differences(reflect.ValueOf(got), reflect.ValueOf(want), "") {
		t.Error(d)
	}
}

func differences(got, want reflect.Value, path string) (out []string) {
	differ := func() []string {
		return []string{fmt.Sprintf("%s: got %v, want %v", strings.TrimPrefix(path, "."), got, want)}
	}
	if g, ok := got.Interface().(time.Time); ok {
		w := want.Interface().(time.Time)
		if !g.Equal(w) || g.IsZero() != w.IsZero() {
			return differ()
		}
		if g.Location() != time.UTC {
			return []string{fmt.Sprintf("%s: got time zone %v, want UTC", path, g.Location())}
		}
		return nil
	}
	if _, ok := got.Interface().(account.Key); ok {
		if !got.Equal(want) {
			return differ()
		}
		return nil
	}
	switch got.Kind() {
	case reflect.Struct:
		for i := range got.NumField() {
			out = append(out, differences(got.Field(i), want.Field(i), path+"."+got.Type().Field(i).Name)...)
		}
		return out
	case reflect.Pointer:
		if got.IsNil() != want.IsNil() {
			return differ()
		}
		if got.IsNil() {
			return nil
		}
		return differences(got.Elem(), want.Elem(), path)
	case reflect.Slice:
		if got.Len() == 0 && want.Len() == 0 {
			return nil
		}
	}
	if !reflect.DeepEqual(got.Interface(), want.Interface()) {
		return differ()
	}
	return nil
}
