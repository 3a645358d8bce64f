//go:build unix

// Package examples_test runs each example as its package comment says, against
// the demo.
package examples_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/internal/rig"
)

// patience is how long a test waits for something that takes seconds where
// nothing else runs.
const patience = 2 * time.Minute

// goFunction stands for the go command in a folder without the sources: it
// becomes the program that was built from the package. The gateway must not
// take a port that somebody else has.
const goFunction = `go() {
	case "$1 $2" in
	"run ./examples/reverseproxy") shift 2 && exec "$PROGRAMS/reverseproxy" "$@" --listen 127.0.0.1:0 ;;
	"run ./examples/tokensource" | "run ./cmd/worker") name=${2##*/} && shift 2 && exec "$PROGRAMS/$name" "$@" ;;
	esac
	echo "the test knows no: go $*" >&2
	exit 97
}
`

var programs string // the folder with them

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tokenbus-examples-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs = dir
	args := append([]string{"build", "-o", dir + string(filepath.Separator)}, buildFlags...)
	out, err := exec.Command("go", append(args, "./reverseproxy", "./tokensource", "../cmd/worker")...).CombinedOutput()
	code := 1
	if err != nil {
		fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
	} else if code = m.Run(); code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// reader is somebody who follows an example's package comment.
type reader struct {
	dir      string
	commands []string
	web      *http.Client
}

// read returns the commands of an example's package comment, of which the first
// starts the demo, and waits until that runs.
func read(t *testing.T, example string) *reader {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(example, "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	comment, _, _ := strings.Cut(string(text), "\npackage ")
	r := &reader{dir: t.TempDir(), web: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}}
	for _, m := range regexp.MustCompile(`(?m)^//\t(.*)$`).FindAllStringSubmatch(comment, -1) {
		r.commands = append(r.commands, m[1])
	}
	if len(r.commands) < 2 || !strings.HasPrefix(r.commands[0], "go run ./cmd/worker demo ") || !strings.Contains(r.commands[1], "go run ./examples/"+example+" ") {
		t.Fatalf("the comment of %s has the commands %q", example, r.commands)
	}
	var story bytes.Buffer
	demo := r.shell(t, r.commands[0])
	demo.Stdout = &story
	p := rig.StartProgram(t, demo)
	t.Cleanup(func() {
		if code := end(t, p, demo); code != 0 || !regexp.MustCompile(`\ndemo: lookups=[1-9]\d* failed=0 .* reused=0 .*\n$`).MatchString(story.String()) {
			t.Errorf("the demo ends with code %d:\n%s\n%s", code, p.Text(), &story)
		}
	})
	eventually(t, func() error {
		if !p.Alive() {
			t.Fatalf("the demo ended: %s\n%s", p.Text(), &story)
		}
		_, err := os.Stat(filepath.Join(r.dir, "demo.env"))
		return err
	})
	return r
}

// shell returns a command line as a shell runs it.
func (r *reader) shell(t *testing.T, line string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", goFunction+line)
	cmd.Dir, cmd.Env = r.dir, append(os.Environ(), "PROGRAMS="+programs, "GORACE=atexit_sleep_ms=0")
	return cmd
}

// variable returns what the demo tells other programs.
func (r *reader) variable(t *testing.T, name string) string {
	t.Helper()
	out, err := r.shell(t, ". ./demo.env && printf %s \"$"+name+"\"").Output()
	if err != nil || len(out) == 0 {
		t.Fatalf("%s: %q, %v", name, out, err)
	}
	return string(out)
}

// revoke makes the demo's API refuse the token that alice has now, and returns
// its version.
func (r *reader) revoke(t *testing.T) account.Version {
	t.Helper()
	c, err := client.New(client.Config{URL: r.variable(t, "TOKENBUS_NATS_URL"), NKey: r.variable(t, "TOKENBUS_NATS_NKEY")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	key, err := account.ParseKey("demo.alice")
	if err != nil {
		t.Fatal(err)
	}
	token, err := c.Token(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.web.PostForm(r.variable(t, "TOKENBUS_DEMO_API")+"/revoke", url.Values{"token": {token.AccessToken()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("revoke: %s, %v", resp.Status, err)
	}
	return token.Version
}

// get returns the status and the body.
func (r *reader) get(t *testing.T, url string) string {
	t.Helper()
	resp, err := r.web.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(resp.StatusCode, " ", string(body))
}

// end stops a program as Ctrl-C does and returns its exit code.
func end(t *testing.T, p *rig.Program, cmd *exec.Cmd) int {
	t.Helper()
	if err := p.Signal(syscall.SIGINT); err != nil {
		t.Errorf("stop: %v", err)
	}
	eventually(t, func() error {
		if p.Alive() {
			return fmt.Errorf("%s goes on", cmd)
		}
		return nil
	})
	return cmd.ProcessState.ExitCode()
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	late, again := time.After(patience), time.NewTicker(50*time.Millisecond)
	defer again.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-late:
			t.Fatal(err)
		}
	}
}

const alice = `200 {"sub":"alice"}`

func TestReverseproxy(t *testing.T) {
	r := read(t, "reverseproxy")
	gateway := r.shell(t, r.commands[1])
	p := rig.StartProgram(t, gateway)
	base, _ := p.Await(t, "gateway serves")["url"].(string)
	where := regexp.MustCompile(`^curl http://127\.0\.0\.1:8080(/\S+)$`).FindStringSubmatch(r.commands[2])
	if where == nil {
		t.Fatalf("the third command is %q", r.commands[2])
	}
	if got := strings.TrimSpace(r.get(t, base+where[1])); got != alice {
		t.Errorf("%s: %s", where[1], got)
	}
	if got := strings.TrimSpace(r.get(t, base+"/demo.bob/userinfo")); got != `200 {"sub":"bob"}` {
		t.Errorf("bob: %s", got)
	}
	if got := r.get(t, base+"/demo.nobody/userinfo"); !strings.HasPrefix(got, "404 ") {
		t.Errorf("nobody: %s", got)
	}
	r.revoke(t)
	// A token that came from the endpoint moments ago is not forced out at once.
	eventually(t, func() error {
		if got := strings.TrimSpace(r.get(t, base+where[1])); got != alice {
			return fmt.Errorf("the token was refused, and is not replaced: %s", got)
		}
		return nil
	})
	if got := r.get(t, base+"/healthz"); got != "200 ok\n" {
		t.Errorf("healthz: %s", got)
	}
	metrics := r.get(t, base+"/metrics")
	for _, want := range []string{`gateway_requests_total{code="200"} `, `gateway_api_requests_total{code="200"} `, "tokenbus_client_connected 1\n", "tokenbus_client_question_seconds_count{"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in\n%s", want, metrics)
		}
	}
	if code := end(t, p, gateway); code != 0 {
		t.Errorf("the gateway ends with code %d:\n%s", code, p.Text())
	}
}

func TestTokensource(t *testing.T) {
	r := read(t, "tokensource")
	run := func() string {
		t.Helper()
		cmd := r.shell(t, r.commands[1])
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	const ok = ": 200 OK {\"sub\":\"alice\"}\n"
	if got := run(); got != "oauth2.TokenSource"+ok+"client.Transport"+ok {
		t.Errorf("it prints\n%s", got)
	}
	r.revoke(t)
	eventually(t, func() error {
		if got := run(); !strings.Contains(got, "client.Transport"+ok) {
			return fmt.Errorf("the token was refused, and is not replaced:\n%s", got)
		}
		return nil
	})
}
