package arch_test

import (
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the recorded interfaces")

// TestPublicAPI holds what the versioned packages export against what is
// recorded: a change of it is a decision, and shows in the diff of a text file.
func TestPublicAPI(t *testing.T) {
	for _, pkg := range []string{"account", "client", "client/clienttest", "events"} {
		t.Run(pkg, func(t *testing.T) {
			got := exported(t, filepath.Join("../..", pkg))
			path := filepath.Join("testdata", strings.ReplaceAll(pkg, "/", "_")+".api")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("it exports something else than recorded; if that is meant: make golden, and a line in the changelog\n%s", changed(string(want), got))
			}
		})
	}
}

// exported lists the exported declarations of a package, without comments and
// bodies, in the order of their text.
func exported(t *testing.T, dir string) string {
	t.Helper()
	fset := token.NewFileSet()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v", dir, fs.ErrNotExist)
	}
	var lines []string
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.FileExports(f)
		for _, d := range f.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.IMPORT {
				continue
			}
			if fn, ok := d.(*ast.FuncDecl); ok {
				if fn.Recv != nil && !receiver(fn).IsExported() {
					continue
				}
				fn.Body = nil
			}
			var b bytes.Buffer
			if err := printer.Fprint(&b, fset, d); err != nil {
				t.Fatal(err)
			}
			lines = append(lines, strings.Join(slices.DeleteFunc(strings.Split(b.String(), "\n"), func(l string) bool { return strings.TrimSpace(l) == "" }), "\n"))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// receiver is the name of a method's type.
func receiver(fn *ast.FuncDecl) *ast.Ident {
	x := fn.Recv.List[0].Type
	if star, ok := x.(*ast.StarExpr); ok {
		x = star.X
	}
	return x.(*ast.Ident)
}

// changed lists the lines that only one of the texts has.
func changed(want, got string) string {
	var b strings.Builder
	for _, side := range []struct{ sign, text, other string }{{"-", want, got}, {"+", got, want}} {
		for line := range strings.SplitSeq(side.text, "\n") {
			if !slices.Contains(strings.Split(side.other, "\n"), line) {
				b.WriteString(side.sign + " " + line + "\n")
			}
		}
	}
	return b.String()
}
