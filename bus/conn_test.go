package bus_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/bus"
	testrig "github.com/tokenbus/tokenbus/internal/rig"
)

func TestConnectBeforeTheServerIsThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	address := l.Addr().String()
	check(t, l.Close())
	dir := t.TempDir()
	startServer(t, func(c *bus.ServerConfig) { c.DataDir = dir }).Shutdown() // makes the keys

	connected, disconnected, closed := make(chan struct{}, 9), make(chan error, 9), make(chan error, 9)
	var log logs
	nc, err := bus.Connect(bus.Config{
		URLs: []string{"nats://" + address}, NKey: bus.KeyFile(dir, bus.RoleWorker), InboxPrefix: bus.InboxPrefix(bus.RoleWorker),
		Logger: log.logger(),
		Hooks: bus.Hooks{
			Connected:    func() { connected <- struct{}{} },
			Disconnected: func(err error) { disconnected <- err },
			Closed:       func(err error) { closed <- err },
		},
	})
	check(t, err)
	defer nc.Close()
	if nc.IsConnected() || len(connected) > 0 {
		t.Fatal("connected to nothing")
	}
	f := newFleet()
	w := startWorker(t, nc, f) // everything waits for the connection
	s := startServer(t, func(c *bus.ServerConfig) { c.DataDir, c.Listen = dir, address })
	receive(t, connected, "connection")
	streams(t, nc)
	check(t, publisher(t, nc).Bump(t.Context(), bump(t, 1)))
	receive(t, f.bumps, "bump")

	s.Shutdown()
	receive(t, disconnected, "lost connection")
	startServer(t, func(c *bus.ServerConfig) { c.DataDir, c.Listen = dir, address })
	receive(t, connected, "connection again")
	if n := strings.Count(log.String(), "connection to NATS lost"); n != 1 {
		t.Errorf("the loss was logged %d times: %s", n, log.String())
	}
	w.Close()
	nc.Close()
	receive(t, closed, "end")
}

func TestConnectWithRefusedCredentials(t *testing.T) {
	s, other := startServer(t), startServer(t)
	_, err := bus.Connect(bus.Config{URLs: []string{s.URL()}, NKey: other.KeyFile(bus.RoleWorker)})
	if !errors.Is(err, bus.ErrCredentials) {
		t.Errorf("error is %v", err)
	}
	wantLine(t, err, s.Addr())
	_, err = bus.Connect(bus.Config{URLs: []string{s.URL()}})
	if !errors.Is(err, bus.ErrCredentials) {
		t.Errorf("error without credentials is %v", err)
	}
	open := startServer(t, func(c *bus.ServerConfig) { c.Auth = bus.AuthNone })
	_, err = bus.Connect(bus.Config{URLs: []string{open.URL()}, NKey: s.KeyFile(bus.RoleWorker)})
	if !errors.Is(err, bus.ErrCredentials) {
		t.Errorf("error with an nkey where none is known is %v", err)
	}
}

// TestCredentialsRefusedLater: whoever waits for a server is told when it
// comes and refuses.
func TestCredentialsRefusedLater(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	address := l.Addr().String()
	check(t, l.Close())
	other := startServer(t)
	refused := make(chan error, 100)
	unreachable := make(chan error, 100)
	var log logs
	nc, err := bus.Connect(bus.Config{
		URLs: []string{address}, NKey: other.KeyFile(bus.RoleWorker), Logger: log.logger(),
		Hooks: bus.Hooks{Refused: func(err error) { refused <- err }, Unreachable: func(err error) { unreachable <- err }},
	})
	check(t, err)
	defer nc.Close()
	if err := receive(t, unreachable, "the first try"); !errors.Is(err, nats.ErrNoServers) {
		t.Errorf("the first try: %v", err)
	}
	for !errors.Is(receive(t, unreachable, "another try, which says why"), syscall.ECONNREFUSED) {
	}
	startServer(t, func(c *bus.ServerConfig) { c.Listen = address })
	for range 2 {
		if err := receive(t, refused, "refusal"); !errors.Is(err, bus.ErrCredentials) {
			t.Errorf("error is %v", err)
		}
	}
	if nc.IsClosed() {
		t.Error("the connection was given up")
	}
	if n := strings.Count(log.String(), "msg=\"NATS refuses our credentials"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

func TestConnectWithBadFiles(t *testing.T) {
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk")
	check(t, os.WriteFile(junk, []byte("SECRETJUNK"), 0o600))
	missing := filepath.Join(dir, "missing")
	tests := []struct {
		name string
		cfg  bus.Config
		want string
	}{
		{"no server", bus.Config{}, "no server"},
		{"missing nkey", bus.Config{NKey: missing}, "missing"},
		{"bad nkey", bus.Config{NKey: junk}, "junk holds no user's nkey seed"},
		{"missing creds", bus.Config{Creds: missing}, "missing"},
		{"bad creds", bus.Config{Creds: junk}, "junk holds no user"},
		{"both", bus.Config{Creds: junk, NKey: junk}, "not both"},
		{"missing CA", bus.Config{CA: missing}, "missing"},
		{"bad CA", bus.Config{CA: junk}, "junk"},
		{"certificate without key", bus.Config{Cert: junk}, "and its key"},
		{"bad certificate", bus.Config{Cert: junk, Key: junk}, "Cert: "},
		{"bad URL", bus.Config{URLs: []string{"nats://user:hunter2@[::1"}}, "URLs: nats://[::1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.cfg.URLs == nil && tt.name != "no server" {
				tt.cfg.URLs = []string{"nats://127.0.0.1:1"}
			}
			nc, err := bus.Connect(tt.cfg)
			if err == nil {
				nc.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q lacks %q", err, tt.want)
			}
			for _, secret := range []string{"SECRETJUNK", "hunter2"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("error quotes a secret: %v", err)
				}
			}
		})
	}
}

func TestConnectWithTLS(t *testing.T) {
	ca, pair := certificates(t)
	ns := testrig.NATS(t, func(o *natsserver.Options) {
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	})
	nc, err := bus.Connect(bus.Config{URLs: []string{ns.ClientURL()}, CA: ca})
	check(t, err)
	if _, err := nc.TLSConnectionState(); err != nil {
		t.Errorf("no TLS: %v", err)
	}
	nc.Close()
	nc, err = bus.Connect(bus.Config{URLs: []string{ns.ClientURL()}})
	if err == nil {
		nc.Close()
		t.Fatal("a certificate that nobody vouches for is trusted, or waited for")
	}
	wantLine(t, err, "certificate")
}

func TestNoJetStream(t *testing.T) {
	ns := testrig.NATS(t, func(o *natsserver.Options) { o.JetStream = false })
	nc, err := bus.Connect(bus.Config{URLs: []string{ns.ClientURL()}})
	check(t, err)
	defer nc.Close()
	err = bus.EnsureStreams(t.Context(), stream(t, nc), bus.StreamsConfig{Subjects: subjects(t)})
	if !errors.Is(err, bus.ErrNoJetStream) {
		t.Errorf("error is %v", err)
	}
	wantLine(t, err, "JetStream")
}

// certificates returns a CA's file and a certificate for loopback from it.
func certificates(t *testing.T) (string, tls.Certificate) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	check(t, err)
	path := filepath.Join(t.TempDir(), "ca.pem")
	check(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return path, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
}
