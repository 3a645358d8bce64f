package arch_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tokenbus/tokenbus"

// layers says which packages of this module each package may import outside
// its tests. Data flows one way: an entry may name entries above it only.
// A new package needs a line here, and a thought about where it belongs.
//
// An entry covers the packages below it unless they have their own; a package
// may always import those below itself.
var layers = []struct {
	pkg string
	may string
}{
	{"account", ""},
	{"backoff", ""},
	{"clock", ""},
	{"failpoint", ""},
	{"events", "account"},
	{"seal", "account"},
	{"rotation", "account backoff events"},
	{"ledger", "account backoff clock events failpoint rotation"},
	{"refresh", "account backoff clock events failpoint ledger rotation"},
	{"lookup", "account backoff clock events ledger refresh rotation"},
	{"accounts", "account events ledger lookup refresh rotation"},
	{"provider", "account accounts backoff clock events ledger lookup refresh rotation"},
	{"lease", "account backoff ledger refresh"},
	{"loginfile", "account events"},
	{"client", "account backoff events"},
	{"spool", "account refresh rotation"},
	{"oauth", "account backoff refresh rotation"},
	{"mongostore", "account backoff ledger"},
	{"rediskv", "account backoff ledger lease refresh"},
	{"streams", ""},
	{"natskv", "account backoff events ledger refresh rotation lease streams"},
	{"bus", "account backoff events ledger streams"},
	{"cmd/tokenctl", "account backoff events client loginfile bus"},
	{"cmd/worker", "account accounts backoff clock events failpoint ledger lookup refresh rotation seal provider lease loginfile client spool oauth mongostore rediskv streams natskv bus"},
	{"examples", "account client events"},
	// Test suites: whoever runs them has what they need.
	{"oauth/oauthtest", "account refresh rotation"},
	{"client/clienttest", "account backoff events client"},
	{"ledger/storetest", "account events ledger"},
	{"ledger/cachetest", "account events ledger"},
	{"refresh/journaltest", "account events refresh rotation"},
	{"lease/leasetest", "account ledger refresh lease"},
	// Test rigs, in nobody's program.
	{"internal/memory", "account events ledger provider refresh rotation"},
	{"internal", "account accounts backoff clock events ledger lookup refresh rotation seal provider lease loginfile client spool oauth mongostore rediskv streams natskv bus internal/memory"},
}

// drivers says who may import a module outside tests.
var drivers = []struct {
	path string
	may  string
}{
	{"go.mongodb.org/", "mongostore internal"},
	{"github.com/redis/", "rediskv internal"},
	{"github.com/nats-io/", "streams natskv bus client cmd internal"},
	{"github.com/tink-crypto/", "seal internal"},
	{"github.com/cenkalti/", "backoff"},
	{"github.com/urfave/cli", "cmd"},
	{"github.com/lmittmann/tint", "cmd"},
}

var bannedNames = []string{"util", "utils", "common", "helper", "helpers", "model", "models", "service", "services", "manager", "managers", "misc", "base", "lib", "shared"}

// pkg is what `go list -json` tells of a package.
type pkg struct {
	ImportPath   string
	Doc          string
	GoFiles      []string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Error        *struct{ Err string }
}

func (p pkg) path() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

// within reports whether path is one of the entries (space-separated) or below
// one.
func within(path, entries string) bool {
	return slices.ContainsFunc(strings.Fields(entries), func(e string) bool { return path == e || strings.HasPrefix(path, e+"/") })
}

// isSuite reports whether the package exists for tests: net/http has its
// net/http/httptest, and ledger its ledger/storetest.
func isSuite(path string) bool { return strings.HasSuffix(path, "test") || within(path, "internal") }

