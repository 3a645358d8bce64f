package rediskv_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/rediskv"
	"github.com/tokenbus/tokenbus/refresh"
)

// ours is a certificate that the test process trusts as it would that of a
// company: by SSL_CERT_FILE, which is read once in the life of a process.
var ours serverCertificate

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "rediskv-")
	if err == nil {
		ours, err = newCertificate(dir)
	}
	if err == nil {
		err = os.Setenv("SSL_CERT_FILE", ours.cert)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m,
		// The library's probe of a server that is gone looks once a second whether
		// the pool was closed meanwhile, and dials in between: it ends by itself, but
		// later than goleak waits.
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"),
		goleak.Cleanup(func(code int) {
			_ = os.RemoveAll(dir)
			os.Exit(code)
		}))
}

// serverCertificate is the files of a self-signed certificate for 127.0.0.1
// and its key.
type serverCertificate struct{ cert, key string }

func newCertificate(dir string) (serverCertificate, error) {
	c := serverCertificate{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rig"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return c, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return c, err
	}
	write := func(path, kind string, data []byte) error {
		return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600)
	}
	return c, errors.Join(write(c.cert, "CERTIFICATE", der), write(c.key, "PRIVATE KEY", pkcs8))
}

// startTLS starts a redis-server and returns its address for TLS.
func startTLS(t *testing.T, c serverCertificate) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(addr)
	rig.Redis(t, "--tls-port", port, "--tls-cert-file", c.cert, "--tls-key-file", c.key,
		"--tls-ca-cert-file", c.cert, "--tls-auth-clients", "no")
	return addr
}

