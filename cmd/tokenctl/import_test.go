package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/events"
)

// loginsFile writes a file with n logins: acme.a000, acme.a001 and so on.
func loginsFile(t *testing.T, n int) string {
	t.Helper()
	var logins []string
	for i := range n {
		logins = append(logins, fmt.Sprintf(`{"platform":"acme","id":"a%03d","credentials":{"access_token":"SECRET-a%[1]d","refresh_token":"SECRET-r%[1]d"}}`, i))
	}
	return writeFile(t, "["+strings.Join(logins, ",")+"]")
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "logins.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// importing runs accounts import and returns what it says.
func importing(ctx context.Context, a app, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	a.stdout, a.stderr = &out, &err
	code = a.run(ctx, append([]string{"tokenctl", "accounts", "import"}, args...))
	return code, out.String(), err.String()
}

func results(t *testing.T, stdout string) []importResult {
	t.Helper()
	var reply struct{ Results []importResult }
	if err := json.Unmarshal([]byte(stdout), &reply); err != nil {
		t.Fatalf("%v: %.200s", err, stdout)
	}
	return reply.Results
}

// TestImportKeepsOrder: many logins are on their way at once, and are told in
// the order in which they stand in the file.
func TestImportKeepsOrder(t *testing.T) {
	f, args := newFleet(t)
	const n = 200
	var puts atomic.Int64
	others := make(chan struct{})
	f.before = func(verb, id string) error {
		if verb != events.VerbPut {
			return nil
		}
		if id == "a001" {
			select {
			case <-others:
			case <-t.Context().Done():
			}
			return nil
		}
		if puts.Add(1) == n-1 {
			close(others)
		}
		return nil
	}
	code, stdout, stderr := importing(t.Context(), newApp(nil, nil), append(args, loginsFile(t, n))...)
	if code != exitOK || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if lines[len(lines)-1] != fmt.Sprintf("%d created", n) {
		t.Fatalf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
	var keys []string
	for _, l := range lines {
		if key, _, ok := strings.Cut(l, ": created as version 1"); ok {
			keys = append(keys, key)
		}
	}
	for i, key := range keys {
		if want := fmt.Sprintf("  acme.a%03d", i); key != want || len(keys) != n {
			t.Fatalf("%q is told as number %d of %d, want %q", key, i, len(keys), want)
		}
	}
}

// TestImportMeetsAnother: an account that somebody else made after tokenctl had
// looked gets the login all the same.
func TestImportMeetsAnother(t *testing.T) {
	f, args := newFleet(t)
	var puts atomic.Int64
	f.before = func(verb, id string) error {
		if verb != events.VerbPut || puts.Add(1) > 1 {
			return nil
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		_, err := f.put(events.PutRequest{Platform: "acme", ID: id, Type: "oauth", Credentials: []byte(`{"access_token":"SECRET-other"}`)})
		return err
	}
	code, stdout, stderr := importing(t.Context(), newApp(nil, nil), append(args, "--output", "json", loginsFile(t, 1))...)
	if r := results(t, stdout); code != exitOK || len(r) != 1 || r[0].Version != 2 || puts.Load() != 2 {
		t.Errorf("exit code %d, %d puts, %+v, stderr %q", code, puts.Load(), r, stderr)
	}
}

// TestImportAsksBusyWorkersAgain: "too much to do" fails no login.
func TestImportAsksBusyWorkersAgain(t *testing.T) {
	f, args := newFleet(t)
	const n = 20
	var asked sync.Map
	f.before = func(verb, id string) error {
		if _, again := asked.LoadOrStore(verb+id, true); !again {
			return &events.Error{Code: events.CodeUnavailable, Message: "the worker has too much to do, or stops", RetryAfter: time.Millisecond}
		}
		return nil
	}
	code, stdout, stderr := importing(t.Context(), newApp(nil, nil), append(args, loginsFile(t, n))...)
	if code != exitOK || !strings.HasSuffix(stdout, fmt.Sprintf("\n%d created\n", n)) {
		t.Errorf("exit code %d, stderr %q:\n%s", code, stderr, stdout)
	}
	if want := "tokenctl: acme.a000: unavailable: the worker has too much to do, or stops; trying again\n"; stderr != want {
		t.Errorf("said %q, want %q", stderr, want)
	}
}

// TestImportGivesUp: a worker that says that it will be long isn't waited for,
// and the others still go in.
func TestImportGivesUp(t *testing.T) {
	f, args := newFleet(t)
	f.before = func(verb, id string) error {
		if verb == events.VerbPut && id == "a002" {
			return &events.Error{Code: events.CodeUnavailable, Message: "the store is away", RetryAfter: time.Hour}
		}
		return nil
	}
	code, stdout, stderr := importing(t.Context(), newApp(nil, nil), append(args, loginsFile(t, 4))...)
	if code != exitFailed || !strings.HasSuffix(stdout, "\n3 created, 1 failed\n") {
		t.Errorf("exit code %d:\n%s", code, stdout)
	}
	if want := "acme.a002: unavailable: the store is away (try again in 1h)\n"; !strings.HasSuffix(stderr, want) {
		t.Errorf("said %q, want %q", stderr, want)
	}
}

// TestImportIsCut: Ctrl-C in the middle. Of every login it is said whether it
// was done, was not sent, or may have been done: on standard error in a line
// each, but for what was not sent.
func TestImportIsCut(t *testing.T) {
	f, args := newFleet(t)
	const n = 500
	ctx, cut := context.WithCancel(t.Context())
	defer cut()
	over := make(chan struct{}) // what is answered before that may be told as done
	answer := sync.OnceFunc(func() { close(over) })
	defer answer()
	f.before = func(verb, id string) error {
		switch {
		case verb != events.VerbPut, id == "a000":
			return nil
		case id == "a005":
			cut()
		}
		<-over
		return nil
	}
	code, stdout, stderr := importing(ctx, newApp(nil, nil), append(args, "--output", "json", loginsFile(t, n))...)
	if code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	answer()
	all := results(t, stdout)
	if len(all) != n {
		t.Fatalf("%d results", len(all))
	}
	f.rest()
	f.mu.Lock()
	defer f.mu.Unlock()
	stored := map[string]bool{}
	for key := range f.docs {
		stored[key.ID()] = true
	}
	unsent := 0
	for i, r := range all {
		id := fmt.Sprintf("a%03d", i)
		switch {
		case r.ID != id:
			t.Fatalf("result %d is of %s", i, r.ID)
		case strings.HasSuffix(r.Error, ": interrupted; it was not sent"):
			unsent++
			if stored[id] {
				t.Errorf("%s is there, and was told not to have been sent", id)
			}
		case id == "a000" && r.Outcome != created, id == "a005" && !strings.HasSuffix(r.Error, ": interrupted; whether it was done is unknown"):
			t.Errorf("%s: %s, %s", id, r.Outcome, r.Error)
		}
	}
	if unsent < n-1-inFlight {
		t.Errorf("%d were not sent", unsent)
	}
	last := fmt.Sprintf("tokenctl: interrupted: %d of those that failed were not sent; the same command sends them\n", unsent)
	if strings.Count(stderr, "\n") != n-unsent || !strings.HasSuffix(stderr, last) {
		t.Errorf("said in %d lines, with %d done or under way: %s", strings.Count(stderr, "\n"), n-unsent, stderr)
	}
}

// TestImportOfOneKeyTwice: the first login of a key goes in, whatever is on its
// way beside it, and the others are told where they stand.
func TestImportOfOneKeyTwice(t *testing.T) {
	f, args := newFleet(t)
	other := make(chan struct{})
	var puts atomic.Int64
	f.before = func(verb, id string) error {
		switch {
		case verb == events.VerbPut && id == "two":
			puts.Add(1)
			select {
			case <-other:
			case <-t.Context().Done():
			}
		case verb == events.VerbPut && id == "three":
			close(other)
		}
		return nil
	}
	login := func(id, token string) string {
		return fmt.Sprintf(`{"platform":"acme","id":%q,"credentials":{"access_token":%q}}`, id, "SECRET-"+token)
	}
	path := writeFile(t, "["+strings.Join([]string{login("one", "1"), login("two", "2"), login("two", "2"), login("two", "22"), login("three", "3")}, ",")+"]")
	code, stdout, _ := importing(t.Context(), newApp(nil, nil), append(args, "--output", "json", path)...)
	var got []string
	for _, r := range results(t, stdout) {
		got = append(got, r.ID+" "+string(r.Outcome))
	}
	if want := []string{"one created", "two created", "two skipped", "two failed", "three created"}; code != exitFailed || !slices.Equal(got, want) {
		t.Errorf("exit code %d, got %q, want %q", code, got, want)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, d := range f.docs {
		if key.ID() == "two" && (d.Version != 1 || d.credentials.AccessToken.Reveal() != "SECRET-2" || puts.Load() != 1) {
			t.Errorf("version %d after %d puts", d.Version, puts.Load())
		}
	}
}

// TestImportOfWhatIsNoJSON: a file in a folder that is no JSON may be a login
// that was torn, and fails. Other JSON is skipped, with a mark in front as some
// editors write it; what has another name is not looked at.
func TestImportOfWhatIsNoJSON(t *testing.T) {
	const login = `{"platform":"acme","id":"a","credentials":{"access_token":"SECRET-a"}}`
	var utf16 []byte
	for _, c := range "\ufeff" + login {
		utf16 = append(utf16, byte(c), byte(c>>8))
	}
	dir := t.TempDir()
	want := map[string]outcome{}
	for _, f := range []struct {
		name, text string
		outcome    outcome
	}{
		{"whole.json", login, found}, {"torn.json", login[:40], failed}, {"torn-array.JSON", "[" + login, failed}, {"empty.json", "", failed},
		{"blank.json", " \n", failed}, {"utf16.json", string(utf16), failed}, {"package.json", `{"name":"x"}`, skipped},
		{"marked.json", "\ufeff" + `{"name":"x"}`, skipped}, {"list.json", "[1]", skipped}, {"text.json", `"x"`, skipped}, {"torn.txt", login[:40], ""},
	} {
		path := filepath.Join(dir, f.name)
		if err := os.WriteFile(path, []byte(f.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if f.outcome != "" {
			want[path] = f.outcome
		}
	}
	code, stdout, stderr := importing(t.Context(), newApp(nil, nil), "--dry-run", "--output", "json", dir)
	got := map[string]outcome{}
	for _, r := range results(t, stdout) {
		got[r.File] = r.Outcome
	}
	if !maps.Equal(got, want) || code != exitFailed {
		t.Errorf("exit code %d, got %v, want %v", code, got, want)
	}
	if strings.Count(stderr, ": not a login file that tokenbus knows: ") != 5 || strings.Contains(stderr, "SECRET") {
		t.Errorf("said %s", stderr)
	}
}

// TestImportProgress: people who wait see a bar, and programs don't.
func TestImportProgress(t *testing.T) {
	_, args := newFleet(t)
	file := loginsFile(t, 40)
	plain := func(s string) string { return strings.ReplaceAll(s, "unchanged", "created as version 1") }
	_, want, _ := importing(t.Context(), newApp(nil, nil), append(args, file)...)
	for _, tt := range []struct {
		name           string
		stderr, stdout bool // are terminals
		file           string
		more           []string
		bar, sameText  bool
	}{
		{"terminal", true, true, file, nil, true, true},
		{"text into a file", true, false, file, nil, true, true},
		{"no terminal", false, true, file, nil, false, true},
		{"few", true, true, loginsFile(t, fewItems), nil, false, false},
		{"JSON for a program", true, false, file, []string{"--output", "json"}, false, false},
		{"JSON on a terminal", true, true, file, []string{"--output", "json"}, true, false},
		{"nothing is sent", true, true, file, []string{"--dry-run"}, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newApp(nil, nil)
			a.stderrTerminal, a.stdoutTerminal = tt.stderr, tt.stdout
			code, stdout, stderr := importing(t.Context(), a, slices.Concat(args, []string{tt.file}, tt.more)...)
			if code != exitOK {
				t.Fatalf("exit code %d, %s", code, stderr)
			}
			if bar := strings.Contains(stderr, "importing"); bar != tt.bar || !bar && stderr != "" {
				t.Errorf("bar: %t, in %q", bar, stderr)
			}
			if strings.Contains(stderr, "SECRET") || strings.Contains(stdout, "importing") {
				t.Errorf("stdout %s\nstderr %q", stdout, stderr)
			}
			if tt.bar && !strings.HasSuffix(stderr, "\r") {
				t.Errorf("the bar stays: %q", stderr)
			}
			_, lines, _ := strings.Cut(plain(stdout), "\n")
			if _, first, _ := strings.Cut(want, "\n"); tt.sameText && strings.TrimSuffix(lines, "40 created as version 1\n") != strings.TrimSuffix(first, "40 created\n") {
				t.Errorf("got  %s\nwant %s", lines, first)
			}
		})
	}
}
