// Package figure measures tokenbus against a rival that does the same work on
// the same machine in the same run. Machines are noisy and differ, so the ratio
// is what counts: the two take turns, and each figure is a median over rounds.
//
// A benchmark calls [Compare] once. It is tiny unless TOKENBUS_BENCH=full, so
// that every one of them also runs in continuous integration; `make bench`
// sets that and writes the medians into docs/benchmarks.md (internal/figure/table).
package figure

import (
	"fmt"
	"os"
	"slices"
	"testing"
)

// Full reports whether figures are wanted, and not just whether it works.
func Full() bool { return os.Getenv("TOKENBUS_BENCH") == "full" }

// Size is full where figures are wanted, else tiny.
func Size(tiny, full int) int {
	if Full() {
		return full
	}
	return tiny
}

// rounds is how often each side is measured: once to see that it works.
func rounds() int { return Size(1, 7) }

// Column is one of the values that both sides measure in each round.
type Column struct {
	Name string // such as "p99"; may be empty where there is one
	Unit string // of both sides' values, such as "ns" or "req/s"
	// The goal for ours/rival; 0: none. At most one of the two is set.
	AtMost, AtLeast float64
}

// Compare measures ours and rival in turns and reports, for each column, the
// medians of both, the median of their ratios and its range. Each call of ours
// or rival makes one round and returns its values, one for each column.
func Compare(b *testing.B, ours, rival func() []float64, columns ...Column) {
	b.Helper()
	var mine, theirs, ratios = make([][]float64, len(columns)), make([][]float64, len(columns)), make([][]float64, len(columns))
	for round := range rounds() {
		var o, r []float64
		if round%2 == 0 { // what one leaves behind meets the other as often
			r, o = rival(), ours()
		} else {
			o, r = ours(), rival()
		}
		for i := range columns {
			mine[i], theirs[i] = append(mine[i], o[i]), append(theirs[i], r[i])
			ratios[i] = append(ratios[i], o[i]/r[i])
		}
	}
	b.ReportMetric(0, "ns/op") // leaves it out: a round is no operation
	for i, c := range columns {
		report := func(what string, v float64) { b.ReportMetric(v, metric(c.Name, what)) }
		report("ours/"+c.Unit, Median(mine[i]))
		report("rival/"+c.Unit, Median(theirs[i]))
		report("ratio", Median(ratios[i]))
		report("ratio-min", slices.Min(ratios[i]))
		report("ratio-max", slices.Max(ratios[i]))
		switch {
		case c.AtMost > 0:
			report("at-most", c.AtMost)
		case c.AtLeast > 0:
			report("at-least", c.AtLeast)
		}
	}
}

// metric is a unit as [testing.B.ReportMetric] takes it.
func metric(column, what string) string {
	if column == "" {
		return what
	}
	return fmt.Sprintf("%s:%s", column, what)
}

// Median returns the median; it sorts a copy. values must not be empty.
func Median(values []float64) float64 { return Quantile(values, 0.5) }

// Quantile returns the q-quantile, q in [0,1]: the nearest value at or above it.
func Quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
