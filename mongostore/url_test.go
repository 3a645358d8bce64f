package mongostore_test

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/tokenbus/tokenbus/mongostore"
)

func TestURL(t *testing.T) {
	for _, c := range []struct {
		name, url string
		want      string // in the error; "": none
	}{
		{"simple", "mongodb://127.0.0.1/tokenbus", ""},
		{"replica set", "mongodb://u:p%40ss@h1:27017,h2:27018/tokenbus?replicaSet=rs0&authSource=admin&tls=true", ""},
		{"what the store does anyway", "mongodb://h/db?w=majority&journal=true&readPreference=primary&readConcernLevel=majority", ""},
		{"linearizable reads", "mongodb://h/db?readConcernLevel=linearizable", ""},
		{"names in any case", "mongodb://h/db?RETRYWRITES=false&timeoutms=700", ""},
		{"empty", "", "want mongodb://host/database"},
		{"other scheme", "postgres://u:hunter2@h/db", "want mongodb://host/database"},
		{"no host", "mongodb:///db", "names no host"},
		{"no database", "mongodb://u:hunter2@h", "names no database"},
		{"no database, but options", "mongodb://u:hunter2@h/?w=majority", "names no database"},
		{"bad database", "mongodb://h/a.b", "database's name"},
		{"bad port", "mongodb://u:hunter2@h:port/db", "port"},
		{"bad port, no user", "mongodb://h:port/db", "malformed"},
		{"user instead of host", "mongodb://u:hunter2/db", "malformed"},
		{"unknown option", "mongodb://u:hunter2@h/db?retryWrite=true", `unknown option "retryWrite"`},
		{"option without a value", "mongodb://h/db?tls", "invalid option"},
		{"option with a wrong value", "mongodb://h/db?maxPoolSize=many", "maxPoolSize"},
		{"weak writes", "mongodb://h/db?w=1", "option w must be majority"},
		{"no journal", "mongodb://h/db?journal=false", "option journal must be true"},
		{"reads from secondaries", "mongodb://h/db?readPreference=nearest", "option readPreference must be primary"},
		{"weak reads", "mongodb://h/db?readConcernLevel=local", "must be majority or linearizable"},
		{"wrong timeout", "mongodb://h/db?timeoutMS=0", "timeoutMS"},
		{"MongoDB's own database", "mongodb://u:hunter2@h/admin", "the database \"admin\" is MongoDB's own: name another (users that are in it: authSource=admin)"},
		{"long database", "mongodb://h/" + strings.Repeat("d", 64), "63 characters"},
		{"what it is, without the secrets", "mongodb://u:hunter2@h1:1,h2:2/?tls=true&authMechanismProperties=AWS_SESSION_TOKEN:hunter2", `MongoDB URL "mongodb://***@h1:1,h2:2/?tls=true&authMechanismProperties=***": it names no database`},
		{"secret in an unknown option", "mongodb://h/db?password=hunter2", `"mongodb://h/db?password=***": unknown option "password"`},
		{"user instead of host, shown", "mongodb://u:hunter2/db?x=1", `"mongodb://u:***/db?x=***"`},
		{"two replica sets", "mongodb://h/db?directConnection=true&loadBalanced=true", "direct"},
		{"all problems at once", "mongodb:///?w=1&x=2", "option w must be majority\nunknown option \"x\": correct its name or take it out"},
		{"unescaped @", "mongodb://u:hunter2@hunter2@h/db", "percent-encoded"},
		{"unescaped /", "mongodb://u:hunter2/hunter2@h/db", "percent-encoded"},
		{"unescaped ? with options", "mongodb://u:hunter2?hunter2@h/db?x=y", `unknown option "x"`},
		{"unescaped %", "mongodb://u:%hunter2@h/db", "percent-encoded"},
		{"secret option", "mongodb://u:hunter2@h/db?authMechanism=hunter3&authMechanismProperties=AWS_SESSION_TOKEN:hunter2", "auth mechanism"},
		{"key file that is missing", "mongodb://h/db?tlsCertificateKeyFile=/nonexistent&tlsCertificateKeyFilePassword=hunter2", "/nonexistent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := mongostore.Open(t.Context(), mongostore.Config{URL: c.url})
			if err == nil {
				_ = s.Close(t.Context())
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
			if !errors.Is(err, mongostore.ErrConfig) || !mongostore.Final(err) {
				t.Errorf("error %q is not final", err)
			}
		})
	}
}

// Hosts that can't be looked up yet are nothing that only a person can end.
func TestURLLookedUp(t *testing.T) {
	_, err := mongostore.Open(t.Context(), mongostore.Config{URL: "mongodb+srv://u:hunter2@nobody.invalid/db"})
	if _, ok := errors.AsType[*net.DNSError](err); !ok || mongostore.Final(err) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got error %v, want one of the name service", err)
	}
}

func TestNegativeTimeout(t *testing.T) {
	if _, err := mongostore.Open(t.Context(), mongostore.Config{URL: "mongodb://h/db", Timeout: -1}); err == nil {
		t.Error("no error")
	}
}

// Whatever is typed for a URL: no panic, and no password in the error.
func FuzzURL(f *testing.F) {
	f.Add("mongodb", "u", "", "h/db?w=majority")
	f.Add("mongodb", "u", "/?x@y", "h:1,h:2/db?tls=true&x")
	f.Add("mongodb", "a%", ":", "[::1]:port/a.b?readPreference=nearest")
	const secret = "hunter2"
	f.Fuzz(func(t *testing.T, scheme, user, more, rest string) {
		url := scheme + "://" + user + ":" + secret + more + "@" + rest
		if strings.HasPrefix(url, "mongodb+srv://") || strings.Contains(strings.ToLower(url), "file=") || strings.Contains(scheme+user+more+rest, secret) {
			t.Skip() // looks something up; or it isn't only the password
		}
		s, err := mongostore.Open(t.Context(), mongostore.Config{URL: url})
		if err == nil {
			_ = s.Close(t.Context())
			return
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows the password: %q", err)
		}
	})
}
