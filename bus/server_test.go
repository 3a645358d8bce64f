package bus_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
