//go:build unix

package e2e_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/oauth/oauthtest"
)

// goShim stands for the go command in a folder without the sources: it runs
// the program that was built from the package, which prints the same.
const goShim = `#!/bin/sh
case "$1 $2" in
"run ./cmd/worker" | "run ./cmd/tokenctl") name=${2##*/} && shift 2 && exec "$PROGRAMS/$name" "$@" ;;
esac
echo "the test knows no: go $*" >&2
exit 97
`

// reader is somebody who follows the README on a machine of their own.
type reader struct {
	dir      string   // where they are
	environ  []string // HOME, PATH and what keeps them out of other tests' way
	commands []string // of the README's first block
}

// readmeCommands are the first words of the commands that the README begins
// with, as far as its comments, in their order.
var readmeCommands = []string{
	"go run ./cmd/worker demo",
	"go run ./cmd/worker",
	"go run ./cmd/tokenctl accounts import ~/.codex/auth.json",
	"go run ./cmd/tokenctl token openai.<id>",
	"make test",
}

func newReader(t *testing.T) *reader {
	t.Helper()
	program(t, "worker") // so that they are built
	dir := t.TempDir()
	for _, sub := range []string{"bin", "home/.codex"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "go"), []byte(goShim), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	env := slices.DeleteFunc(environ(), func(s string) bool { return strings.HasPrefix(s, "TOKENBUS_") })
	env = append(env, "PROGRAMS="+programs, "HOME="+filepath.Join(dir, "home"), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	return &reader{dir: dir, environ: env, commands: firstBlock(t)}
}

// firstBlock returns the lines of the README's first block of commands, and
// checks that the test knows them.
func firstBlock(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var block, commands []string
	for line := range strings.Lines(string(text)) {
		if code, ok := strings.CutPrefix(line, "    "); ok {
			block = append(block, strings.TrimSpace(code))
			command, _, _ := strings.Cut(code, "#")
			commands = append(commands, strings.TrimSpace(command))
		} else if len(block) > 0 {
			break
		}
	}
	if !slices.Equal(commands, readmeCommands) {
		t.Fatalf("the README begins with the commands\n%s\nand this test knows\n%s", strings.Join(commands, "\n"), strings.Join(readmeCommands, "\n"))
	}
	return block
}

// start starts a command as a shell does. more is added to the environment.
func (r *reader) start(t *testing.T, command string, more ...string) *process {
	t.Helper()
	cmd := exec.Command("sh", "-c", "exec "+command)
	cmd.Dir, cmd.Env = r.dir, append(slices.Clone(r.environ), more...)
	return start(t, cmd)
}

// run runs a command to its end.
func (r *reader) run(t *testing.T, command string, more ...string) result {
	t.Helper()
	p := r.start(t, command, more...)
	code := p.code(t)
	return result{p.stdout.String(), p.stderr.String(), code}
}

var summaryLine = regexp.MustCompile(`\ndemo: lookups=[1-9]\d* failed=0 exchanges=[1-9]\d* reused=0 versions=[1-9]\d*\n$`)

func TestREADMEDemo(t *testing.T) {
	r := newReader(t)
	p := r.start(t, r.commands[0])
	p.awaitOutput(t, p.stdout, "that it refreshed and a peer heard it", func(text string) bool {
		return strings.Contains(text, "refreshed demo.") && strings.Contains(text, "hears the bump of demo.")
	})
	p.stop(t)
	if !summaryLine.MatchString(p.stdout.String()) {
		t.Errorf("the demo ends with\n%s", p.stdout)
	}
	if left, err := filepath.Glob(filepath.Join(r.dir, "data")); len(left) > 0 || err != nil {
		t.Errorf("the demo leaves %v, %v", left, err)
	}
}

func TestREADMELoginFileToLivingToken(t *testing.T) {
	server, err := oauthtest.New(oauthtest.Config{ClientID: "app_EMoamEEZ73f0CkXaXp7hrann", Auth: "none", OpenAIErrors: true})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(server)
	t.Cleanup(web.Close)
	r := newReader(t)
	_, refresh := server.NewGrant("alice")
	login := filepath.Join(r.dir, "home", ".codex", "auth.json")
	writeCodexLogin(t, login, "alice", refresh)

	// The endpoint is this test's, and no port may be taken already.
	worker := r.start(t, r.commands[1], "TOKENBUS_PROVIDERS="+write(t, r.dir, "providers.yaml", "providers:\n  openai:\n    token_url: "+web.URL+"/token\n"),
		"TOKENBUS_NATS_LISTEN=127.0.0.1:0", "TOKENBUS_HTTP_ADDR=127.0.0.1:0", "TOKENBUS_LOG_FORMAT=json")
	url, _ := worker.logs(t, "embedded NATS server listens")["url"].(string)
	worker.logs(t, "worker answers requests")
	nats := "TOKENBUS_NATS_URL=" + url

	imported := r.run(t, r.commands[2], nats)
	id := regexp.MustCompile(`\bopenai\.([A-Za-z0-9_-]+)`).FindStringSubmatch(imported.stdout)
	if imported.code != 0 || imported.stderr != "" || id == nil || !strings.HasSuffix(imported.stdout, "\n1 created\n") {
		t.Fatalf("import: %+v", imported)
	}
	if strings.Contains(imported.stdout, refresh) {
		t.Error("import prints a refresh token")
	}
	if again := r.run(t, r.commands[2], nats); again.code != 0 || !strings.HasSuffix(again.stdout, "\n1 unchanged\n") {
		t.Errorf("the second import: %+v", again)
	}
	ask := func(id string) result { return r.run(t, strings.ReplaceAll(r.commands[3], "<id>", id), nats) }
	token := ask(id[1])
	if access, _ := server.Current("alice"); token.code != 0 || token.stderr != "" || token.stdout != access+"\n" || !server.Valid(access) {
		t.Errorf("token: code %d, %q; %d bytes; want the endpoint's newest token and a newline", token.code, token.stderr, len(token.stdout))
	}

	// A login of which the endpoint knows nothing, and whose token has ended.
	writeCodexLogin(t, login, "mallory", "rt_made_up")
	imported = r.run(t, r.commands[2], nats)
	id = regexp.MustCompile(`\bopenai\.([A-Za-z0-9_-]+)`).FindStringSubmatch(imported.stdout)
	if imported.code != 0 || id == nil {
		t.Fatalf("import of the made-up login: %+v", imported)
	}
	for range 2 { // by an exchange, then by what is known
		dead := ask(id[1])
		if dead.stdout != "" {
			t.Errorf("an ended token is printed: %d bytes", len(dead.stdout))
		}
		fails(t, dead, "tokenctl: openai."+id[1]+": reauth_required: a person must log in again (")
	}
	if list := r.run(t, "go run ./cmd/tokenctl accounts list", nats); list.code != 0 || !strings.Contains(list.stdout, "reauth_required") || strings.Count(list.stdout, "\n") != 3 {
		t.Errorf("list: %+v", list)
	}
	if s := server.Stats(); s.Requests != 2 || s.Reused != 0 {
		t.Errorf("the endpoint saw %+v, want one request for each login", s)
	}
	worker.stop(t)
}

// writeCodexLogin writes a login file of Codex with an access token that has
// ended.
func writeCodexLogin(t *testing.T, path, user, refreshToken string) {
	t.Helper()
	claims := func(claims map[string]any) string {
		data, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString(data) + ".c2ln"
	}
	who := map[string]any{"chatgpt_user_id": "user-" + user, "chatgpt_account_id": "ws-1"}
	file := map[string]any{"auth_mode": "chatgpt", "OPENAI_API_KEY": nil, "tokens": map[string]string{
		"id_token":      claims(map[string]any{"email": user + "@example.com", "https://api.openai.com/auth": who}),
		"access_token":  claims(map[string]any{"exp": time.Now().Add(-time.Hour).Unix(), "https://api.openai.com/auth": who}),
		"refresh_token": refreshToken, "account_id": "ws-1",
	}}
	data, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The README's table of flags names flags that there are, with their defaults.
func TestREADMEFlags(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `(--[a-z-]+)` \\| (.*?) \\|").FindAllStringSubmatch(string(text), -1)
	if len(rows) < 5 {
		t.Fatalf("found %d flags in the README", len(rows))
	}
	help := run(t, program(t, "worker"), "--help").stdout
	for _, row := range rows {
		_, entry, ok := strings.Cut(help, row[1]+" ")
		if !ok {
			t.Errorf("worker --help has no %s", row[1])
			continue
		}
		entry, _, _ = strings.Cut(entry, "\n  --")
		entry = strings.Join(strings.Fields(entry), " ") // its lines are broken anywhere
		if value, quoted := strings.CutPrefix(row[2], "`"); quoted && !strings.Contains(entry, fmt.Sprintf("default: %s)", strings.TrimSuffix(value, "`"))) {
			t.Errorf("the README has %s as the default of %s, and worker --help says\n%s", row[2], row[1], entry)
		}
	}
}
