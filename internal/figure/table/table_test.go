package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbus/tokenbus/internal/figure"
)

// What figure.Compare reports comes back from what go test prints.
func TestParse(t *testing.T) {
	t.Setenv("TOKENBUS_BENCH", "full")
	r := testing.Benchmark(func(b *testing.B) {
		figure.Compare(b, func() []float64 { return []float64{1500, 3} }, func() []float64 { return []float64{1000, 2} },
			figure.Column{Name: "p99", Unit: "ns", AtMost: 1.1}, figure.Column{Unit: "req/s", AtLeast: 0.95})
	})
	output := "goos: linux\npkg: x\nBenchmarkHot/64/min_ttl-2 " + r.String() + "\nBenchmarkPlain \t 1\t 12 ns/op\n" +
		"BenchmarkFails\n--- FAIL: BenchmarkFails\n    x_test.go:1: no\nFAIL\n"
	columns, benches, err := parse(strings.NewReader(output))
	if err != nil {
		t.Fatal(err)
	}
	want := map[where]measured{
		{"Hot/64/min_ttl", "p99"}: {unit: "ns", ours: 1500, rival: 1000, ratio: 1.5, least: 1.5, top: 1.5, atMost: 1.1},
		{"Hot/64/min_ttl", ""}:    {unit: "req/s", ours: 3, rival: 2, ratio: 1.5, least: 1.5, top: 1.5, atLeast: 0.95},
	}
	if len(columns) != len(want) {
		t.Errorf("columns are %+v", columns)
	}
	for key, w := range want {
		if columns[key] != w {
			t.Errorf("%v is %+v, want %+v", key, columns[key], w)
		}
	}
	if columns[where{"Hot/64/min_ttl", "p99"}].met() || !columns[where{"Hot/64/min_ttl", ""}].met() {
		t.Error("a goal is judged wrongly")
	}
	if !benches["Plain"] || benches["Fails"] {
		t.Errorf("benchmarks that ran are %v", benches)
	}
}

func TestParseRefusesHalfAColumn(t *testing.T) {
	if _, _, err := parse(strings.NewReader("BenchmarkX 1 2 ratio\n")); err == nil || !strings.Contains(err.Error(), "BenchmarkX") {
		t.Errorf("got %v, want an error that names BenchmarkX", err)
	}
}

func TestFormat(t *testing.T) {
	for _, c := range []struct {
		v    float64
		unit string
		want string
	}{
		{96, "ns", "96.0 ns"}, {0.5, "ns", "0.50 ns"}, {97_123, "ns", "97.1 µs"}, {1_234_567, "ns", "1.23 ms"}, {2.5e9, "ns", "2.50 s"},
		{193_374, "req/s", "193,000 req/s"}, {1_234_567, "req/s", "1,230,000 req/s"}, {999.6, "req/s", "1000 req/s"},
		{512, "B", "512 B"}, {1536, "B", "1.50 KiB"}, {3 << 30, "B", "3.00 GiB"}, {10.07, "ms", "10.1 ms"},
	} {
		if got := format(c.v, c.unit); got != c.want {
			t.Errorf("format(%v, %s) = %q, want %q", c.v, c.unit, got, c.want)
		}
	}
}

func TestSplit(t *testing.T) {
	for _, document := range []string{
		"", "no markers", begin, end, end + begin, begin + begin + end, begin + end + end, begin + end + begin + end,
	} {
		if _, _, _, err := split(document); err == nil || !strings.Contains(err.Error(), begin) || !strings.Contains(err.Error(), end) {
			t.Errorf("%q: got %v, want an error that names the markers", document, err)
		}
	}
	before, between, after, err := split("a" + begin + "b" + end + "c")
	if before != "a" || between != "b" || after != "c" || err != nil {
		t.Errorf("got %q %q %q %v", before, between, after, err)
	}
}

