package bus_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/bus"
)

func TestServerKeysAreMadeOnceAndKept(t *testing.T) {
	dir := t.TempDir()
	first := startServer(t, func(c *bus.ServerConfig) { c.DataDir = dir })
	seeds := map[bus.Role]string{}
	for _, role := range bus.Roles() {
		path := filepath.Join(dir, "nats", string(role)+".nk")
		if path != first.KeyFile(role) {
			t.Errorf("key of %s is said to be at %s", role, first.KeyFile(role))
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("key of %s has mode %v", role, info.Mode())
		}
		seed, _ := os.ReadFile(path)
		seeds[role] = string(seed)
	}
	if seeds[bus.RoleWorker] == seeds[bus.RoleClient] || seeds[bus.RoleOperator] == seeds[bus.RoleClient] {
		t.Error("two roles have one key")
	}
	first.Shutdown()
	second := startServer(t, func(c *bus.ServerConfig) { c.DataDir = dir })
	for _, role := range bus.Roles() {
		if seed, _ := os.ReadFile(second.KeyFile(role)); string(seed) != seeds[role] {
			t.Errorf("key of %s was made again", role)
		}
		as(t, second, role)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "nats", ".nk-*")); len(left) > 0 {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestServerRefusesADamagedKey(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "nats"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "nats", "operator.nk"), []byte("SUANOSEED"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := bus.StartServer(bus.ServerConfig{Listen: bus.ListenNone, DataDir: dir, Subjects: subjects(t)})
	wantLine(t, err, "operator.nk", "remove it")
	if strings.Contains(err.Error(), "SUANOSEED") {
		t.Error("error quotes the file's content")
	}
}

func TestServerPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = bus.StartServer(bus.ServerConfig{Listen: l.Addr().String(), DataDir: t.TempDir(), Subjects: subjects(t)})
	wantLine(t, err, l.Addr().String(), "in use", "--nats-listen", "--nats-url")
}

func TestServerBadConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*bus.ServerConfig)
		want   string
	}{
		{"address without port", func(c *bus.ServerConfig) { c.Listen = "127.0.0.1" }, "host:port"},
		{"no address", func(c *bus.ServerConfig) { c.Listen = "" }, "host:port"},
		{"address of another machine", func(c *bus.ServerConfig) { c.Listen = "192.0.2.1:4222" }, "--nats-listen"},
		{"unknown auth", func(c *bus.ServerConfig) { c.Auth = "jwt" }, "nkey or none"},
		{"no folder", func(c *bus.ServerConfig) { c.DataDir = "" }, "data folder"},
		{"folder is a file", func(c *bus.ServerConfig) { c.DataDir = file }, file},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := bus.ServerConfig{Listen: bus.ListenNone, DataDir: t.TempDir(), Subjects: subjects(t)}
			tt.change(&cfg)
			s, err := bus.StartServer(cfg)
			if err == nil {
				s.Shutdown()
			}
			wantLine(t, err, tt.want)
		})
	}
}

func TestServerInProcessOnly(t *testing.T) {
	s := startServer(t, func(c *bus.ServerConfig) { c.Listen = bus.ListenNone })
	if s.Addr() != "" || s.URL() != "" {
		t.Errorf("server listens on %q", s.Addr())
	}
	nc, err := bus.Connect(bus.Config{Server: s, Name: "worker"})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	streams(t, nc)
}

func TestServerWithoutAuthWarns(t *testing.T) {
	var log logs
	s := startServer(t, func(c *bus.ServerConfig) { c.Auth, c.Logger = bus.AuthNone, log.logger() })
	if !strings.Contains(log.String(), "asks for no credentials") {
		t.Errorf("no warning: %s", log.String())
	}
	nc, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
}

func TestServerRefusesStrangers(t *testing.T) {
	s := startServer(t)
	if nc, err := nats.Connect(s.URL()); !errors.Is(err, nats.ErrAuthorization) {
		if err == nil {
			nc.Close()
		}
		t.Errorf("connection without a key: %v", err)
	}
}

// Who takes nothing of what the server keeps for it is cut after two or three
// write deadlines, whether more is sent to it or not, and sooner than after the
// server's own ten seconds. Who takes it slowly is not cut, though more is kept
// for it than the server's own 64 MB. Others are answered meanwhile.
func TestWhoReadsNothingIsCut(t *testing.T) {
	const (
		mib     = 1 << 20
		kept    = 128 // MiB: the server slows down who sends from 192 on
		unread  = 16  // MiB: more than sockets hold
		rounds  = 180 // of 50 ms at least: a machine that stands still makes them longer, not more
		overall = 60 * time.Second
	)
	s := startServer(t, func(c *bus.ServerConfig) { c.Auth = bus.AuthNone })
	noKey := func(c *bus.Config) { c.NKey = "" }
	worker, gateway := as(t, s, bus.RoleWorker, noKey), as(t, s, bus.RoleClient, noKey)
	_, err := worker.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) })
	check(t, err)
	late := time.Now().Add(overall)
	send := func(subject string, size int) {
		t.Helper()
		some := make([]byte, mib/2)
		for range size * 2 {
			check(t, worker.Publish(subject, some))
		}
	}

	slow := subscribed(t, s, "slow", late)
	read := make(chan error, 1)
	go func() { read <- readSlowly(slow, kept*mib) }()
	send("slow", kept)
	deaf := map[string]net.Conn{"once": subscribed(t, s, "once", late), "more": subscribed(t, s, "more", late)}
	began := time.Now()
	for subject := range deaf {
		send(subject, unread)
	}

	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for round := 0; len(deaf) > 0; round++ {
		if round == rounds {
			t.Fatalf("who reads nothing of %q is not cut off after %s", slices.Collect(maps.Keys(deaf)), time.Since(began))
		}
		<-tick.C
		check(t, worker.Publish("more", make([]byte, 1024)))
		if _, err := gateway.Request("echo", nil, patience); err != nil {
			t.Fatalf("another client, after %s: %v", time.Since(began), err)
		}
		for subject, conn := range deaf {
			// The server answers a PONG with nothing, and takes who sends it for
			// alive: it isn't a PING without an answer that ends the connection.
			_, err := io.WriteString(conn, "PONG\r\n")
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			if err == nil {
				continue
			}
			delete(deaf, subject)
			if took := time.Since(began); took < time.Second {
				t.Errorf("who reads nothing of %q was cut off after %s already: %v", subject, took, err)
			}
		}
	}
	if err := <-read; err != nil {
		t.Errorf("who reads slowly: %v", err)
	}
}

// subscribed is a client that reads nothing more when it has subscribed. The NATS
// library has none such. Reads and writes end when it is late.
func subscribed(t *testing.T, s *bus.Server, subject string, late time.Time) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	check(t, conn.SetDeadline(late))
	_, err = fmt.Fprintf(conn, "CONNECT {\"verbose\":false}\r\nSUB %s 1\r\nPING\r\n", subject)
	check(t, err)
	in := bufio.NewReader(conn)
	for line := ""; line != "PONG\r\n"; {
		line, err = in.ReadString('\n')
		check(t, err)
	}
	return conn
}

// readSlowly takes no more than 40 MiB a second: what the server writes at once,
// up to 64 MB, takes longer than its write deadline.
func readSlowly(conn net.Conn, size int) error {
	const some = 1 << 20
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for read := 0; read < size; read += some {
		<-tick.C
		if _, err := io.CopyN(io.Discard, conn, some); err != nil {
			return fmt.Errorf("after %d MiB: %w", read>>20, err)
		}
	}
	return nil
}