func TestTLS(t *testing.T) {
	trusted := startTLS(t, ours)
	if err := open(t, rediskv.Config{URL: "rediss://" + trusted, Timeout: patience}).Ping(t.Context()); err != nil {
		t.Errorf("a certificate that SSL_CERT_FILE names: %v", err)
	}
	stranger, err := newCertificate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	unknown := startTLS(t, stranger)
	var logged bytes.Buffer
	lax := open(t, rediskv.Config{URL: "rediss://" + unknown + "?skip_verify=true", Timeout: patience,
		Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err := lax.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(logged.String(), "not verified") {
		t.Errorf("no warning: %s", logged.String())
	}
}

// Each wrong setting is one line that says what to do, and whether waiting
// helps.
func TestPingExplains(t *testing.T) {
	locked := rig.StartRedis(t, "--requirepass", "hunter2")
	admin := raw(t, "redis://:hunter2@"+locked.Addr)
	const all = " +@read +@write +@scripting +@connection"
	for user, rule := range map[string]string{
		"worker":    "~tokenbus:*" + all,
		"reader":    "~tokenbus:* +@read +@connection",
		"stranger":  "~other:*" + all,
		"noexpire":  "~tokenbus:*" + all + " -pexpire",
		"noevalsha": "~tokenbus:*" + all + " -evalsha",
		"nohello":   "~tokenbus:*" + all + " -hello",
		"off":       "off ~tokenbus:*" + all,
	} {
		args := []any{"acl", "setuser", user, "on", ">hunter2"}
		for word := range strings.FieldsSeq(rule) {
			args = append(args, word)
		}
		if err := admin.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	free := rig.StartRedis(t)
	replica := startReplica(t, free.Addr)
	tls := startTLS(t, ours)
	_, tlsPort, _ := net.SplitHostPort(tls)
	stranger, err := newCertificate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	unknown := startTLS(t, stranger)
	node := rig.StartRedis(t, "--cluster-enabled", "yes")
	sentinel := rig.RedisSentinel(t, "main", free)
	full := rig.StartRedis(t, "--maxmemory", "1", "--maxmemory-policy", "noeviction")
	nobody := rig.StartRedis(t)
	nobody.Stop()
	renamed := rig.StartRedis(t, "--rename-command", "HELLO", "")

	for _, c := range []struct {
		name, url string
		kind      error // nil: worth waiting for
		want      string
	}{
		{"right user", "redis://worker:hunter2@" + locked.Addr, nil, ""},
		{"right password", "redis://:hunter2@" + locked.Addr, nil, ""},
		{"password where none is needed", "redis://:hunter2@" + free.Addr, nil, ""}, // Redis takes any
		{"user who may not say hello", "redis://nohello:hunter2@" + locked.Addr, nil, ""},
		{"server without HELLO", renamed.URL, nil, ""},
		{"Sentinels", sentinel.URL + "?master_name=main", nil, ""},
		{"wrong password", "redis://:hunter3@" + locked.Addr, rediskv.ErrCredentials, "correct user and password in the --cache-url"},
		{"wrong user", "redis://nobody:hunter2@" + locked.Addr, rediskv.ErrCredentials, "WRONGPASS"},
		{"user who is off", "redis://off:hunter3@" + locked.Addr, rediskv.ErrCredentials, "WRONGPASS"},
		{"no password", locked.URL, rediskv.ErrCredentials, "NOAUTH"},
		{"user who may only read", "redis://reader:hunter2@" + locked.Addr, rediskv.ErrCredentials, "give the user +@read +@write +@scripting +@connection ~tokenbus:*"},
		{"user of other keys", "redis://stranger:hunter2@" + locked.Addr, rediskv.ErrCredentials, "keys used as arguments; give the user"},
		{"user who lacks one command", "redis://noexpire:hunter2@" + locked.Addr, rediskv.ErrCredentials, "can't run this command or subcommand"},
		{"user who lacks one of scripts", "redis://noevalsha:hunter2@" + locked.Addr, rediskv.ErrCredentials, "'evalsha' command"},
		{"another name than the certificate's", "rediss://localhost:" + tlsPort, rediskv.ErrUnusable, "the host in the --cache-url must be a name that the certificate has"},
		{"certificate of strangers", "rediss://" + unknown, rediskv.ErrUnusable, "SSL_CERT_FILE"},
		{"no TLS where there is", "redis://" + tls, nil, "rediss://"},
		{"database that isn't there", free.URL + "/99", rediskv.ErrUnusable, "it has fewer databases"},
		{"node of a Cluster", node.URL, rediskv.ErrUnusable, "with addr=host:port"},
		{"node of a Cluster, other database", node.URL + "/1", rediskv.ErrUnusable, "with addr=host:port"},
		{"no Cluster", free.URL + "?addr=" + free.Addr, rediskv.ErrUnusable, "leave addr= out"},
		{"Cluster without slots", node.URL + "?addr=" + node.Addr, nil, "ping redis://" + node.Addr + "?addr=" + node.Addr},
		{"Sentinel taken for a server", sentinel.URL, rediskv.ErrUnusable, "add master_name="},
		{"server taken for a Sentinel", free.URL + "?master_name=main", rediskv.ErrUnusable, "these are no Sentinels"},
		{"unknown master", sentinel.URL + "?master_name=other&addr=" + nobody.Addr, rediskv.ErrUnusable, "no Sentinel has a master named other"},
		{"replica", replica.URL, nil, "is a replica: the --cache-url must name the primary"},
		{"memory full", full.URL, nil, "its memory is full"},
		{"nobody there", nobody.URL, nil, "refused"},
		{"no Sentinels there", nobody.URL + "?master_name=main", nil, "refused"},
		{"no Cluster there", nobody.URL + "?addr=" + nobody.Addr, nil, "refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := open(t, rediskv.Config{URL: c.url, Timeout: patience}).Ping(t.Context())
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			t.Log(err)
			if rediskv.Final(err) != (c.kind != nil) || c.kind != nil && !errors.Is(err, c.kind) {
				t.Errorf("final: %v, want kind %v", rediskv.Final(err), c.kind)
			}
			text := err.Error()
			scheme, host, _ := strings.Cut(c.url, "://")
			if i := strings.LastIndex(host, "@"); i >= 0 {
				host = host[i+1:]
			}
			for _, want := range []string{c.want, "ping " + scheme + "://" + host} {
				if !strings.Contains(text, want) {
					t.Errorf("doesn't say %q", want)
				}
			}
			if strings.Contains(text, "hunter") || strings.Contains(text, "\n") {
				t.Error("not one line without secrets")
			}
		})
	}
}

// A Redis without TLS doesn't answer a handshake.
func TestTLSWhereThereIsNone(t *testing.T) {
	plain := rig.StartRedis(t)
	c := open(t, rediskv.Config{URL: "rediss://" + plain.Addr, Timeout: 300 * time.Millisecond})
	if err := c.Ping(t.Context()); rediskv.Final(err) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "redis://") {
		t.Errorf("got error %v", err)
	}
}

// A refusal is told apart in every call, not only in Ping.
func TestRefusedCalls(t *testing.T) {
	url := rig.Redis(t, "--requirepass", "hunter2")
	c := open(t, rediskv.Config{URL: strings.Replace(url, "://", "://:hunter3@", 1), Timeout: patience})
	_, getErr := c.Cache().Get(t.Context(), key)
	_, putErr := c.Cache().Put(t.Context(), key, entry(1))
	_, acquireErr := c.Leases().Acquire(t.Context(), key.String(), "owner")
	_, readErr := c.Leases().Read(t.Context(), key.String())
	for name, err := range map[string]error{"Get": getErr, "Put": putErr, "Acquire": acquireErr, "Read": readErr} {
		if !errors.Is(err, rediskv.ErrCredentials) || errors.Is(err, ledger.ErrNotFound) || errors.Is(err, refresh.ErrHeld) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Sentinels have users of their own, and both need no more than is documented.
func TestSentinelUsers(t *testing.T) {
	server := rig.StartRedis(t)
	sentinel := rig.RedisSentinel(t, "main", server)
	for url, rights := range map[string]string{
		server.URL:   "~tokenbus:* +@read +@write +@scripting +@connection",
		sentinel.URL: "+sentinel|get-master-addr-by-name +sentinel|sentinels +@connection +subscribe allchannels",
	} {
		args := []any{"acl", "setuser", "worker", "on", ">hunter-" + strings.Split(url, ":")[2]}
		for word := range strings.FieldsSeq(rights) {
			args = append(args, word)
		}
		if err := raw(t, url).Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	_, serverPort, _ := net.SplitHostPort(server.Addr)
	_, sentinelPort, _ := net.SplitHostPort(sentinel.Addr)
	url := func(sentinelPassword, serverPassword string) string {
		return "redis://worker:" + sentinelPassword + "@" + sentinel.Addr + "?master_name=main&username=worker&password=" + serverPassword
	}
	right := open(t, rediskv.Config{URL: url("hunter-"+sentinelPort, "hunter-"+serverPort), Timeout: patience})
	if err := right.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	for name, wrong := range map[string]string{
		"Sentinel": url("hunter-x", "hunter-"+serverPort), "server": url("hunter-"+sentinelPort, "hunter-x"),
	} {
		err := open(t, rediskv.Config{URL: wrong, Timeout: patience}).Ping(t.Context())
		if !errors.Is(err, rediskv.ErrCredentials) || !strings.Contains(err.Error(), "user:password@ is what the Sentinels want, username= and password= what the server wants") ||
			strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "\n") {
			t.Errorf("wrong password of the %s: %v", name, err)
		}
	}
}

// The driver's word for "no such master" is that for "no such key".
func TestUnknownMasterIsNoMissingLease(t *testing.T) {
	sentinel := rig.RedisSentinel(t, "main", rig.StartRedis(t))
	c := open(t, rediskv.Config{URL: sentinel.URL + "?master_name=other", Timeout: patience})
	if _, err := c.Leases().Read(t.Context(), key.String()); err == nil || errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("read: %v", err)
	}
	if _, err := c.Cache().Get(t.Context(), key); err == nil || errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
}

// Redis 5 has no HELLO and says its version in INFO. A server that is newer
// than that says it here.
func TestOldServer(t *testing.T) {
	server := rig.StartRedis(t, "--rename-command", "HELLO", "")
	version := raw(t, server.URL).Info(t.Context(), "server").Val()
	_, version, _ = strings.Cut(version, "redis_version:")
	version, _, _ = strings.Cut(version, "\r\n")
	old := "5" + version[1:]
	addr := rewrite(t, server.Addr, "redis_version:"+version, "redis_version:"+old)
	err := open(t, rediskv.Config{URL: "redis://" + addr, Timeout: patience}).Ping(t.Context())
	if !errors.Is(err, rediskv.ErrUnusable) || !rediskv.Final(err) ||
		!strings.Contains(err.Error(), "it is Redis "+old+", and 6.0 or later is needed: upgrade it") {
		t.Errorf("got error %v", err)
	}
}

// rewrite is a proxy that replaces a text in what the server says by one that
// is as long.
func rewrite(t *testing.T, server, from, to string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() {
				defer upstream.Close()
				_, _ = io.Copy(upstream, client)
			}()
			go func() {
				defer client.Close()
				buf := make([]byte, 64<<10) // more than any answer here
				for {
					n, err := upstream.Read(buf)
					if _, werr := client.Write(bytes.ReplaceAll(buf[:n], []byte(from), []byte(to))); err != nil || werr != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}
