package snippets_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// patience is how long a test waits for something that takes a second where
// nothing else runs.
const patience = 90 * time.Second

var top = filepath.Join("..", "..")

// snippet is a client in another language.
type snippet struct {
	file, fence string   // its block in docs/protocol.md
	driver      []string // the command that runs its driver, without arguments
}

var snippets = map[string]snippet{
	"Python":     {"tokenbus.py", "python", []string{"python3", "-B", "driver.py"}},
	"JavaScript": {"tokenbus.mjs", "js", []string{"node", "driver.mjs"}},
}

// The page shows the files that these tests run.
func TestPageShowsTheFiles(t *testing.T) {
	page := read(t, top, "docs", "protocol.md")
	for language, s := range snippets {
		if block := "\n```" + s.fence + "\n" + read(t, top, "docs", "snippets", s.file) + "```\n"; !strings.Contains(page, block) {
			t.Errorf("%s: docs/protocol.md does not show docs/snippets/%s as it is", language, s.file)
		}
	}
}

func TestSnippets(t *testing.T) {
	for language, s := range snippets {
		t.Run(language, func(t *testing.T) {
			f := startFleet(t)
			c := f.connect(t, s)

			access, refresh := f.endpoint.NewGrant("alice")
			f.put(t, "alice", access, refresh)
			if got := c.do(t, command{Key: "test.alice"}); got.Version != 1 || got.Token != access {
				t.Fatalf("look-up: version %d, code %q, the right token: %t", got.Version, got.Code, got.Token == access)
			}

			t.Run("bump", func(t *testing.T) {
				f.admin(t, events.VerbRefresh, events.KeyRequest{Platform: "test", ID: "alice"})
				access, _ := f.endpoint.Current("alice")
				c.await(t, "test.alice", answer{Version: 2, Token: access})
			})
			t.Run("cut off", func(t *testing.T) {
				f.link.Cut()
				f.admin(t, events.VerbRefresh, events.KeyRequest{Platform: "test", ID: "alice"})
				if got := c.do(t, command{Key: "test.alice"}); got.Version != 2 {
					t.Errorf("cut off, the client does not serve what it holds: version %d, code %q", got.Version, got.Code)
				}
				f.link.Restore()
				access, _ := f.endpoint.Current("alice")
				c.await(t, "test.alice", answer{Version: 3, Token: access})
			})
			// Look-ups between those were answered from what the client held.
			if got := slices.Compact(f.asked(t, "alice")); !slices.Equal(got, []account.Version{0, 1, 2}) {
				t.Errorf("the client asked for min_version %v", got)
			}
			t.Run("401", func(t *testing.T) {
				_, refresh := f.endpoint.NewGrant("bob")
				f.put(t, "bob", "of another time", refresh)
				if got := c.do(t, command{Key: "test.bob"}); got.Version != 1 {
					t.Fatalf("look-up: %+v", got)
				}
				if got := c.do(t, command{Key: "test.bob", URL: f.web.URL + "/userinfo"}); got.Status != 200 {
					t.Errorf("the API's answer to the second token: %+v", got)
				}
				if got := c.do(t, command{Key: "test.bob"}); got.Version != 2 || !f.endpoint.Valid(got.Token) {
					t.Errorf("after the 401: version %d, code %q", got.Version, got.Code)
				}
				// Version 1 is replaced already: no exchange for it.
				if got := c.do(t, command{Key: "test.bob", Rejected: 1}); got.Version != 2 {
					t.Errorf("after a late 401: version %d, code %q", got.Version, got.Code)
				}
			})
			t.Run("errors", func(t *testing.T) {
				if got := c.do(t, command{Key: "test.nobody"}); got.Code != string(events.CodeNotFound) || !strings.Contains(got.Text, "test.nobody") {
					t.Errorf("an unknown account: %+v", got)
				}
				// Newer than any: the store has less.
				if got := c.do(t, command{Key: "test.alice", Rejected: 99}); got.Code != string(events.CodeUnavailable) || got.RetryAfter == "" {
					t.Errorf("a version that is none: %+v", got)
				}
			})
			if s := f.endpoint.Stats(); s.Exchanges != 3 || s.Reused != 0 {
				t.Errorf("the endpoint saw %+v, want two forced exchanges and one for the 401", s)
			}
			c.close(t)
		})
	}
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
