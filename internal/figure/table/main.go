// Command table runs the benchmarks that have a rival, prints what came of them
// as one table, and writes it into docs/benchmarks.md between the markers.
//
//	go run ./internal/figure/table [-bench regexp]
//
// A row whose benchmark was not run, or failed, stays as it was, with its date.
// It ends with an error if a benchmark failed, and never because a goal is not met.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

const document = "docs/benchmarks.md"

func main() {
	pattern := flag.String("bench", "", "run only the rows whose benchmark matches the regular expression, such as HotLookup/64")
	flag.Parse()
	if err := run(*pattern, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func run(pattern string, stdout, stderr io.Writer) error {
	wanted, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(document)
	if err != nil {
		return fmt.Errorf("%w; run it at the top of the repository", err)
	}
	before, between, after, err := split(string(data))
	if err != nil {
		return fmt.Errorf("%s: %w", document, err)
	}
	var asked []row
	for _, r := range rows {
		if wanted.MatchString("Benchmark" + r.bench) {
			asked = append(asked, r)
		}
	}
	if len(asked) == 0 {
		return fmt.Errorf("no row's benchmark matches %q", pattern)
	}
	now, failed := measure(asked, pattern != "", stderr)
	table := merge(rows, now, earlier(between))
	machine, err := describe()
	if err != nil {
		return err
	}
	if err := show(stdout, machine, table); err != nil {
		return err
	}
	if len(now) > 0 {
		failed = errors.Join(failed, replace(document, []byte(before+begin+markdown(machine, table)+end+after)))
	}
	return failed
}

// measure runs the benchmarks of the rows, package by package, and returns the
// cells of those that came out, by title. That a benchmark is missing is an
// error if it was asked for by name.
func measure(asked []row, named bool, stderr io.Writer) (now map[string][]string, failed error) {
	now = map[string][]string{}
	date := time.Now().UTC().Format(time.DateOnly)
	missing := func(r row, why string) {
		if named {
			failed = errors.Join(failed, fmt.Errorf("%s: Benchmark%s %s", r.pkg, r.bench, why))
			return
		}
		fmt.Fprintf(stderr, "table: %s is left out: Benchmark%s of %s %s\n", r.title, r.bench, r.pkg, why)
	}
	for len(asked) > 0 {
		pkg := asked[0].pkg
		of := func(r row) bool { return r.pkg == pkg }
		var list []row
		for _, r := range asked {
			if of(r) {
				list = append(list, r)
			}
		}
		asked = slices.DeleteFunc(slices.Clone(asked), of)
		if _, err := os.Stat(filepath.FromSlash(pkg)); errors.Is(err, fs.ErrNotExist) {
			for _, r := range list {
				missing(r, "does not exist: there is no such package")
			}
			continue
		}
		output, err := goTest(pkg, benchPattern(list), stderr)
		columns, benches, parseErr := parse(bytes.NewReader(output))
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", pkg, err))
		}
		if parseErr != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", pkg, parseErr))
		}
		for _, r := range list {
			m, ok := columns[where{r.bench, r.column}]
			switch {
			case ok:
				now[r.title] = r.cells(m, date)
				delete(columns, where{r.bench, r.column})
			case err != nil || parseErr != nil: // said already
			case benches[r.bench]:
				missing(r, fmt.Sprintf("reports no column %q against a rival", r.column))
			default:
				missing(r, "does not exist")
			}
		}
		for key := range columns {
			if !slices.ContainsFunc(rows, func(r row) bool { return r.pkg == pkg && r.bench == key.bench && r.column == key.column }) {
				fmt.Fprintf(stderr, "table: column %q of Benchmark%s in %s has no row\n", key.column, key.bench, pkg)
			}
		}
	}
	return now, failed
}

// benchPattern selects the benchmarks of the rows, and perhaps a few more: it
// is as deep as the shortest of their names, for go test runs no benchmark whose
// name ends before the pattern does.
func benchPattern(rows []row) string {
	depth := len(strings.Split(rows[0].bench, "/"))
	for _, r := range rows {
		depth = min(depth, len(strings.Split(r.bench, "/")))
	}
	var out []string
	for i := range depth {
		var names []string
		for _, r := range rows {
			if name := regexp.QuoteMeta(strings.Split("Benchmark"+r.bench, "/")[i]); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		out = append(out, "^("+strings.Join(names, "|")+")$")
	}
	return strings.Join(out, "/")
}

// goTest runs benchmarks with all that they measure, and returns what they print.
func goTest(pkg, pattern string, stderr io.Writer) ([]byte, error) {
	var out bytes.Buffer
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", pattern, "-benchtime", "1x", "-timeout", "2h", "./"+pkg)
	cmd.Env = append(os.Environ(), "TOKENBUS_BENCH=full", "TOKENBUS_TEST_REQUIRE=1")
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, stderr), stderr
	err := cmd.Run()
	return out.Bytes(), err
}

// describe names the machine and the versions that were measured.
func describe() (string, error) {
	say := func(name string, args ...string) (string, error) {
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		return strings.TrimSpace(string(out)), nil
	}
	kernel, err := say("uname", "-sr")
	if err != nil {
		return "", err
	}
	versions, err := say("go", "list", "-m", "-f", "{{.Path}} {{.Version}}", "github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go",
		"github.com/redis/go-redis/v9", "go.mongodb.org/mongo-driver/v2")
	if err != nil {
		return "", err
	}
	var libraries []string
	for line := range strings.Lines(versions) {
		path, version, _ := strings.Cut(strings.TrimSpace(line), " ")
		libraries = append(libraries, moduleName(path)+" "+strings.TrimPrefix(version, "v"))
	}
	return fmt.Sprintf("Last run: %s; %s, %d cores; %s; Go %s; %s.", time.Now().UTC().Format(time.DateOnly), cpu(), runtime.NumCPU(), kernel,
		strings.TrimPrefix(runtime.Version(), "go"), strings.Join(libraries, ", ")), nil
}

var major = regexp.MustCompile(`/v[0-9]+$`)

// moduleName is the last part of a module's path that isn't a version.
func moduleName(path string) string {
	path = major.ReplaceAllString(path, "")
	return path[strings.LastIndex(path, "/")+1:]
}

// cpu is the model of the processor, where the system says it as Linux does.
func cpu() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(data)) {
			if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(model)
			}
		}
	}
	return runtime.GOARCH
}
