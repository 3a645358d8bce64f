package rediskv_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/rediskv"
)

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  rediskv.Config
		want string // in the error; "": none
	}{
		{"simple", rediskv.Config{URL: "redis://127.0.0.1:6379"}, ""},
		{"everything", rediskv.Config{URL: "rediss://u:p%40ss@h:6380/3?pool_size=5&client_name=x", Prefix: "a:b", LeaseTTL: time.Second, Timeout: time.Second}, ""},
		{"IPv6", rediskv.Config{URL: "redis://[::1]:6379/0"}, ""},
		{"empty", rediskv.Config{}, "want redis://host:port"},
		{"other scheme", rediskv.Config{URL: "http://u:hunter2@h"}, "want redis://host:port"},
		{"no host", rediskv.Config{URL: "redis://"}, "names no host"},
		{"no host, but a database", rediskv.Config{URL: "redis:///1"}, "names no host"},
		{"database that is no number", rediskv.Config{URL: "redis://u:hunter2@h/db"}, "database number"},
		{"bad port", rediskv.Config{URL: "redis://u:hunter2@h:port"}, "invalid port"},
		{"bad port, no user", rediskv.Config{URL: "redis://u:hunter2"}, "malformed"},
		{"unknown option", rediskv.Config{URL: "redis://u:hunter2@h?poolsize=5"}, "unexpected option: poolsize"},
		{"option with a wrong value", rediskv.Config{URL: "redis://u:hunter2@h?pool_size=many"}, "pool_size"},
		{"repeated calls", rediskv.Config{URL: "redis://h?max_retries=3"}, "max_retries"},
		{"unescaped %", rediskv.Config{URL: "redis://u:%hunter2@h"}, "percent-encoded"},
		{"unescaped /", rediskv.Config{URL: "redis://u:hunter2/hunter2@h"}, "percent-encoded"},
		{"unescaped ?", rediskv.Config{URL: "redis://u:hunter2?hunter2@h"}, "percent-encoded"},
		{"bad prefix", rediskv.Config{URL: "redis://h", Prefix: "a{b}"}, "prefix"},
		{"short lease", rediskv.Config{URL: "redis://h", LeaseTTL: time.Millisecond}, "lease TTL"},
		{"negative timeout", rediskv.Config{URL: "redis://h", Timeout: -1}, "timeout"},
		{"all problems at once", rediskv.Config{URL: "x", Prefix: "{", LeaseTTL: 1, Timeout: -1}, "URL: want redis://host:port or rediss://host:port\nprefix"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, err := rediskv.Open(t.Context(), c.cfg)
			if err == nil {
				_ = client.Close()
				if c.want != "" {
					t.Errorf("no error, want %q", c.want)
				}
				return
			}
			if c.want == "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %q, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the password: %q", err)
			}
		})
	}
}

// Whatever is typed for a URL: no panic, and no password in the error.
func FuzzURL(f *testing.F) {
	f.Add("redis://u:hunter2@h:6379/1?pool_size=2")
	f.Add("rediss://u:hunter2@[::1]:6379?x=y")
	f.Fuzz(func(t *testing.T, url string) {
		c, err := rediskv.Open(t.Context(), rediskv.Config{URL: url})
		if err == nil {
			_ = c.Close()
			return
		}
		if user, _, ok := strings.Cut(url, "@"); ok && strings.Contains(user, "hunter2") && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows the password: %q", err)
		}
	})
}
