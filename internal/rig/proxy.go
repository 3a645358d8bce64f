package rig

import (
	"net"
	"slices"
	"sync"
	"testing"
)

// Proxy is a TCP proxy in front of a server that can fail as networks do.
type Proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu     sync.Mutex // guards the rest
	change *sync.Cond
	mode   mode
	conns  map[net.Conn]struct{}
	sent   []byte
}

type mode int

const (
	open   mode = iota
	mute        // requests arrive, answers don't
	frozen      // nothing arrives
	cut         // connections are closed, new ones at once
	closed
)

// NewProxy starts a proxy for the server at target ("host:port").
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, target: target, conns: make(map[net.Conn]struct{})}
	p.change = sync.NewCond(&p.mu)
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.set(closed)
		p.wg.Wait()
	})
	return p
}

// Addr returns the proxy's own "host:port".
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Mute lets everything through to the server and nothing back: what happens
// there, nobody can tell. Answers are late rather than lost.
func (p *Proxy) Mute() { p.set(mute) }

// Freeze lets nothing through, in both directions, and closes nothing.
func (p *Proxy) Freeze() { p.set(frozen) }

// Cut closes all connections, and every new one at once.
func (p *Proxy) Cut() { p.set(cut) }

// Restore lets everything through again.
func (p *Proxy) Restore() { p.set(open) }

// Sent returns what clients have sent to the server so far.
func (p *Proxy) Sent() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sent)
}

func (p *Proxy) set(m mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = m
	if m >= cut {
		for c := range p.conns {
			_ = c.Close()
		}
	}
	p.change.Broadcast()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		if !p.add(client) {
			continue
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			p.drop(client)
			continue
		}
		if !p.add(server) {
			p.drop(client)
			continue
		}
		p.wg.Go(func() { p.pump(client, server, mute) })
		p.wg.Go(func() { p.pump(server, client, open) })
	}
}

// add tracks the connection, or closes it and returns false if connections are
// cut.
func (p *Proxy) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode >= cut {
		_ = c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) drop(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// pump copies from src to dst, and waits while the mode is worse than most.
func (p *Proxy) pump(src, dst net.Conn, most mode) {
	defer p.drop(src)
	defer p.drop(dst)
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if !p.pass(most, buf[:n]) {
				return
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) pass(most mode, data []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if most == mute { // from a client
		p.sent = append(p.sent, data...)
	}
	for p.mode > most && p.mode < cut {
		p.change.Wait()
	}
	return p.mode <= most
}
