// Package journaltest is the conformance suite of refresh.Journal: what the
// contract promises, tried on the real thing by every adapter.
package journaltest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

// Run tries the journal that newJournal returns. Each call of newJournal must
// return an empty one, shut down by t.Cleanup. The journal may be wrapped.
func Run(t *testing.T, newJournal func(t *testing.T) refresh.Journal) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, refresh.Journal)
	}{
		{"Empty", testEmpty},
		{"RoundTrip", testRoundTrip},
		{"PerAccount", testPerAccount},
		{"Replace", testReplace},
		{"Delete", testDelete},
		{"BadRecords", testBadRecords},
		{"Concurrency", testConcurrency},
		{"CancelledContext", testCancelledContext},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, newJournal(t)) })
	}
}

// Record returns a record in which every field is set.
func Record(key account.Key, rotationID string) rotation.Record {
	return rotation.Record{
		Key: key, RotationID: rotationID, FromVersion: 41, Worker: "host-1-abc", Host: "host",
		At:     time.Date(2031, 2, 3, 4, 5, 6, 789e6, time.UTC),
		From:   account.Fingerprints{Access: "fa", Refresh: "fr", Spent: []string{"s1", "s2"}, Dead: "fd"},
		Reason: events.ReasonRejected,
		Answer: []byte("\x00\xff sealed answer of " + rotationID),
	}
}

func testEmpty(t *testing.T, j refresh.Journal) {
	want(t, j, account.Key{})
	want(t, j, mustKey("openai", "a"))
	must(t, j.Delete(t.Context(), mustKey("openai", "a"), "never-there"))
}

func testRoundTrip(t *testing.T, j refresh.Journal) {
	full := Record(mustKey("openai", "Full_-1"), "Rot_-1")
	few := rotation.Record{Key: mustKey("openai", "few"), RotationID: "r", FromVersion: 1, At: full.At, Answer: []byte{0}}
	big := Record(mustKey("openai", "big"), "r")
	big.Answer = make([]byte, 128<<10)
	for _, r := range []rotation.Record{full, few, big} {
		must(t, j.Put(t.Context(), r))
		want(t, j, r.Key, r)
	}
	want(t, j, account.Key{}, full, few, big)
}

func testPerAccount(t *testing.T, j refresh.Journal) {
	a1, a2 := Record(mustKey("a", "x"), "r1"), Record(mustKey("a", "x"), "r2")
	b := Record(mustKey("a", "xy"), "r1")
	c := Record(mustKey("a-b", "x"), "r1")
	upper := Record(mustKey("a", "X"), "r1")
	upper2 := Record(mustKey("a", "x"), "R1")
	for _, r := range []rotation.Record{a1, a2, b, c, upper, upper2} {
		must(t, j.Put(t.Context(), r))
	}
	want(t, j, a1.Key, a1, a2, upper2)
	want(t, j, b.Key, b)
	want(t, j, c.Key, c)
	want(t, j, upper.Key, upper)
	want(t, j, mustKey("b", "x"))
	want(t, j, account.Key{}, a1, a2, b, c, upper, upper2)
}

func testReplace(t *testing.T, j refresh.Journal) {
	r := Record(mustKey("openai", "a"), "r1")
	must(t, j.Put(t.Context(), r))
	must(t, j.Put(t.Context(), r))
	want(t, j, r.Key, r)
	r.Answer, r.FromVersion = []byte("shorter"), 42
	must(t, j.Put(t.Context(), r))
	want(t, j, r.Key, r)
}

func testDelete(t *testing.T, j refresh.Journal) {
	a, b := Record(mustKey("openai", "a"), "r1"), Record(mustKey("openai", "a"), "r2")
	c := Record(mustKey("openai", "b"), "r1")
	for _, r := range []rotation.Record{a, b, c} {
		must(t, j.Put(t.Context(), r))
	}
	for range 2 {
		must(t, j.Delete(t.Context(), a.Key, a.RotationID))
		want(t, j, a.Key, b)
	}
	must(t, j.Put(t.Context(), a))
	want(t, j, account.Key{}, a, b, c)
	for _, r := range []rotation.Record{a, b, c} {
		must(t, j.Delete(t.Context(), r.Key, r.RotationID))
	}
	want(t, j, account.Key{})
}

