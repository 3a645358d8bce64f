package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// measured is what a benchmark reported of one column: see [figure.Compare].
type measured struct {
	unit              string
	ours, rival       float64
	ratio, least, top float64
	atMost, atLeast   float64 // the goal; 0: none
}

// met reports whether the goal is.
func (m measured) met() bool {
	return (m.atMost == 0 || m.ratio <= m.atMost) && (m.atLeast == 0 || m.ratio >= m.atLeast)
}

// where is a column of a benchmark.
type where struct{ bench, column string }

// parse reads what go test prints. Benchmarks that report no figures are in it
// with no columns.
func parse(r io.Reader) (columns map[where]measured, benches map[string]bool, err error) {
	columns, benches = map[where]measured{}, map[string]bool{}
	in := benchfmt.NewReader(r, "go test")
	for in.Scan() {
		result, ok := in.Result().(*benchfmt.Result)
		if !ok {
			continue // a line that begins like a result, such as the name before a log
		}
		name := nameOf(result.Name)
		benches[name] = true
		for _, v := range result.Values {
			value, unit := v.Value, v.Unit
			if v.OrigUnit != "" { // it prefers seconds to ns
				value, unit = v.OrigValue, v.OrigUnit
			}
			column, what, named := strings.Cut(unit, ":")
			if !named {
				column, what = "", unit
			}
			key := where{name, column}
			m := columns[key]
			if m.set(what, value) {
				columns[key] = m
			}
		}
	}
	for key, m := range columns {
		if m.unit == "" {
			return nil, nil, fmt.Errorf("results of Benchmark%s: column %q has no values of ours and a rival", key.bench, key.column)
		}
	}
	return columns, benches, in.Err()
}

// nameOf is the name without the number of processors.
func nameOf(n benchfmt.Name) string {
	base, parts := n.Parts()
	var name strings.Builder
	name.WriteString(string(base))
	for _, part := range parts {
		if part[0] != '-' {
			name.WriteString(string(part))
		}
	}
	return name.String()
}

// set takes one value and reports whether it is one of ours.
func (m *measured) set(what string, v float64) bool {
	if unit, ok := strings.CutPrefix(what, "ours/"); ok {
		m.unit, m.ours = unit, v
		return true
	}
	if strings.HasPrefix(what, "rival/") {
		m.rival = v
		return true
	}
	field := map[string]*float64{
		"ratio": &m.ratio, "ratio-min": &m.least, "ratio-max": &m.top, "at-most": &m.atMost, "at-least": &m.atLeast,
	}[what]
	if field == nil {
		return false
	}
	*field = v
	return true
}

// format writes a value of the unit for people.
func format(v float64, unit string) string {
	scale := func(steps ...any) string { // size, unit, …: the largest first
		for i := 0; i < len(steps); i += 2 {
			if size := steps[i].(float64); v >= size || i == len(steps)-2 {
				return digits(v/size) + " " + steps[i+1].(string)
			}
		}
		return ""
	}
	switch unit {
	case "ns":
		return scale(1e9, "s", 1e6, "ms", 1e3, "µs", 1.0, "ns")
	case "B":
		return scale(float64(1<<30), "GiB", float64(1<<20), "MiB", float64(1<<10), "KiB", 1.0, "B")
	}
	return digits(v) + " " + unit
}

// digits writes three significant ones, and thousands apart.
func digits(v float64) string {
	switch {
	case v >= 1000:
		s := strconv.FormatFloat(v, 'f', 0, 64)
		keep := len(s) - 3 // zeros say that the rest is not known
		s = s[:3] + strings.Repeat("0", keep)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}