// problems returns all that is wrong with a package.
func problems(p pkg) []string {
	var out []string
	bad := func(format string, args ...any) { out = append(out, p.path()+": "+fmt.Sprintf(format, args...)) }
	if p.Error != nil {
		bad("%s", p.Error.Err)
	}
	if len(p.GoFiles) > 0 && strings.TrimSpace(p.Doc) == "" {
		bad("has no package comment")
	}
	for element := range strings.SplitSeq(p.path(), "/") {
		if slices.Contains(bannedNames, element) {
			bad("%q says nothing about what is in it", element)
		}
	}
	for _, imported := range p.Imports {
		if reason := importProblem(p.path(), imported); reason != "" {
			bad("imports %s: %s", imported, reason)
		}
	}
	for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
		if own, ok := strings.CutPrefix(imported, module+"/"); ok && within(own, "cmd") && own != p.path() {
			bad("its tests import %s: nobody imports a command", imported)
		}
	}
	return out
}

// importProblem returns what is wrong with a package importing another outside
// its tests; "" for nothing.
func importProblem(path, imported string) string {
	own, inModule := strings.CutPrefix(imported, module+"/")
	external := strings.Contains(strings.Split(imported, "/")[0], ".") && !inModule
	if path == "account" && (inModule || external) {
		return "account imports the standard library alone"
	}
	if !isSuite(path) && (imported == "testing" || strings.HasPrefix(imported, "testing/") || imported == "go.uber.org/goleak" || imported == "pgregory.net/rapid") {
		return "only tests, suites and rigs import it"
	}
	for _, d := range drivers {
		if strings.HasPrefix(imported, d.path) && !within(path, d.may) {
			return "only " + strings.Join(strings.Fields(d.may), ", ") + " may"
		}
	}
	if !inModule {
		return ""
	}
	if within(own, "cmd") && own != path {
		return "nobody imports a command"
	}
	if within(own, "internal") && !within(path, "internal") {
		return "internal is for tests"
	}
	may, ok := layerOf(path)
	if !ok {
		return "the package has no line in layers (internal/arch)"
	}
	if within(own, path) || within(own, may) {
		return ""
	}
	return "it may import only: " + may
}

func layerOf(path string) (may string, ok bool) {
	best := -1
	for _, l := range layers {
		if within(path, l.pkg) && len(l.pkg) > best {
			best, may, ok = len(l.pkg), l.may, true
		}
	}
	return may, ok
}

// TestArchitecture lists the packages as each operating system sees them,
// since an import may hide behind a build constraint.
func TestArchitecture(t *testing.T) {
	for _, system := range []string{"linux", "darwin", "windows"} {
		t.Run(system, func(t *testing.T) {
			for _, p := range list(t, system) {
				for _, problem := range problems(p) {
					t.Error(problem)
				}
			}
		})
	}
}

func list(t *testing.T, system string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Doc,GoFiles,Imports,TestImports,XTestImports,Error", module+"/...")
	cmd.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 4 {
		t.Fatalf("go list found %d packages", len(pkgs))
	}
	return pkgs
}

// TestLayersPointDown: an entry that names a later one would allow a cycle of
// responsibilities.
func TestLayersPointDown(t *testing.T) {
	var seen []string
	for _, l := range layers {
		for may := range strings.FieldsSeq(l.may) {
			if !slices.Contains(seen, may) {
				t.Errorf("%s may import %s, which stands below it or nowhere", l.pkg, may)
			}
		}
		seen = append(seen, l.pkg)
	}
}

