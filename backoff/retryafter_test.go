package backoff_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/backoff"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestRetryAfter(t *testing.T) {
	for name, tc := range map[string]struct {
		header string
		want   time.Duration
		ok     bool
	}{
		"absent":            {"", 0, false},
		"blank":             {" \t ", 0, false},
		"seconds":           {"120", 2 * time.Minute, true},
		"zero":              {"0", 0, true},
		"leading zeros":     {"007", 7 * time.Second, true},
		"spaces around":     {" 5\t", 5 * time.Second, true},
		"a day":             {"86400", backoff.MaxRetryAfter, true},
		"above a day":       {"86401", backoff.MaxRetryAfter, true},
		"overflows seconds": {"9223372036854775807", backoff.MaxRetryAfter, true},
		"overflows int64":   {strings.Repeat("9", 400), backoff.MaxRetryAfter, true},
		"negative":          {"-1", 0, false},
		"signed":            {"+1", 0, false},
		"fraction":          {"1.5", 0, false},
		"unit":              {"5s", 0, false},
		"hexadecimal":       {"0x10", 0, false},
		"other digits":      {"٣", 0, false},
		"list":              {"1, 2", 0, false},
		"words":             {"soon", 0, false},
		"date":              {"Sun, 01 Mar 2026 12:00:30 GMT", 30 * time.Second, true},
		"date now":          {"Sun, 01 Mar 2026 12:00:00 GMT", 0, true},
		"date in the past":  {"Sun, 01 Mar 2026 11:00:00 GMT", 0, true},
		"date long past":    {"Thu, 01 Jan 1970 00:00:00 GMT", 0, true},
		"date far off":      {"Fri, 31 Dec 9999 23:59:59 GMT", backoff.MaxRetryAfter, true},
		"date, RFC 850":     {"Sunday, 01-Mar-26 12:01:00 GMT", time.Minute, true},
		"date, asctime":     {"Sun Mar  1 12:02:00 2026", 2 * time.Minute, true},
		"date, RFC 3339":    {"2026-03-01T12:00:30Z", 0, false},
		"date, cut":         {"Sun, 01 Mar 2026", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := backoff.RetryAfter(tc.header, now)
			if got != tc.want || ok != tc.ok {
				t.Errorf("RetryAfter(%q) = %v, %v; want %v, %v", tc.header, got, ok, tc.want, tc.ok)
			}
		})
	}
}

func TestRetryAfterMs(t *testing.T) {
	for name, tc := range map[string]struct {
		header string
		want   time.Duration
		ok     bool
	}{
		"absent":         {"", 0, false},
		"whole":          {"1500", 1500 * time.Millisecond, true},
		"fraction":       {"0.5", 500 * time.Microsecond, true},
		"zero":           {"0", 0, true},
		"spaces around":  {" 20 ", 20 * time.Millisecond, true},
		"above a day":    {"86400001", backoff.MaxRetryAfter, true},
		"overflows":      {strings.Repeat("9", 400), backoff.MaxRetryAfter, true},
		"negative":       {"-1", 0, false},
		"exponent":       {"1e3", 0, false},
		"not a number":   {"NaN", 0, false},
		"infinite":       {"Inf", 0, false},
		"two points":     {"1.2.3", 0, false},
		"point alone":    {".", 0, false},
		"with a unit":    {"20ms", 0, false},
		"hexadecimal":    {"0x1p4", 0, false},
		"date":           {"Sun, 01 Mar 2026 12:00:30 GMT", 0, false},
		"digit grouping": {"1_000", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := backoff.RetryAfterMs(tc.header)
			if got != tc.want || ok != tc.ok {
				t.Errorf("RetryAfterMs(%q) = %v, %v; want %v, %v", tc.header, got, ok, tc.want, tc.ok)
			}
		})
	}
}

// TestRetryAfterForms: both forms of one delay read the same.
func TestRetryAfterForms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := time.Duration(rapid.Int64Range(0, 86400).Draw(t, "seconds")) * time.Second
		now := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "now"), 0)
		if got, ok := backoff.RetryAfter(fmt.Sprint(int64(want.Seconds())), now); !ok || got != want {
			t.Fatalf("seconds: %v, %v; want %v", got, ok, want)
		}
		if got, ok := backoff.RetryAfter(now.Add(want).UTC().Format(http.TimeFormat), now); !ok || got != want {
			t.Fatalf("date: %v, %v; want %v", got, ok, want)
		}
		if got, ok := backoff.RetryAfterMs(fmt.Sprint(want.Milliseconds())); !ok || got != want {
			t.Fatalf("milliseconds: %v, %v; want %v", got, ok, want)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "1", "120", "-5", "99999999999999999999", "1.5", "Sun, 01 Mar 2026 12:00:30 GMT", "Sunday, 01-Mar-26 12:01:00 GMT", "Sun Mar  1 12:02:00 2026"} {
		f.Add(s, now.Unix())
	}
	f.Fuzz(func(t *testing.T, header string, unix int64) {
		for _, read := range []func() (time.Duration, bool){
			func() (time.Duration, bool) { return backoff.RetryAfter(header, time.Unix(unix, 0)) },
			func() (time.Duration, bool) { return backoff.RetryAfterMs(header) },
		} {
			if d, ok := read(); d < 0 || d > backoff.MaxRetryAfter || !ok && d != 0 {
				t.Fatalf("%q at %d: %v, %v", header, unix, d, ok)
			}
		}
	})
}
