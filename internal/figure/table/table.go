package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

const (
	begin = "<!-- figures -->"
	end   = "<!-- /figures -->"
)

var heading = []string{"what", "tokenbus", "rival", "rival's value", "ratio (range)", "goal", "met", "date", "benchmark"}

// cells is a row of the table as it is printed; the first cell names it.
func (r row) cells(m measured, date string) []string {
	goal, met := "", ""
	switch {
	case m.atMost > 0:
		goal = "≤ " + digits(m.atMost)
	case m.atLeast > 0:
		goal = "≥ " + digits(m.atLeast)
	}
	if goal != "" {
		met = map[bool]string{true: "yes", false: "**no**"}[m.met()]
	}
	return []string{
		r.title, format(m.ours, m.unit), r.rival, format(m.rival, m.unit),
		fmt.Sprintf("%s (%s–%s)", digits(m.ratio), digits(m.least), digits(m.top)), goal, met, date,
		strings.TrimSpace("`" + r.bench + "` " + r.column),
	}
}

// split returns what is before, between and after the markers.
func split(document string) (before, between, after string, err error) {
	before, rest, ok := strings.Cut(document, begin)
	if ok {
		between, after, ok = strings.Cut(rest, end)
	}
	if !ok || strings.Contains(between+after, begin) || strings.Contains(after, end) {
		return "", "", "", fmt.Errorf("want the line %q once, and the line %q once below it", begin, end)
	}
	return before, between, after, nil
}

// earlier returns the rows of a table that was written before, by their titles.
func earlier(between string) map[string][]string {
	rows := map[string][]string{}
	for line := range strings.Lines(between) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) == len(heading) {
			rows[cells[0]] = cells
		}
	}
	return rows
}

// merge returns the table: for each row what was measured now, else what was
// there before.
func merge(rows []row, now map[string][]string, before map[string][]string) (table [][]string) {
	for _, r := range rows {
		if cells, ok := now[r.title]; ok {
			table = append(table, cells)
		} else if cells, ok := before[r.title]; ok {
			table = append(table, cells)
		}
	}
	return table
}

// markdown is what goes between the markers.
func markdown(machine string, table [][]string) string {
	var out strings.Builder
	fmt.Fprintf(&out, "\n%s\n\n", machine)
	for _, cells := range append([][]string{heading, dashes()}, table...) {
		fmt.Fprintf(&out, "| %s |\n", strings.Join(cells, " | "))
	}
	out.WriteString("\n")
	return out.String()
}

func dashes() []string {
	list := make([]string, len(heading))
	for i := range list {
		list[i] = "---"
	}
	return list
}

// show prints the table for people.
func show(w io.Writer, machine string, table [][]string) error {
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\n\n", machine)
	for _, cells := range append([][]string{heading}, table...) {
		fmt.Fprintln(columns, strings.Join(cells, "\t"))
	}
	return columns.Flush()
}

// replace writes the file anew, whole or not at all.
func replace(path string, data []byte) error {
	old, err := os.ReadFile(path)
	if err != nil || bytes.Equal(old, data) {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".figures-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // gone after the rename
	if _, err := temp.Write(data); err != nil {
		_ = temp.Close()
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	if err := os.Chmod(temp.Name(), info.Mode()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}
