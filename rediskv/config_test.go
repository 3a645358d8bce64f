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
		{"unknown option", rediskv.Config{URL: "redis://u:hunter2@h?poolsize=5"}, "redis://h: unexpected option: poolsize; those of one server are"},
		{"option with a wrong value", rediskv.Config{URL: "redis://u:hunter2@h?pool_size=many"}, "pool_size"},
		{"repeated calls", rediskv.Config{URL: "redis://h?max_retries=3"}, "max_retries"},
		{"unescaped %", rediskv.Config{URL: "redis://u:%hunter2@h"}, "percent-encoded"},
		{"unescaped /", rediskv.Config{URL: "redis://u:hunter2/hunter2@h"}, "percent-encoded"},
		{"unescaped ?", rediskv.Config{URL: "redis://u:hunter2?hunter2@h"}, "percent-encoded"},
		{"unescaped #", rediskv.Config{URL: "redis://u:hunter2#hunter2@h"}, "percent-encoded"},
		{"no @, with an option", rediskv.Config{URL: "redis://u:hunter2?poolsize=5"}, "malformed"},
		{"fragment", rediskv.Config{URL: "redis://h/0#hunter2"}, "percent-encoded"},
		{"unescaped @ in an option", rediskv.Config{URL: "redis://h?master_name=m&password=x@hunter2"}, "percent-encoded"},
		{"unescaped ; in an option", rediskv.Config{URL: "redis://h?master_name=m&password=x;hunter2"}, "percent-encoded"},
		{"unescaped & in an option", rediskv.Config{URL: "redis://h?master_name=m&password=x&hunter2"}, "must be percent-encoded"},
		{"options that are decided", rediskv.Config{URL: "redis://h?read_timeout=5s"}, "option read_timeout: calls end in time by themselves"},
		{"redirects", rediskv.Config{URL: "redis://h?addr=g:1&max_redirects=5"}, "option max_redirects"},
		{"reads from replicas", rediskv.Config{URL: "redis://h?addr=g:1&read_only=true"}, "option read_only: primaries are asked alone"},
		{"password as an option", rediskv.Config{URL: "redis://h?password=hunter2"}, "option password: it is for Sentinels"},
		{"Cluster", rediskv.Config{URL: "redis://u:p@h:1?addr=g:2&addr=f:3&pool_size=5"}, ""},
		{"Cluster with TLS", rediskv.Config{URL: "rediss://u:p@h:1/0?addr=g:2"}, ""},
		{"Cluster with a database", rediskv.Config{URL: "redis://h:1/2?addr=g:2"}, "database 0 alone"},
		{"Cluster, address without port", rediskv.Config{URL: "redis://h:1?addr=g"}, "addr"},
		{"Cluster that isn't verified", rediskv.Config{URL: "rediss://h:1?addr=g:2&skip_verify=true"}, "unexpected option: skip_verify; those of a Cluster are"},
		{"Sentinels", rediskv.Config{URL: "redis://su:sp@h:1/3?master_name=m&addr=g:2&username=u&password=p%40ss"}, ""},
		{"Sentinels without a name", rediskv.Config{URL: "redis://h:1?master_name="}, "master_name is empty"},
		{"Sentinels, replicas alone", rediskv.Config{URL: "redis://h:1?master_name=m&replica_only=true"}, "option replica_only"},
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

// Whatever is typed for a URL: no panic, and no password in the error, wherever
// it stands and whatever is in it.
func FuzzURL(f *testing.F) {
	for _, seed := range [][3]string{
		{"redis://u:", "", "@h:6379/1?pool_size=2"},
		{"rediss://u:", "@", "@[::1]:6379?x=y"},
		{"redis://u:", "/?#", "@h?addr=g:1"},
		{"redis://h?master_name=m&password=", "%", "&addr=g:2"},
		{"redis://h?password=", "&", "&x=y"},
		{"redis://", ":", ""},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, before, within, after string) {
		const secret = "hunter2"
		c, err := rediskv.Open(t.Context(), rediskv.Config{URL: before + secret + within + secret + after})
		if err == nil {
			_ = c.Close()
			return
		}
		passwordInFront := strings.HasSuffix(before, "://u:") && strings.Contains(after, "@")
		passwordOption := strings.HasSuffix(before, "?master_name=m&password=")
		if (passwordInFront || passwordOption) && strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows the password: %q", err)
		}
	})
}
