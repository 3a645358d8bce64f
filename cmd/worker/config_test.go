package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// lookup returns the lookupFunc of a map.
func lookup(m map[string]string) lookupFunc {
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfigDefaults(t *testing.T) {
	got, err := readConfig(lookup(nil), lookup(nil))
	if err != nil {
		t.Fatal(err)
	}
	want := config{
		NATSURL: "embedded", NATSListen: "127.0.0.1:4222", NATSAuth: "nkey", SubjectPrefix: "tokenbus",
		StoreURL: "nats", CacheURL: "nats", DataDir: "./data", L1MaxAccounts: 200_000,
		RefreshSkew: 3 * time.Minute, CacheSkew: 5 * time.Minute, MinTTL: 30 * time.Second, LeaseTTL: 30 * time.Second,
		L1MaxAge: 30 * time.Second, RefreshAhead: refreshAhead{Auto: true},
		HTTPAddr: "127.0.0.1:9464", PprofAddr: "none", LogLevel: slog.LevelInfo, LogFormat: "auto",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("readConfig() = %+v\nwant %+v", got, want)
	}
	if got := got.keysetPath(); got != "data/keyset.json" {
		t.Errorf("keysetPath() = %q, want data/keyset.json", got)
	}
}

// TestConfigValues gives every option a value that is not its default, once as
// a flag and once in the environment, and checks where it arrives.
func TestConfigValues(t *testing.T) {
	file := write(t, "file", "x")
	const joining, here = "nats://127.0.0.1:4222", embedded
	covered := map[string]bool{}
	for _, c := range []struct {
		name, value, url string
		get              func(config) any
		want             any
	}{
		{"nats-url", "nats://a:4222,tls://b:4222", "", func(c config) any { return c.NATSURL }, "nats://a:4222,tls://b:4222"},
		{"nats-listen", "none", here, func(c config) any { return c.NATSListen }, "none"},
		{"nats-auth", "none", here, func(c config) any { return c.NATSAuth }, "none"},
		{"nats-creds", file, joining, func(c config) any { return c.NATSCreds }, file},
		{"nats-nkey", file, joining, func(c config) any { return c.NATSNKey }, file},
		{"nats-ca", file, joining, func(c config) any { return c.NATSCA }, file},
		{"nats-cert", file, joining, func(c config) any { return c.NATSCert }, file},
		{"nats-key", file, joining, func(c config) any { return c.NATSKey }, file},
		{"nats-replicas", "3", joining, func(c config) any { return c.NATSReplicas }, 3},
		{"nats-placement-tags", "region:eu, ssd", joining, func(c config) any { return strings.Join(c.NATSTags, "|") }, "region:eu|ssd"},
		{"subject-prefix", "my.bus", here, func(c config) any { return c.SubjectPrefix }, "my.bus"},
		{"store-url", "mongodb://u:p@a:1,b:2/db?w=1", here, func(c config) any { return c.StoreURL }, "mongodb://u:p@a:1,b:2/db?w=1"},
		{"cache-url", "rediss://:p@h:6379/2", here, func(c config) any { return c.CacheURL }, "rediss://:p@h:6379/2"},
		{"l1-max-accounts", "1", here, func(c config) any { return c.L1MaxAccounts }, 1},
		{"data-dir", "/somewhere", here, func(c config) any { return c.DataDir }, "/somewhere"},
		{"keyset", file, here, func(c config) any { return c.keysetPath() }, file},
		{"keyset", "/not/there/yet", here, func(c config) any { return c.keysetPath() }, "/not/there/yet"},
		{"providers", file, here, func(c config) any { return c.Providers }, file},
		{"refresh-skew", "1m", here, func(c config) any { return c.RefreshSkew }, time.Minute},
		{"cache-skew", "2m", here, func(c config) any { return c.CacheSkew }, 2 * time.Minute},
		{"min-ttl", "5s", here, func(c config) any { return c.MinTTL }, 5 * time.Second},
		{"lease-ttl", "10m", here, func(c config) any { return c.LeaseTTL }, 10 * time.Minute},
		{"l1-max-age", "500ms", here, func(c config) any { return c.L1MaxAge }, 500 * time.Millisecond},
		{"refresh-ahead", "off", here, func(c config) any { return c.RefreshAhead }, refreshAhead{Off: true}},
		{"refresh-ahead", "10m", here, func(c config) any { return c.RefreshAhead }, refreshAhead{Before: 10 * time.Minute}},
		{"http-addr", "[::1]:0", here, func(c config) any { return c.HTTPAddr }, "[::1]:0"},
		{"pprof-addr", "127.0.0.1:6060", here, func(c config) any { return c.PprofAddr }, "127.0.0.1:6060"},
		{"pprof-addr", "[::1]:0", here, func(c config) any { return c.PprofAddr }, "[::1]:0"},
		{"pprof-addr", "localhost:6060", here, func(c config) any { return c.PprofAddr }, "localhost:6060"},
		{"log-level", "debug", here, func(c config) any { return c.LogLevel }, slog.LevelDebug},
		{"log-format", "json", here, func(c config) any { return c.LogFormat }, "json"},
		{"worker-id", "w-1.eu_x", here, func(c config) any { return c.WorkerID }, "w-1.eu_x"},
	} {
		covered[c.name] = true
		t.Run(c.name+"="+filepath.Base(c.value), func(t *testing.T) {
			flags, env := map[string]string{}, map[string]string{}
			set := func(name, value string) {
				flags[name], env[option{name: name}.env()] = value, value
			}
			set("nats-url", c.url)
			if c.url == "" {
				delete(flags, "nats-url")
			}
			if c.url != here {
				set("keyset", file)
			}
			if c.name == "nats-cert" || c.name == "nats-key" {
				set("nats-cert", file)
				set("nats-key", file)
			}
			set(c.name, c.value)
			for source, read := range map[string]func() (config, error){
				"flags":       func() (config, error) { return readConfig(lookup(flags), lookup(nil)) },
				"environment": func() (config, error) { return readConfig(lookup(nil), lookup(env)) },
			} {
				got, err := read()
				if err != nil {
					t.Errorf("from %s: %v", source, err)
				} else if v := c.get(got); v != c.want {
					t.Errorf("from %s: got %v, want %v", source, v, c.want)
				}
			}
		})
	}
	for _, o := range runOptions() {
		if !covered[o.name] {
			t.Errorf("--%s has no line in this table", o.name)
		}
	}
}

func TestConfigCommandLineWins(t *testing.T) {
	got, err := readConfig(lookup(map[string]string{"min-ttl": "1m"}), lookup(map[string]string{"TOKENBUS_MIN_TTL": "nonsense"}))
	if err != nil || got.MinTTL != time.Minute {
		t.Errorf("min-ttl = %v, %v; want the flag's 1m", got.MinTTL, err)
	}
}

func TestConfigEmptyVariableIsNone(t *testing.T) {
	got, err := readConfig(lookup(nil), lookup(map[string]string{"TOKENBUS_STORE_URL": "", "TOKENBUS_MIN_TTL": ""}))
	if err != nil || got.StoreURL != "nats" || got.MinTTL != 30*time.Second {
		t.Errorf("got %q, %v, %v; want the defaults", got.StoreURL, got.MinTTL, err)
	}
}

// A URL that comes from the environment, where a demo's file may have put it, is
// named where it is what makes a worker join a fleet.
func TestConfigTellsWhereTheURLIsFrom(t *testing.T) {
	file := write(t, "file", "x")
	from := lookup(map[string]string{"TOKENBUS_NATS_URL": "nats://u:hunter2@a:1,nats://hunter2@b:2?hunter2=1"})
	const told = " (--nats-url is nats://[redacted]@b:2?[redacted], from TOKENBUS_NATS_URL)"
	for _, c := range []struct {
		name       string
		flags      map[string]string
		env        lookupFunc
		text, more string
	}{
		{"keyset", nil, from, "is missing; a worker that joins a fleet", told},
		{"listen", map[string]string{"keyset": file, "nats-listen": "h:1"}, from, "--nats-url names another; leave one of the two out", told},
		{"command line", map[string]string{"nats-url": "nats://a:1"}, from, "is missing; a worker that joins a fleet", "keyset.json)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := readConfig(lookup(c.flags), c.env)
			if err == nil || !strings.Contains(err.Error(), c.text) || !strings.HasSuffix(err.Error(), c.more) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v", err)
			}
			if c.more != told && strings.Contains(err.Error(), "from TOKENBUS_NATS_URL") {
				t.Errorf("the URL is not from the environment: %v", err)
			}
		})
	}
}

