package natskv_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/internal/figure"
	"github.com/tokenbus/tokenbus/natskv"
)

// benchKey is the key of the n-th account: 27 characters.
func benchKey(n int) account.Key { return mustKey(fmt.Sprintf("openai.user-%07d_example", n)) }

// benchTime is when the n-th of many accounts is due, if it is the first of due:
// those have been for n seconds, the others will be in n seconds.
func benchTime(now time.Time, n, due int) time.Time {
	if n < due {
		return now.Add(-time.Duration(n) * time.Second)
	}
	return now.Add(time.Duration(n+1) * time.Second)
}

// BenchmarkDue is a look at what is due of very many accounts against one of a
// thousand: 100 are due of either, and nothing that is not due may cost.
func BenchmarkDue(b *testing.B) {
	const due = 100
	now := time.UnixMilli(1_700_000_000_000)
	look := func(accounts int) func() []float64 {
		ix := natskv.NewIndex()
		for _, n := range rand.Perm(accounts) {
			ix.Set(account.Account{Key: benchKey(n), Status: account.Active, RefreshAt: benchTime(now, n, due)})
		}
		return func() []float64 {
			took := make([]float64, 1000)
			for i := range took {
				began := time.Now()
				got := ix.Due(now, 2*due, "google")
				took[i] = float64(time.Since(began).Nanoseconds())
				if len(got) != due || got[0] != benchKey(due-1) {
					b.Fatalf("got %d due, beginning with %v", len(got), got[:min(len(got), 1)])
				}
			}
			return []float64{figure.Median(took)}
		}
	}
	figure.Compare(b, look(figure.Size(10_000, 1_000_000)), look(1_000), figure.Column{Unit: "ns", AtMost: 1.5})
}

// BenchmarkIndexMemory is what an account takes in the index, of very many of
// which each is due one day, against a Go map from keys to times. They come in
// the order of their keys and times, which leaves the trees half empty and so
// is the worst. Beside it: in any order, and when each was refreshed once, in
// the order in which they were due.
func BenchmarkIndexMemory(b *testing.B) {
	accounts := figure.Size(10_000, 1_000_000)
	now := time.UnixMilli(1_700_000_000_000)
	shuffled := rand.Perm(accounts)
	ours := func(shuffle, refresh bool) float64 {
		before, ix := heap(), natskv.NewIndex()
		for n := range accounts {
			if shuffle {
				n = shuffled[n]
			}
			ix.Set(account.Account{Key: benchKey(n), Status: account.Active, RefreshAt: benchTime(now, n, 0)})
		}
		for n := 0; refresh && n < accounts; n++ {
			ix.Set(account.Account{Key: benchKey(n), Status: account.Active, RefreshAt: benchTime(now, accounts+n, 0)})
		}
		grown := heap() - before
		if got := len(ix.Due(now.Add(time.Duration(3*accounts)*time.Second), 2*accounts)); got != accounts {
			b.Fatalf("the index has %d of %d", got, accounts)
		}
		return float64(grown) / float64(accounts)
	}
	rival := func() []float64 {
		before, times := heap(), map[string]int64{}
		for n := range accounts {
			times[benchKey(n).String()] = benchTime(now, n, 0).UnixMilli()
		}
		grown := heap() - before
		if len(times) != accounts {
			b.Fatalf("the map has %d of %d", len(times), accounts)
		}
		return []float64{float64(grown) / float64(accounts)}
	}
	figure.Compare(b, func() []float64 { return []float64{ours(false, false)} }, rival, figure.Column{Unit: "B"})
	b.ReportMetric(ours(true, false), "shuffled/B")
	b.ReportMetric(ours(true, true), "refreshed/B")
}

// heap returns the bytes that are in use after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what the first one only unlinked
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