// TestRulesCanFail holds each rule against a package that breaks it.
func TestRulesCanFail(t *testing.T) {
	const own = module + "/"
	for name, tc := range map[string]struct {
		pkg  pkg
		want string // "" for fine
	}{
		"account, standard library":      {pkg{ImportPath: own + "account", Imports: []string{"time", "net/url"}}, ""},
		"account, third party":           {pkg{ImportPath: own + "account", Imports: []string{"golang.org/x/text"}}, "standard library alone"},
		"account, ours":                  {pkg{ImportPath: own + "account", Imports: []string{own + "backoff"}}, "standard library alone"},
		"provider, as it should be":      {pkg{ImportPath: own + "provider", Imports: []string{own + "account", own + "events", own + "backoff", "context"}}, ""},
		"provider, oauth":                {pkg{ImportPath: own + "provider", Imports: []string{own + "oauth"}}, "may import only"},
		"provider, natskv":               {pkg{ImportPath: own + "provider", Imports: []string{own + "natskv"}}, "may import only"},
		"provider, nats.go":              {pkg{ImportPath: own + "provider", Imports: []string{"github.com/nats-io/nats.go"}}, "only streams, natskv, bus, client, cmd, internal may"},
		"events, nats.go":                {pkg{ImportPath: own + "events", Imports: []string{"github.com/nats-io/nats.go"}}, "only streams"},
		"lease, go-redis":                {pkg{ImportPath: own + "lease", Imports: []string{"github.com/redis/go-redis/v9"}}, "only rediskv"},
		"rediskv, go-redis":              {pkg{ImportPath: own + "rediskv", Imports: []string{"github.com/redis/go-redis/v9"}}, ""},
		"cmd, go-redis":                  {pkg{ImportPath: own + "cmd/worker", Imports: []string{"github.com/redis/go-redis/v9"}}, "only rediskv"},
		"natskv, Mongo":                  {pkg{ImportPath: own + "natskv", Imports: []string{"go.mongodb.org/mongo-driver/v2/mongo"}}, "only mongostore"},
		"mongostore, Mongo":              {pkg{ImportPath: own + "mongostore", Imports: []string{"go.mongodb.org/mongo-driver/v2/mongo"}}, ""},
		"oauth, Tink":                    {pkg{ImportPath: own + "oauth", Imports: []string{"github.com/tink-crypto/tink-go/v2/aead"}}, "only seal"},
		"client, provider":               {pkg{ImportPath: own + "client", Imports: []string{own + "provider"}}, "may import only"},
		"tokenctl, the database":         {pkg{ImportPath: own + "cmd/tokenctl", Imports: []string{own + "mongostore"}}, "may import only"},
		"worker, everything":             {pkg{ImportPath: own + "cmd/worker", Imports: []string{own + "mongostore", own + "oauth/oauthtest", own + "bus"}}, ""},
		"a command imports a command":    {pkg{ImportPath: own + "cmd/worker", Imports: []string{own + "cmd/tokenctl"}}, "nobody imports a command"},
		"a test imports a command":       {pkg{ImportPath: own + "bus", XTestImports: []string{own + "cmd/worker"}}, "nobody imports a command"},
		"a command's own test":           {pkg{ImportPath: own + "cmd/worker", XTestImports: []string{own + "cmd/worker"}}, ""},
		"a test imports a driver":        {pkg{ImportPath: own + "provider", XTestImports: []string{"github.com/nats-io/nats.go", own + "natskv"}}, ""},
		"product code imports a rig":     {pkg{ImportPath: own + "bus", Imports: []string{own + "internal/rig"}}, "internal is for tests"},
		"product code imports testing":   {pkg{ImportPath: own + "bus", Imports: []string{"testing"}}, "only tests, suites and rigs"},
		"product code, testing/synctest": {pkg{ImportPath: own + "lease", Imports: []string{"testing/synctest"}}, "only tests, suites and rigs"},
		"a suite imports testing":        {pkg{ImportPath: own + "ledger/storetest", Imports: []string{"testing", own + "ledger"}}, ""},
		"a suite imports an adapter":     {pkg{ImportPath: own + "ledger/storetest", Imports: []string{own + "mongostore"}}, "may import only"},
		"a package below":                {pkg{ImportPath: own + "oauth", Imports: []string{own + "oauth/builtin"}}, ""},
		"a new package":                  {pkg{ImportPath: own + "novelty", Imports: []string{own + "account"}}, "no line in layers"},
		"an empty name":                  {pkg{ImportPath: own + "bus/helpers"}, "says nothing"},
		"no comment":                     {pkg{ImportPath: own + "bus", GoFiles: []string{"bus.go"}}, "no package comment"},
		"a comment":                      {pkg{ImportPath: own + "bus", GoFiles: []string{"bus.go"}, Doc: "Package bus is."}, ""},
		"tests alone":                    {pkg{ImportPath: own + "bus"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(problems(tc.pkg), "; ")
			if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
				t.Errorf("problems: %q, want %q", got, tc.want)
			}
		})
	}
}