func beyondLoopback(addr string) []string {
	return []string{`--pprof-addr (TOKENBUS_PPROF_ADDR): "` + addr + `": want 127.0.0.1:port, [::1]:port, localhost:port or none; what it serves must not leave this machine`}
}

func TestConfigProblems(t *testing.T) {
	dir := t.TempDir()
	file := write(t, "file", "x")
	const joining = "nats://127.0.0.1:4222"
	for _, c := range []struct {
		name  string
		flags map[string]string
		want  []string // the lines of the error
	}{
		{"nats-url scheme", map[string]string{"nats-url": "http://u:hunter2@h:1", "keyset": file},
			[]string{`--nats-url (TOKENBUS_NATS_URL): "http://[redacted]@h:1": want embedded, or nats://host:port, several separated by commas`}},
		{"nats-url second is wrong", map[string]string{"nats-url": "nats://a:1,b:2", "keyset": file},
			[]string{`--nats-url (TOKENBUS_NATS_URL): "nats://a:1,b:2": want embedded, or nats://host:port, several separated by commas`}},
		{"nats-url port", map[string]string{"nats-url": "nats://h:99999999", "keyset": file},
			[]string{`--nats-url (TOKENBUS_NATS_URL): "nats://h:99999999": want embedded, or nats://host:port, several separated by commas`}},
		{"nats-listen", map[string]string{"nats-listen": "4222"},
			[]string{`--nats-listen (TOKENBUS_NATS_LISTEN): "4222": want host:port, or none`}},
		{"nats-listen port", map[string]string{"nats-listen": "h:99999"},
			[]string{`--nats-listen (TOKENBUS_NATS_LISTEN): "h:99999": the port must be a number up to 65535`}},
		{"nats-auth", map[string]string{"nats-auth": "jwt"},
			[]string{`--nats-auth (TOKENBUS_NATS_AUTH): "jwt": want nkey or none`}},
		{"nats-auth elsewhere", map[string]string{"nats-auth": "none", "nats-url": joining, "keyset": file},
			[]string{`--nats-auth (TOKENBUS_NATS_AUTH): is for the embedded server alone, and --nats-url names another; leave one of the two out`}},
		{"nats-listen elsewhere", map[string]string{"nats-listen": "h:1", "nats-url": joining, "keyset": file},
			[]string{`--nats-listen (TOKENBUS_NATS_LISTEN): is for the embedded server alone, and --nats-url names another; leave one of the two out`}},
		{"credentials of the embedded server", map[string]string{"nats-nkey": file},
			[]string{`--nats-nkey (TOKENBUS_NATS_NKEY): is for a server at --nats-url, and --nats-url is embedded; leave one of the two out`}},
		{"nats-creds missing file", map[string]string{"nats-url": joining, "keyset": file, "nats-creds": dir + "/no"},
			[]string{`--nats-creds (TOKENBUS_NATS_CREDS): "` + dir + `/no": there is no such file`}},
		{"nats-ca is a folder", map[string]string{"nats-url": joining, "keyset": file, "nats-ca": dir},
			[]string{`--nats-ca (TOKENBUS_NATS_CA): "` + dir + `": is a folder; want a file`}},
		{"two credentials", map[string]string{"nats-url": joining, "keyset": file, "nats-creds": file, "nats-nkey": file},
			[]string{`--nats-nkey (TOKENBUS_NATS_NKEY): excludes --nats-creds; give one of the two`}},
		{"cert without key", map[string]string{"nats-url": joining, "keyset": file, "nats-cert": file},
			[]string{`--nats-key (TOKENBUS_NATS_KEY): is missing; --nats-cert needs it`}},
		{"key without cert", map[string]string{"nats-url": joining, "keyset": file, "nats-key": file},
			[]string{`--nats-cert (TOKENBUS_NATS_CERT): is missing; --nats-key needs it`}},
		{"empty file name", map[string]string{"providers": ""},
			[]string{`--providers (TOKENBUS_PROVIDERS): is empty; name a file, or leave it out`}},
		{"nats-replicas", map[string]string{"nats-replicas": "many"}, []string{`--nats-replicas (TOKENBUS_NATS_REPLICAS): "many": want auto, or 1 to 5`}},
		{"nats-placement-tags", map[string]string{"nats-placement-tags": "a,,b"},
			[]string{`--nats-placement-tags (TOKENBUS_NATS_PLACEMENT_TAGS): "a,,b": want tags separated by commas, such as region:eu,ssd`}},
		{"subject-prefix", map[string]string{"subject-prefix": "a..b"},
			[]string{`--subject-prefix (TOKENBUS_SUBJECT_PREFIX): "a..b": want parts of A-Z, a-z, 0-9, _ and -, joined by dots`}},
		{"store-url scheme", map[string]string{"store-url": "postgres://u:hunter2@h/db"},
			[]string{`--store-url (TOKENBUS_STORE_URL): "postgres://[redacted]@h/db": want nats, or mongodb://host:port/database`}},
		{"store-url database", map[string]string{"store-url": "mongodb://u:hunter2@h1:1,h2:2/?tlsCertificateKeyFilePassword=hunter2"},
			[]string{`--store-url (TOKENBUS_STORE_URL): "mongodb://[redacted]@h1:1,h2:2/?[redacted]": names no database; want mongodb://host:port/database`}},
		{"store-url host", map[string]string{"store-url": "mongodb+srv:///db"},
			[]string{`--store-url (TOKENBUS_STORE_URL): "mongodb+srv:///db": names no host; want mongodb://host:port/database`}},
		{"store-url at sign in the path", map[string]string{"store-url": "mongodb://h"},
			[]string{`--store-url (TOKENBUS_STORE_URL): "mongodb://h": names no database; want mongodb://host:port/database`}},
		{"cache-url", map[string]string{"cache-url": "memcached://h:1"},
			[]string{`--cache-url (TOKENBUS_CACHE_URL): "memcached://h:1": want nats, redis://host:port/0 or rediss://host:port/0`}},
		{"cache-url that does not parse", map[string]string{"cache-url": "redis://:hunter2%zz@h:1"},
			[]string{`--cache-url (TOKENBUS_CACHE_URL): "redis://[redacted]@h:1": want nats, redis://host:port/0 or rediss://host:port/0`}},
		{"l1-max-accounts zero", map[string]string{"l1-max-accounts": "0"},
			[]string{`--l1-max-accounts (TOKENBUS_L1_MAX_ACCOUNTS): "0": want a whole number, 1 or more`}},
		{"l1-max-accounts", map[string]string{"l1-max-accounts": "1e6"},
			[]string{`--l1-max-accounts (TOKENBUS_L1_MAX_ACCOUNTS): "1e6": want a whole number, 1 or more`}},
		{"data-dir", map[string]string{"data-dir": ""}, []string{`--data-dir (TOKENBUS_DATA_DIR): is empty; name a folder`}},
		{"keyset missing", map[string]string{"nats-url": joining},
			[]string{`--keyset (TOKENBUS_KEYSET): is missing; a worker that joins a fleet needs a copy of the fleet's keyset (the first worker made it as <data-dir>/keyset.json)`}},
		{"keyset not there", map[string]string{"nats-url": joining, "keyset": dir + "/no"},
			[]string{`--keyset (TOKENBUS_KEYSET): "` + dir + `/no": there is no such file`}},
		{"providers", map[string]string{"providers": dir + "/no.yaml"},
			[]string{`--providers (TOKENBUS_PROVIDERS): "` + dir + `/no.yaml": there is no such file`}},
		{"refresh-skew", map[string]string{"refresh-skew": "180"},
			[]string{`--refresh-skew (TOKENBUS_REFRESH_SKEW): "180": want a time such as 3m`}},
		{"refresh-skew negative", map[string]string{"refresh-skew": "-1s"},
			[]string{`--refresh-skew (TOKENBUS_REFRESH_SKEW): "-1s": must be at least 1s`}},
		{"cache-skew", map[string]string{"cache-skew": "0"},
			[]string{`--cache-skew (TOKENBUS_CACHE_SKEW): "0": must be at least 1s`}},
		{"min-ttl", map[string]string{"min-ttl": "x"},
			[]string{`--min-ttl (TOKENBUS_MIN_TTL): "x": want a time such as 30s`}},
		{"lease-ttl low", map[string]string{"lease-ttl": "999ms"},
			[]string{`--lease-ttl (TOKENBUS_LEASE_TTL): "999ms": must be between 1s and 10m`}},
		{"lease-ttl high", map[string]string{"lease-ttl": "11m"},
			[]string{`--lease-ttl (TOKENBUS_LEASE_TTL): "11m": must be between 1s and 10m`}},
		{"l1-max-age", map[string]string{"l1-max-age": "0s"},
			[]string{`--l1-max-age (TOKENBUS_L1_MAX_AGE): "0s": must be at least 1ms`}},
		{"refresh-ahead", map[string]string{"refresh-ahead": "yes"},
			[]string{`--refresh-ahead (TOKENBUS_REFRESH_AHEAD): "yes": want auto, off, or a time such as 10m`}},
		{"refresh-ahead negative", map[string]string{"refresh-ahead": "-10m"},
			[]string{`--refresh-ahead (TOKENBUS_REFRESH_AHEAD): "-10m": want auto, off, or a time such as 10m`}},
		{"http-addr", map[string]string{"http-addr": "localhost"},
			[]string{`--http-addr (TOKENBUS_HTTP_ADDR): "localhost": want host:port, or none`}},
		{"pprof-addr everywhere", map[string]string{"pprof-addr": ":6060"}, beyondLoopback(":6060")},
		{"pprof-addr of all", map[string]string{"pprof-addr": "0.0.0.0:6060"}, beyondLoopback("0.0.0.0:6060")},
		{"pprof-addr elsewhere", map[string]string{"pprof-addr": "10.0.0.1:6060"}, beyondLoopback("10.0.0.1:6060")},
		{"pprof-addr by name", map[string]string{"pprof-addr": "localhost.example:6060"}, beyondLoopback("localhost.example:6060")},
		{"pprof-addr without a port", map[string]string{"pprof-addr": "127.0.0.1"},
			[]string{`--pprof-addr (TOKENBUS_PPROF_ADDR): "127.0.0.1": want host:port, or none`}},
		{"log-level", map[string]string{"log-level": "loud"},
			[]string{`--log-level (TOKENBUS_LOG_LEVEL): "loud": want debug, info, warn or error`}},
		{"log-format", map[string]string{"log-format": ""},
			[]string{`--log-format (TOKENBUS_LOG_FORMAT): "": want auto, text or json`}},
		{"worker-id", map[string]string{"worker-id": "a b"},
			[]string{`--worker-id (TOKENBUS_WORKER_ID): "a b": want 1 to 100 characters of A-Z, a-z, 0-9, dot, _ and -`}},
		{"all at once", map[string]string{"min-ttl": "x", "http-addr": "y", "store-url": "z"}, []string{
			`--store-url (TOKENBUS_STORE_URL): "z": want nats, or mongodb://host:port/database`,
			`--min-ttl (TOKENBUS_MIN_TTL): "x": want a time such as 30s`,
			`--http-addr (TOKENBUS_HTTP_ADDR): "y": want host:port, or none`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := readConfig(lookup(c.flags), lookup(nil))
			if err == nil {
				t.Fatal("no error")
			}
			if got, want := err.Error(), strings.Join(c.want, "\n"); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the message tells a secret")
			}
		})
	}
}
