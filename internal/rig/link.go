package rig

import (
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Link is the way to a server, and can fail in the four ways in which a
// dependency does. It is Shopify's toxiproxy within the test process. Where a
// test must know what was on the way when, there is [Proxy].
type Link struct {
	api          *toxiproxy.ApiServer
	addr, target string

	mu  sync.Mutex       // guards now
	now *toxiproxy.Proxy // nil: nobody listens

	flapping chan struct{} // closed to end it; nil: it doesn't flap
	wg       sync.WaitGroup
}

// NewLink opens a way to the server at target ("host:port").
func NewLink(t testing.TB, target string) *Link {
	t.Helper()
	l := &Link{api: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), addr: "127.0.0.1:0", target: target}
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	l.addr = l.now.Listen
	t.Cleanup(func() {
		l.settle()
		l.close()
	})
	return l
}

// LinkTo opens a way to the server of a URL, and returns the URL that leads
// over it.
func LinkTo(t testing.TB, raw string) (l *Link, through string) {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	l = NewLink(t, u.Host)
	u.Host = l.addr
	return l, u.String()
}

// Refuse cuts all connections and refuses new ones.
func (l *Link) Refuse(t testing.TB) {
	t.Helper()
	l.settle()
	l.close()
}

// BlackHole lets connections stand and new ones come about, and swallows all
// that is sent over them, in both directions.
func (l *Link) BlackHole(t testing.TB) {
	t.Helper()
	l.poison(t, `{"type":"timeout","stream":"upstream","attributes":{"timeout":0}}`, `{"type":"timeout","stream":"downstream","attributes":{"timeout":0}}`)
}

// Slow lets each answer take d longer.
func (l *Link) Slow(t testing.TB, d time.Duration) {
	t.Helper()
	l.poison(t, fmt.Sprintf(`{"type":"latency","stream":"downstream","attributes":{"latency":%d}}`, d.Milliseconds()))
}

// Flap refuses for a while and works for a while, again and again.
func (l *Link) Flap(t testing.TB, down, up time.Duration) {
	t.Helper()
	l.settle()
	l.flapping = make(chan struct{})
	l.wg.Go(func() {
		for {
			l.close()
			if !l.pause(down) {
				return
			}
			_ = l.open() // a port that is taken for a moment keeps it down
			if !l.pause(up) {
				return
			}
		}
	})
}

// Heal ends what failed. Connections that stood are cut.
func (l *Link) Heal(t testing.TB) {
	t.Helper()
	l.settle()
	late := time.After(startTimeout)
	for {
		l.close()
		err := l.open()
		if err == nil {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond): // an outgoing connection may have the port
		case <-late:
			t.Fatalf("listen on %s again: %v", l.addr, err)
		}
	}
}

func (l *Link) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-l.flapping:
		return false
	}
}

// settle ends the flapping.
func (l *Link) settle() {
	if l.flapping != nil {
		close(l.flapping)
		l.wg.Wait()
		l.flapping = nil
	}
}

// open listens. What poisoned an earlier opening is gone: to take a toxic off
// a connection that is about to end can hang.
func (l *Link) open() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := toxiproxy.NewProxy(l.api, "link", l.addr, l.target)
	if err := p.Start(); err != nil {
		return err
	}
	l.now = p
	return nil
}

func (l *Link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now != nil {
		l.now.Stop()
		l.now = nil
	}
}

func (l *Link) poison(t testing.TB, toxics ...string) {
	t.Helper()
	l.settle()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, toxic := range toxics {
		if _, err := l.now.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
			t.Fatal(err)
		}
	}
}