// A row that was not measured stays with its date; one that is on no list goes.
func TestRewriting(t *testing.T) {
	rows := []row{{title: "one", bench: "One", rival: "echo"}, {title: "two", bench: "Two", column: "p99", rival: "echo"}, {title: "three"}}
	m := measured{unit: "ns", ours: 11, rival: 10, ratio: 1.1, least: 1, top: 1.2, atMost: 1.3}
	old := markdown("old machine", [][]string{rows[0].cells(m, "2026-01-01"), rows[1].cells(m, "2026-01-01"), row{title: "gone"}.cells(m, "2026-01-01")})
	m.ratio = 2
	now := map[string][]string{"two": rows[1].cells(m, "2026-02-02")}
	got := markdown("machine", merge(rows, now, earlier(old)))
	want := `
machine

| what | tokenbus | rival | rival's value | ratio (range) | goal | met | date | benchmark |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| one | 11.0 ns | echo | 10.0 ns | 1.10 (1.00–1.20) | ≤ 1.30 | yes | 2026-01-01 | ` + "`One`" + ` |
| two | 11.0 ns | echo | 10.0 ns | 2.00 (1.00–1.20) | ≤ 1.30 | **no** | 2026-02-02 | ` + "`Two` p99" + ` |

`
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if again := markdown("machine", merge(rows, nil, earlier(got))); again != got {
		t.Errorf("rows that stay are changed: %s", again)
	}
}

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.md")
	if err := os.WriteFile(path, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := replace(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if string(data) != "new" || err != nil {
		t.Errorf("got %q, %v", data, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left beside it: %v", entries)
	}
	if err := replace(filepath.Join(dir, "none"), nil); !os.IsNotExist(err) {
		t.Errorf("a file that is missing: %v", err)
	}
}

func TestBenchPattern(t *testing.T) {
	for _, c := range []struct {
		benches []string
		want    string
	}{
		{[]string{"Hot/64", "Hot/64/min_ttl", "Storm/exchange=0s", "Hot/64"}, `^(BenchmarkHot|BenchmarkStorm)$/^(64|exchange=0s)$`},
		{[]string{"Hot/64/min_ttl"}, `^(BenchmarkHot)$/^(64)$/^(min_ttl)$`},
		{[]string{"Hot/64", "Refresh"}, `^(BenchmarkHot|BenchmarkRefresh)$`},
	} {
		var list []row
		for _, bench := range c.benches {
			list = append(list, row{bench: bench})
		}
		if got := benchPattern(list); got != c.want {
			t.Errorf("%v: got %s, want %s", c.benches, got, c.want)
		}
	}
}

// No two rows are taken for one another.
func TestRows(t *testing.T) {
	titles, places := map[string]bool{}, map[row]bool{}
	for _, r := range rows {
		place := row{pkg: r.pkg, bench: r.bench, column: r.column}
		if titles[r.title] || places[place] {
			t.Errorf("twice: %+v", r)
		}
		if strings.Contains(r.title+r.rival, "|") || r.title == "" {
			t.Errorf("no cell of a table: %+v", r)
		}
		titles[r.title], places[place] = true, true
	}
}

// Nothing is run, and nothing written, where there is no place to write to.
func TestRunNeedsMarkers(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("docs", 0o755); err != nil {
		t.Fatal(err)
	}
	const text = "# Benchmarks\n\n" + begin + "\n"
	if err := os.WriteFile(document, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	err := run("", io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), document) || !strings.Contains(err.Error(), end) {
		t.Errorf("got %v, want an error that names the file and the marker", err)
	}
	if data, err := os.ReadFile(document); string(data) != text || err != nil {
		t.Errorf("the file is %q, %v", data, err)
	}
}

func TestRunNamesAPatternThatMatchesNothing(t *testing.T) {
	t.Chdir(filepath.Join("..", "..", ".."))
	if err := run("NoSuchBenchmark", io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "NoSuchBenchmark") {
		t.Errorf("got %v, want an error that names the pattern", err)
	}
}