// testBadRecords: what could not be found again is refused, not stored
// somewhere else.
func testBadRecords(t *testing.T, j refresh.Journal) {
	good := Record(mustKey("openai", "a"), "r1")
	for name, change := range map[string]func(*rotation.Record){
		"no key":                func(r *rotation.Record) { r.Key = account.Key{} },
		"no rotation id":        func(r *rotation.Record) { r.RotationID = "" },
		"rotation id with dot":  func(r *rotation.Record) { r.RotationID = "r.1" },
		"rotation id with path": func(r *rotation.Record) { r.RotationID = "../r1" },
		"rotation id with star": func(r *rotation.Record) { r.RotationID = "*" },
	} {
		bad := good
		change(&bad)
		if err := j.Put(t.Context(), bad); err == nil {
			t.Errorf("%s: Put: got no error", name)
		}
	}
	must(t, j.Put(t.Context(), good))
	for _, id := range []string{"", "*", ">", "../openai.a.r1"} {
		// Whether that is an error is the adapter's choice; other records stay.
		_ = j.Delete(t.Context(), good.Key, id)
	}
	want(t, j, account.Key{}, good)
}

func testConcurrency(t *testing.T, j refresh.Journal) {
	var wg sync.WaitGroup
	var left []rotation.Record
	for i := range 20 {
		r := Record(mustKey("openai", fmt.Sprint("a", i%4)), fmt.Sprint("r", i))
		if i%2 == 0 {
			left = append(left, r)
		}
		wg.Go(func() {
			if err := j.Put(t.Context(), r); err != nil {
				t.Error(err)
			}
			if _, err := j.Records(t.Context(), r.Key); err != nil {
				t.Error(err)
			}
			if i%2 != 0 {
				if err := j.Delete(t.Context(), r.Key, r.RotationID); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			if _, err := j.Records(t.Context(), account.Key{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	want(t, j, account.Key{}, left...)
}

func testCancelledContext(t *testing.T, j refresh.Journal) {
	r := Record(mustKey("openai", "a"), "r1")
	must(t, j.Put(t.Context(), r))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := j.Records(ctx, account.Key{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Records: got error %v, want %v", err, context.Canceled)
	}
	if err := j.Put(ctx, Record(r.Key, "r2")); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: got error %v, want %v", err, context.Canceled)
	}
	if err := j.Delete(ctx, r.Key, r.RotationID); !errors.Is(err, context.Canceled) {
		t.Errorf("Delete: got error %v, want %v", err, context.Canceled)
	}
	want(t, j, account.Key{}, r)
}

func want(t *testing.T, j refresh.Journal, key account.Key, records ...rotation.Record) {
	t.Helper()
	got, err := j.Records(t.Context(), key)
	must(t, err)
	byKey := func(a, b rotation.Record) int {
		return cmp.Or(cmp.Compare(a.Key.String(), b.Key.String()), cmp.Compare(a.RotationID, b.RotationID))
	}
	slices.SortFunc(got, byKey)
	records = slices.SortedFunc(slices.Values(records), byKey)
	same := func(a, b rotation.Record) bool {
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		return string(x) == string(y)
	}
	if !slices.EqualFunc(got, records, same) {
		t.Fatalf("Records of %q: got %v, want %v", key, names(got), names(records))
	}
}

func names(records []rotation.Record) (out []string) {
	for _, r := range records {
		out = append(out, fmt.Sprintf("%s/%s from version %d with %d bytes", r.Key, r.RotationID, r.FromVersion, len(r.Answer)))
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustKey(platform, id string) account.Key {
	k, err := account.NewKey(platform, id)
	if err != nil {
		panic(err)
	}
	return k
}
