package rig

import (
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// redisScript runs redis-server until its own standard input ends, for
// redis-server itself doesn't care about its own.
const redisScript = `redis-server "$@" </dev/null &
pid=$!
exec >&-
read -r _
kill "$pid"
wait "$pid"`

// Redis starts a redis-server that keeps everything in memory and returns its
// URL. Arguments are added to its command line.
func Redis(t testing.TB, args ...string) (url string) {
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
		argv := append([]string{"-c", redisScript, "redis-server",
			"--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir", t.TempDir(),
			"--save", "", "--appendonly", "no"}, args...)
		var p *process
		if p, _, err = start(exec.Command("/bin/sh", argv...), "eady to accept connections"); err == nil {
			t.Cleanup(p.stop)
			return fmt.Sprintf("redis://127.0.0.1:%d", port)
		}
		if !strings.Contains(err.Error(), "in use") {
			break
		}
	}
	check(t, err)
	return ""
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
