package rig

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// redisScript runs redis-server until its own standard input ends, for
// redis-server itself doesn't care about its own.
const redisScript = `redis-server "$@" </dev/null &
pid=$!
exec 3>&-
read -r _
kill "$pid"
wait "$pid"`

// RedisServer is a redis-server that keeps everything in memory.
type RedisServer struct {
	Addr    string // "host:port"
	URL     string
	process *process
}

// Stop ends the server before its test does.
func (s *RedisServer) Stop() { s.process.stop() }

// Redis starts a redis-server and returns its URL. Arguments are added to its
// command line.
func Redis(t testing.TB, args ...string) (url string) {
	t.Helper()
	return StartRedis(t, args...).URL
}

// StartRedis is [Redis] for tests that need more than the URL.
func StartRedis(t testing.TB, args ...string) *RedisServer {
	t.Helper()
	return startRedis(t, "eady to accept connections", func(port string) []string {
		return append([]string{"--bind", "127.0.0.1", "--port", port, "--dir", t.TempDir(),
			"--save", "", "--appendonly", "no"}, args...)
	})
}

// RedisSentinel starts a Sentinel that watches the primary under the name and
// decides alone.
func RedisSentinel(t testing.TB, name string, primary *RedisServer) *RedisServer {
	t.Helper()
	return startRedis(t, "+monitor master", func(port string) []string {
		host, primaryPort, err := net.SplitHostPort(primary.Addr)
		check(t, err)
		dir := t.TempDir()
		file := filepath.Join(dir, "sentinel.conf") // it writes there
		check(t, os.WriteFile(file, fmt.Appendf(nil, "bind 127.0.0.1\nport %s\ndir %s\nsentinel monitor %s %s %s 1\n",
			port, dir, name, host, primaryPort), 0o600))
		return []string{file, "--sentinel"}
	})
}

// startRedis starts redis-server with the arguments that argv returns for a
// free port.
func startRedis(t testing.TB, ready string, argv func(port string) []string) *RedisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		check(t, fmt.Errorf("redis-server is missing: %w", errMissing))
	}
	var err error
	for range 5 { // somebody may take the free port before redis-server does
		var port int
		if port, err = freePort(); err != nil {
			break
		}
		args := append([]string{"-c", redisScript, "redis-server"}, argv(strconv.Itoa(port))...)
		var p *process
		if p, _, err = start(exec.Command("/bin/sh", args...), ready); err == nil {
			t.Cleanup(p.stop)
			addr := fmt.Sprintf("127.0.0.1:%d", port)
			return &RedisServer{addr, "redis://" + addr, p}
		}
		if !strings.Contains(err.Error(), "in use") {
			break
		}
	}
	check(t, err)
	return nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
