package rig_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/internal/rig"
)

func TestLinkFails(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	t.Cleanup(web.Close)
	l, url := rig.LinkTo(t, web.URL)
	standing := &http.Client{Transport: &http.Transport{}} // its connection stands between calls
	t.Cleanup(standing.CloseIdleConnections)
	get := func(within time.Duration) (time.Duration, error) {
		standing.Timeout = within
		start := time.Now()
		resp, err := standing.Get(url)
		if err == nil {
			defer resp.Body.Close()
			_, err = bufio.NewReader(resp.Body).ReadString('k')
		}
		return time.Since(start), err
	}
	works := func(mode string) {
		t.Helper()
		if _, err := get(time.Minute); err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
	}
	fails := func(mode string, within time.Duration) {
		t.Helper()
		if _, err := get(within); err == nil {
			t.Errorf("%s: answered", mode)
		}
	}

	works("open")
	l.Refuse(t)
	fails("refused", time.Minute)
	if _, err := net.Dial("tcp", strings.TrimPrefix(url, "http://")); err == nil {
		t.Error("refused: a connection came about")
	}
	l.Heal(t)
	works("healed of refusing")
	l.BlackHole(t)
	fails("black hole, standing connection", 100*time.Millisecond)
	fails("black hole, new connection", 100*time.Millisecond)
	l.Heal(t)
	works("healed of the black hole")
	const delay = 200 * time.Millisecond
	l.Slow(t, delay)
	if took, err := get(time.Minute); err != nil || took < delay {
		t.Errorf("slow: answered after %s, %v", took, err)
	}
	l.Heal(t)
	works("healed of slowness")
	l.Flap(t, 20*time.Millisecond, 20*time.Millisecond)
	worked, failed := false, false
	for late := time.Now().Add(time.Minute); !worked || !failed; {
		if _, err := get(time.Minute); err == nil {
			worked = true
		} else {
			failed = true
		}
		if time.Now().After(late) {
			t.Fatalf("flapping: worked %t, failed %t", worked, failed)
		}
	}
	l.Heal(t)
	works("healed of flapping")
}

func TestProgram(t *testing.T) {
	p := rig.StartProgram(t, exec.Command("sh", "-c", `echo not JSON >&2; echo '{"msg":"ready","port":1}' >&2; exec sleep 60`))
	if fields := p.Await(t, "ready"); fields["port"] != 1.0 {
		t.Errorf("fields %v", fields)
	}
	if p.Logged("not JSON") != nil || p.Logged("read") != nil {
		t.Error("found what was not logged")
	}
	if !p.Alive() {
		t.Error("not alive")
	}
	p.Kill()
	p.Kill()
	if p.Alive() || !strings.HasPrefix(p.Text(), "not JSON\n") {
		t.Errorf("alive %t, said %q", p.Alive(), p.Text())
	}
}
