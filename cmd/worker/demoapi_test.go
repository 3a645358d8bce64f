package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
)

// storyText is what the demo has told so far.
type storyText struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (s *storyText) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *storyText) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

var exported = regexp.MustCompile(`(?m)^export ([A-Z_]+)='([^']*)'$`)

// Another program takes part in the demo by what --env-file names, and ends a
// token before its time, and moments after it was made, when the workers don't
// replace one at once: the demo's gateway gets over it.
func TestDemoTokenIsRefusedBeforeItsTime(t *testing.T) {
	noLeaks(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	file := filepath.Join(t.TempDir(), "it's.env")
	var out storyText
	ended := make(chan error, 1)
	go func() {
		ended <- runDemo(ctx, demoConfig{TokenTTL: time.Hour, Workers: 1, EnvFile: file}, &out, false, slog.New(slog.DiscardHandler))
	}()
	await := func(what string, there func() bool) {
		t.Helper()
		late, again := time.After(90*time.Second), time.NewTicker(20*time.Millisecond)
		defer again.Stop()
		for !there() {
			select {
			case err := <-ended:
				t.Fatalf("the demo ended without %s: %v\n%s", what, err, &out)
			case <-late:
				t.Fatalf("the demo goes on without %s\n%s", what, &out)
			case <-again.C:
			}
		}
	}
	await("the file", func() bool { _, err := os.Stat(file); return err == nil })
	env := map[string]string{}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range exported.FindAllStringSubmatch(string(text), -1) {
		env[m[1]] = m[2]
	}
	c, err := client.New(client.Config{URL: env["TOKENBUS_NATS_URL"], NKey: env["TOKENBUS_NATS_NKEY"]})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	key, err := account.NewKey(demoPlatform, "alice")
	if err != nil {
		t.Fatal(err)
	}
	await("a refresh", func() bool { return strings.Contains(out.String(), "refreshed demo.alice: version 1 → 2") })
	token, err := c.Token(ctx, key, client.WithMinVersion(2))
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	revoke := func(token string) int {
		t.Helper()
		resp, err := web.PostForm(env["TOKENBUS_DEMO_API"]+"/revoke", url.Values{"token": {token}})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	if s := revoke(""); s != http.StatusBadRequest {
		t.Errorf("no token: status %d", s)
	}
	if s := revoke("of nobody"); s != http.StatusOK || strings.Contains(out.String(), "revokes") {
		t.Errorf("a token of nobody: status %d\n%s", s, &out)
	}
	if s := revoke(token.AccessToken()); s != http.StatusOK {
		t.Errorf("status %d", s)
	}
	await("its gateway having met the refusal", func() bool {
		return strings.Contains(out.String(), "somebody revokes the access tokens of alice") &&
			strings.Contains(out.String(), "userinfo took every token in the end, and refused ")
	})
	stop()
	if err := <-ended; err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the file outlives the demo")
	}
}

// The file of --env-file goes when the demo ends, so it must be nobody else's.
func TestEnvFileIsNobodyElses(t *testing.T) {
	dir := t.TempDir()
	theirs, ours := write(t, "notes", "keep me\n"), write(t, "demo.env", envMark+"of a demo that was killed\n")
	for path, want := range map[string]string{
		dir + "/new":   "",
		ours:           "",
		theirs:         "is there already, and not of a demo; name a file that may go when the demo ends",
		dir:            "is there already, and not of a demo; name a file that may go when the demo ends",
		dir + "/no/it": "its folder is missing; make it, or name a file elsewhere",
	} {
		_, err := readDemoConfig(lookup(map[string]string{"env-file": path}))
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != fmt.Sprintf("--env-file: %q: %s", path, want)) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}
