package rotation_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// page is the one that tells what happens if it crashes here: what it names
// must be there.
const page = "../docs/rotation.md"

var (
	inCode    = regexp.MustCompile("`([^`\\s]*\\.go[^`\\s]*)`")
	reference = regexp.MustCompile(`^([a-z/_]+\.go)(?::([A-Za-z.]+))?$`)
	crashRow  = regexp.MustCompile("(?m)^\\| `([a-z]+)` in `([a-z/_]+\\.go):([A-Za-z.]+)` \\|")
	crashHere = regexp.MustCompile(`failpoint\.At\("([a-z]+)"\)`)
)

func TestDocsNameWhatIsThere(t *testing.T) {
	text := readPage(t)
	known := map[string]map[string]string{}
	n := 0
	for _, m := range inCode.FindAllStringSubmatch(text, -1) {
		ref := reference.FindStringSubmatch(m[1])
		if ref == nil {
			t.Errorf("%s: %q is not of the form folder/file.go:function", page, m[1])
			continue
		}
		n++
		file, name := ref[1], ref[2]
		if known[file] == nil {
			known[file] = functions(t, file)
		}
		if _, ok := known[file][name]; name != "" && !ok {
			t.Errorf("%s names %s, and %s has only: %s", page, m[1], file, strings.Join(slices.Sorted(maps.Keys(known[file])), ", "))
		}
	}
	if n < 40 {
		t.Errorf("%s has %d references to the code; is their form another one now?", page, n)
	}
}

// The table of crash points and the code have the same ones, at the same
// places.
func TestDocsNameEveryCrashPoint(t *testing.T) {
	told := map[string]bool{}
	for _, m := range crashRow.FindAllStringSubmatch(readPage(t), -1) {
		point, file, name := m[1], m[2], m[3]
		told[point] = true
		if !strings.Contains(functions(t, file)[name], `failpoint.At("`+point+`")`) {
			t.Errorf("%s says that %s is in %s:%s", page, point, file, name)
		}
	}
	there := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() != ".." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go"), strings.HasSuffix(path, "_test.go"):
			return nil
		}
		source, err := os.ReadFile(path)
		for _, m := range crashHere.FindAllStringSubmatch(string(source), -1) {
			there[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(told, there) {
		t.Errorf("%s tells of %v, the code has %v", page, slices.Sorted(maps.Keys(told)), slices.Sorted(maps.Keys(there)))
	}
}

func readPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// functions returns the source of a file's functions, by name: name or
// type.name for a method.
func functions(t *testing.T, file string) map[string]string {
	t.Helper()
	source, err := os.ReadFile(filepath.Join("..", file))
	if err != nil {
		t.Error(err)
		return nil
	}
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, file, source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, d := range parsed.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		body := string(source[set.Position(f.Pos()).Offset:set.Position(f.End()).Offset])
		out[f.Name.Name] = body
		if f.Recv != nil {
			of := f.Recv.List[0].Type
			if star, ok := of.(*ast.StarExpr); ok {
				of = star.X
			}
			if name, ok := of.(*ast.Ident); ok {
				out[name.Name+"."+f.Name.Name] = body
			}
		}
	}
	return out
}
