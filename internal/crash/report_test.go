//go:build linux

package crash_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report prints the run's table.
func (r *run) report(seed uint64, lasted time.Duration, rotated, again int, losses []loss, faulty, quiet *tally) {
	var b strings.Builder
	fmt.Fprintf(&b, "crash: %s; seed %d, %d workers, %d accounts\n", r.fl.cfg.name, seed, len(r.fl.workers), len(r.fl.accounts))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "fault\ttimes\tthe moment did not come")
	total := 0
	for _, name := range r.counts.names() {
		total += r.counts.of[name]
		fmt.Fprintf(w, "%s\t%d\t%d\n", name, r.counts.of[name], r.counts.missed[name])
	}
	fmt.Fprintf(w, "all\t%d\n\n", total)
	fmt.Fprintln(w, "\twith faults\tquiet")
	fmt.Fprintf(w, "lasted\t%s\t%s\n", lasted.Round(time.Second), lasted.Round(time.Second))
	fmt.Fprintf(w, "look-ups\t%d\t%d\n", faulty.asked(), quiet.asked())
	fmt.Fprintf(w, "failed\t%d %v\t%d %v\n", sum(faulty.failed), faulty.failed, sum(quiet.failed), quiet.failed)
	fmt.Fprintf(w, "failed though a living token existed\t%d %v\t%d %v\n", sum(faulty.living), faulty.living, sum(quiet.living), quiet.living)
	for _, p := range []float64{0.5, 0.99} {
		fmt.Fprintf(w, "p%.0f\t%s\t%s\n", 100*p, percentile(faulty.took, p), percentile(quiet.took, p))
		fmt.Fprintf(w, "p%.0f while a living token existed\t%s\t%s\n", 100*p, percentile(faulty.easy, p), percentile(quiet.easy, p))
		fmt.Fprintf(w, "p%.0f of these, while no worker was stopped\t%s\t%s\n", 100*p, percentile(faulty.awake, p), percentile(quiet.awake, p))
	}
	_ = w.Flush()
	fmt.Fprintf(&b, "\nrotations during faults: %d; refresh tokens sent again where the rule allows it: %d\n", rotated, again)
	bad := 0
	for _, l := range losses {
		if l.excuse == "" {
			bad++
		}
	}
	fmt.Fprintf(&b, "accounts lost: %d; lost with an answer that reached no process: %d\n", bad, len(losses)-bad)
	for _, l := range losses {
		fmt.Fprintf(&b, "  %s, %s: %s\n", l.key, l.code, l.excuse)
	}
	r.t.Log(b.String())
}

func (t *tally) asked() int { return len(t.took) + sum(t.failed) }

func sum(m map[string]int) int {
	n := 0
	for _, v := range slices.Collect(maps.Values(m)) {
		n += v
	}
	return n
}
