// Package opmsg is a proxy in front of a MongoDB server that understands its
// wire protocol: on order it answers commands with MongoDB's errors, before or
// after the server has carried them out, or closes the connection. That is how
// step-downs, lost majorities and missing privileges come about where the
// server itself can't be made to have them.
package opmsg

import (
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Config configures a [Proxy]. Its zero value changes nothing.
type Config struct {
	// TLS: the proxy speaks TLS with clients. nil: it doesn't.
	TLS *tls.Config
	// ReplicaSet makes the server look like the primary of a replica set of
	// that name, so that drivers repeat writes. "": it is what it is.
	ReplicaSet string
	// Hello rewrites the server's answers to handshakes and checks. nil: it
	// doesn't.
	Hello func(bson.D) bson.D
}

// Proxy is a proxy that a test controls. It is safe for concurrent use.
type Proxy struct {
	listener net.Listener
	target   string
	cfg      Config
	set      *replicaSet // nil without
	wg       sync.WaitGroup

	mu     sync.Mutex // guards the rest
	conns  map[net.Conn]struct{}
	closed bool
	hook   func(Command) *Fault
	orders []*order
	seen   map[string]int
}

type order struct {
	names []string
	left  int
	fault Fault
}

// New starts a proxy for the server at target ("host:port"). It ends with the
// test.
func New(t testing.TB, target string, cfg Config) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: target, cfg: cfg, listener: l, conns: make(map[net.Conn]struct{}), seen: make(map[string]int)}
	if cfg.ReplicaSet != "" {
		p.set = &replicaSet{name: cfg.ReplicaSet, addr: l.Addr().String(), done: make(map[string]bson.Raw)}
	}
	if cfg.TLS != nil {
		p.listener = tls.NewListener(l, cfg.TLS)
	}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Addr returns the proxy's own "host:port".
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Next gives the fault to the next so many commands of these names
// (space-separated).
func (p *Proxy) Next(times int, names string, f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.orders = append(p.orders, &order{strings.Fields(names), times, f})
}

// Each asks hook about every command but handshakes and checks; nil lets it
// through. [Proxy.Next] comes first. It replaces an earlier hook.
func (p *Proxy) Each(hook func(Command) *Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hook = hook
}

// Seen returns how many commands of that name clients have sent.
func (p *Proxy) Seen(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[name]
}

func (p *Proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

// track makes close end the connection. It returns false if it is too late.
func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
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

// serve passes messages on, one after the other, as drivers send them.
func (p *Proxy) serve(client net.Conn) {
	defer p.drop(client)
	if !p.track(client) {
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer p.drop(server)
	if !p.track(server) {
		return
	}
	for {
		message, err := readMessage(client)
		if err != nil || p.exchange(client, server, message) != nil {
			return
		}
	}
}

// exchange passes one message on and its answer back. After an error the
// connection is of no more use.
func (p *Proxy) exchange(client, server net.Conn, message []byte) error {
	c, ok := parseCommand(message)
	if !ok || c.silent {
		if _, err := server.Write(message); err != nil || c.silent {
			return err
		}
		return passBack(client, server)
	}
	f := p.fault(c)
	if f != nil && !f.Done {
		return answer(client, c, f, nil)
	}
	if p.set != nil {
		if own := p.set.remembered(c); own != nil {
			return answer(client, c, f, own)
		}
	}
	if _, err := server.Write(message); err != nil {
		return err
	}
	raw, err := readMessage(server)
	if err != nil {
		return err
	}
	own, more, ok := parseReply(raw)
	if !ok || more {
		if _, err := client.Write(raw); err != nil || !more {
			return err
		}
		return passBack(client, server)
	}
	if isHello(c) {
		return p.answerHello(client, c, own)
	}
	if p.set != nil {
		p.set.remember(c, own)
	}
	return answer(client, c, f, own)
}

func (p *Proxy) answerHello(client net.Conn, c Command, own bson.Raw) error {
	d := document(own)
	if p.set != nil {
		d = p.set.hello(own)
	}
	if p.cfg.Hello != nil {
		d = p.cfg.Hello(d)
	}
	return answer(client, c, &Fault{Done: true, Answer: func(bson.Raw) bson.D { return d }}, own)
}

// answer sends what the fault makes of the server's own answer, if there is a
// fault.
func answer(client net.Conn, c Command, f *Fault, own bson.Raw) error {
	if f != nil {
		if f.Answer == nil {
			return net.ErrClosed
		}
		raw, err := bson.Marshal(f.Answer(own))
		if err != nil {
			return err
		}
		own = raw
	}
	_, err := client.Write(c.reply(own))
	return err
}

// passBack passes the server's messages on until it has said all.
func passBack(client, server net.Conn) error {
	for {
		message, err := readMessage(server)
		if err != nil {
			return err
		}
		if _, err := client.Write(message); err != nil {
			return err
		}
		if _, more, ok := parseReply(message); !ok || !more {
			return nil
		}
	}
}

// fault returns what is to happen to the command; nil for nothing.
func (p *Proxy) fault(c Command) *Fault {
	p.mu.Lock()
	p.seen[c.Name]++
	hook := p.hook
	for _, o := range p.orders {
		if o.left > 0 && slices.Contains(o.names, c.Name) {
			o.left--
			p.mu.Unlock()
			return &o.fault
		}
	}
	p.mu.Unlock()
	if hook == nil || isHello(c) {
		return nil
	}
	return hook(c)
}

func isHello(c Command) bool {
	switch strings.ToLower(c.Name) {
	case "hello", "ismaster":
		return true
	}
	return false
}
