package mongostore_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/internal/rig/opmsg"
	"github.com/tokenbus/tokenbus/mongostore"
)

// behind returns a new database behind a proxy that knows MongoDB's protocol.
func behind(t *testing.T, cfg opmsg.Config) (p *opmsg.Proxy, uri string) {
	t.Helper()
	u, err := url.Parse(rig.Mongo(t))
	if err != nil {
		t.Fatal(err)
	}
	p = opmsg.New(t, u.Host, cfg)
	u.Host = p.Addr()
	return p, u.String()
}

// certificate returns one for the host, signed by itself, and a file that has
// it as an authority.
func certificate(t *testing.T, host string) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// TestWrongConfiguration: what only a person can end is one line that names
// value and remedy, and never a secret.
func TestWrongConfiguration(t *testing.T) {
	right, rightCA := certificate(t, "127.0.0.1")
	other, otherCA := certificate(t, "127.0.0.9")
	speaking := func(c tls.Certificate) opmsg.Config {
		return opmsg.Config{TLS: &tls.Config{Certificates: []tls.Certificate{c}}}
	}
	refuse := func(names string, code int32, name string) func(*opmsg.Proxy) {
		return func(p *opmsg.Proxy) {
			p.Next(1000, names, opmsg.Fault{Answer: opmsg.Refuse(code, name)})
		}
	}
	for _, c := range []struct {
		name    string
		cfg     opmsg.Config
		prepare func(*opmsg.Proxy)
		user    string
		query   string
		kind    error
		want    []string
	}{
		{"wrong password", opmsg.Config{}, nil, "bob:hunter2@", "", mongostore.ErrCredentials,
			[]string{`refuses the login of user "bob"`, "mongodb://bob:***@127.0.0.1", "authSource=admin"}},
		{"mechanism that the server lacks", opmsg.Config{}, refuse("saslStart", 334, "MechanismUnavailable"), "bob:hunter2@", "?authMechanism=SCRAM-SHA-256", mongostore.ErrCredentials,
			[]string{`refuses the login of user "bob"`, "MechanismUnavailable"}},
		{"no user", opmsg.Config{}, refuse("ping", 13, "Unauthorized"), "", "", mongostore.ErrCredentials,
			[]string{"wants a login", "give user and password"}},
		{"may only read", opmsg.Config{}, refuse("findAndModify", 13, "Unauthorized"), "", "", mongostore.ErrCredentials,
			[]string{"Unauthorized"}},
		{"a certificate for another name", speaking(other), nil, "", "?tls=true&tlsCAFile=" + otherCA, mongostore.ErrConfig,
			[]string{"the certificate of MongoDB at 127.0.0.1:", "127.0.0.9, not 127.0.0.1", "correct the host"}},
		{"an unknown authority", speaking(right), nil, "", "?tls=true", mongostore.ErrConfig,
			[]string{"authority", "tlsCAFile"}},
		{"the wrong authority", speaking(right), nil, "", "?tls=true&tlsCAFile=" + otherCA, mongostore.ErrConfig,
			[]string{"authority", "tlsCAFile"}},
		{"our certificate is missing", opmsg.Config{TLS: &tls.Config{Certificates: []tls.Certificate{right}, ClientAuth: tls.RequireAnyClientCert}}, nil, "", "?tls=true&tlsCAFile=" + rightCA, mongostore.ErrCredentials,
			[]string{"refuses our TLS certificate, or that we have none", "tlsCertificateKeyFile"}},
		{"our certificate is missing, TLS 1.2", opmsg.Config{TLS: &tls.Config{Certificates: []tls.Certificate{right}, ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}}, nil, "", "?tls=true&tlsCAFile=" + rightCA, mongostore.ErrCredentials,
			[]string{"refuses our TLS certificate, or that we have none", "tlsCertificateKeyFile"}},
		{"another replica set", opmsg.Config{ReplicaSet: "rs0"}, nil, "", "?replicaSet=rs1", mongostore.ErrConfig,
			[]string{`no host is of the replica set "rs1"`, `is of "rs0"`, "correct replicaSet"}},
		{"no replica set", opmsg.Config{}, nil, "", "?replicaSet=rs1", mongostore.ErrConfig,
			[]string{`no host is of the replica set "rs1"`, "is of none"}},
		{"too old", opmsg.Config{Hello: func(d bson.D) bson.D { return set(d, "maxWireVersion", int32(6)) }}, nil, "", "", mongostore.ErrConfig,
			[]string{"too old", "4.4 or later"}},
		{"database in other case", opmsg.Config{}, refuse("findAndModify", 13297, "DatabaseDifferCase"), "", "", mongostore.ErrConfig,
			[]string{"takes no database", "DatabaseDifferCase", "correct the database's name"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, uri := behind(t, c.cfg)
			if c.prepare != nil {
				c.prepare(p)
			}
			s := open(t, mongostore.Config{URL: strings.Replace(uri, "://", "://"+c.user, 1) + c.query, Timeout: time.Second})
			err := pingUntil(t, s, mongostore.Final)
			if !errors.Is(err, c.kind) {
				t.Errorf("got error %v, want %q", err, c.kind)
			}
			for _, want := range append(c.want, `"mongodb://`, "/t") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error doesn't say %q: %v", want, err)
				}
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n") {
				t.Errorf("the error shows a secret, or is more than a line: %q", err)
			}
		})
	}

	t.Run("right", func(t *testing.T) {
		_, uri := behind(t, opmsg.Config{TLS: &tls.Config{Certificates: []tls.Certificate{right}}, ReplicaSet: "rs0"})
		s := open(t, mongostore.Config{URL: uri + "?replicaSet=rs0&tls=true&tlsCAFile=" + rightCA})
		for range 2 {
			if err := s.Ping(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

// pingUntil returns the error of the first ping of which enough is true. The
// driver may not have looked at the server before the first ones give up.
func pingUntil(t *testing.T, s *mongostore.Store, enough func(error) bool) error {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		err := s.Ping(t.Context())
		if err != nil && enough(err) {
			return err
		}
		if time.Now().After(end) {
			t.Fatalf("the last error is %v", err)
		}
	}
}

// hangUp returns the address of a server that closes connections at their
// first byte.
func hangUp(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 4096)) // more than a handshake's first message: nothing is left unread
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func set(d bson.D, key string, value any) bson.D {
	for i := range d {
		if d[i].Key == key {
			d[i].Value = value
		}
	}
	return d
}

// What may end by itself is not final, and still a line that says what it is.
func TestOutOfReach(t *testing.T) {
	const nobody = "127.0.0.1:1" // a port that was free a moment ago may be another test's now
	right, _ := certificate(t, "127.0.0.1")
	tlsProxy, _ := behind(t, opmsg.Config{TLS: &tls.Config{Certificates: []tls.Certificate{right}}})
	_, secondary := behind(t, opmsg.Config{ReplicaSet: "rs0", Hello: func(d bson.D) bson.D {
		d = set(set(d, "isWritablePrimary", false), "ismaster", false)
		return set(set(d, "secondary", true), "primary", "127.0.0.1:1")
	}})
	closing, closed := behind(t, opmsg.Config{})
	closing.Next(1000, "hello isMaster", opmsg.Fault{})
	hangsUp := hangUp(t)
	for _, c := range []struct{ name, url, want string }{
		{"TLS, but the server wants none", "mongodb://" + hangsUp + "/db?tls=true", "connection closed (does it speak TLS, as the URL says?)"},
		{"no TLS, but the server wants it", "mongodb://" + tlsProxy.Addr() + "/db", "connection closed (does it want tls=true?)"},
		{"nobody listens", "mongodb://" + nobody + "/db", nobody + ": dial: connect: connection refused"},
		{"no such host", "mongodb://nobody.invalid/db", "nobody.invalid"},
		{"one certificate is wrong, the other host is gone", "mongodb://" + tlsProxy.Addr() + "," + nobody + "/db?tls=true", "the certificate of MongoDB at"},
		{"no primary", secondary, "MongoDB has no primary at the moment"},
		{"connections are closed", closed, "connection closed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, mongostore.Config{URL: c.url, Timeout: time.Second})
			err := pingUntil(t, s, func(err error) bool { return strings.Contains(err.Error(), c.want) })
			if mongostore.Final(err) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got error %q, want one line, and one that may end", err)
			}
		})
	}
}
