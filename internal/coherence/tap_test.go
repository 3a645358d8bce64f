package coherence_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// tap records what passes between a client and its NATS server, and tells when
// a bump was taken in: see the package comment. It makes the client's connections
// and takes its log.
type tap struct {
	record   *clientRecord
	subjects events.Subjects

	mu      sync.Mutex // guards what follows
	marks   []event    // by their number: the bump before it
	floods  bool       // with the next bump
	choppy  bool       // says how
	flooded bool       // it has
	gate    chan struct{}
}

var (
	_ nats.CustomDialer = (*tap)(nil)
	_ slog.Handler      = (*tap)(nil)
)

// Dial implements [nats.CustomDialer].
func (t *tap) Dial(network, address string) (net.Conn, error) {
	conn, err := net.DialTimeout(network, address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return &tapped{Conn: conn, tap: t}, nil
}

// flood lets the client be flooded behind the next bump: its callback stands
// still until release is called, and what comes meanwhile is dropped. A choppy
// flood is dropped in part, so that the library says many times that it drops.
func (t *tap) flood(choppy bool) (release func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	gate := make(chan struct{})
	t.floods, t.choppy, t.gate = true, choppy, gate
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.floods, t.gate = false, nil
		if t.flooded { // until now
			add(t.record, &t.record.flooded, t.record.now())
		}
		t.flooded = false
		close(gate)
	})
}

// mark returns what to put behind the frame of a bump: the message that tells
// that it was taken in, and perhaps many more.
func (t *tap) mark(b events.Bump, subject, sid string) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	body := fmt.Sprintf(`{"platform":"mark","id":"#%d"}`, len(t.marks))
	t.marks = append(t.marks, event{key: b.Key, version: b.Version})
	out := frame(subject, sid, []byte(body))
	if !t.floods {
		return out
	}
	t.floods, t.flooded = false, true
	const most = 1 << 20
	fill := func(n int) { out = append(out, frame(subject, sid, bytes.Repeat([]byte{'x'}, n))...) }
	for left := nats.DefaultSubPendingBytesLimit - len(body); left > 0; left -= most { // the mark counts until it is dealt with
		fill(min(left, most))
	}
	for n := most; t.choppy && n > 0; n /= 2 {
		fill(n) // is dropped or not, in turn
	}
	add(t.record, &t.record.flooded, t.record.now())
	return out
}

func frame(subject, sid string, body []byte) []byte {
	return append(append(fmt.Appendf(nil, "MSG %s %s %d\r\n", subject, sid, len(body)), body...), "\r\n"...)
}

var markNumber = regexp.MustCompile(`"mark\.#(\d+)"`)

// Handle implements [slog.Handler]: it takes the client's own log.
func (t *tap) Handle(_ context.Context, r slog.Record) error {
	switch {
	case strings.HasPrefix(r.Message, "bump can't be read"):
		r.Attrs(func(a slog.Attr) bool {
			if m := markNumber.FindStringSubmatch(a.Value.String()); m != nil {
				t.marked(m[1])
			}
			return true
		})
	case strings.HasPrefix(r.Message, "bump names a version that the fleet doesn't have"):
		e := event{at: t.record.now()}
		r.Attrs(func(a slog.Attr) bool {
			switch a.Key {
			case "account":
				e.key, _ = account.ParseKey(a.Value.String())
			case "version":
				e.version = account.Version(a.Value.Int64())
			}
			return true
		})
		add(t.record, &t.record.refuted, e)
	}
	return nil
}

// marked takes in that the bump with this number was heard.
func (t *tap) marked(number string) {
	n, err := strconv.Atoi(number)
	t.mu.Lock()
	if err != nil || n >= len(t.marks) {
		t.mu.Unlock()
		return
	}
	e, gate := t.marks[n], t.gate
	t.mu.Unlock()
	e.at = t.record.now()
	add(t.record, &t.record.heard, e)
	if gate != nil {
		<-gate
	}
}

func (t *tap) Enabled(context.Context, slog.Level) bool { return true }
func (t *tap) WithAttrs([]slog.Attr) slog.Handler       { return t }
func (t *tap) WithGroup(string) slog.Handler            { return t }

// tapped is one connection. Its methods are called as nats.go does: one Read at
// a time, and one Write.
type tapped struct {
	net.Conn
	tap *tap

	buf     [32 << 10]byte
	in, out []byte // of what was read: not yet understood, and to be handed on
	err     error  // after that
	written []byte // not yet understood

	up   bool // the server has greeted
	once atomic.Bool
}

// Read implements [net.Conn]. It hands on whole frames.
func (c *tapped) Read(p []byte) (int, error) {
	for len(c.out) == 0 {
		if c.err != nil {
			c.ended()
			return 0, c.err
		}
		var n int
		n, c.err = c.Conn.Read(c.buf[:])
		c.in = append(c.in, c.buf[:n]...)
		c.in = frames(c.in, func(f message) {
			c.out = append(c.out, f.raw...)
			c.received(f)
		})
	}
	n := copy(p, c.out)
	c.out = c.out[n:]
	return n, nil
}

// Write implements [net.Conn].
func (c *tapped) Write(p []byte) (int, error) {
	c.written = frames(append(c.written, p...), c.sent)
	n, err := c.Conn.Write(p)
	if err != nil {
		c.ended()
	}
	return n, err
}

// Close implements [net.Conn].
func (c *tapped) Close() error {
	c.ended()
	return c.Conn.Close()
}

func (c *tapped) ended() {
	if r := c.tap.record; !c.once.Swap(true) {
		add(r, &r.closed, r.now())
	}
}

// message is one frame of the protocol, either way.
type message struct {
	raw     []byte
	verb    string
	subject string
	sid     string // of a message to us
	body    []byte
}

// frames calls f for each whole frame in data and returns what is left.
func frames(data []byte, f func(message)) (rest []byte) {
	for {
		end := bytes.Index(data, []byte("\r\n"))
		if end < 0 {
			return data
		}
		m := message{}
		words := strings.Fields(string(data[:end]))
		if len(words) > 0 {
			m.verb = words[0]
		}
		end += 2
		switch m.verb {
		case "MSG", "HMSG", "PUB", "HPUB":
			size, _ := strconv.Atoi(words[len(words)-1])
			if len(data) < end+size+2 {
				return data
			}
			head := 0
			if m.verb[0] == 'H' {
				head, _ = strconv.Atoi(words[len(words)-2])
			}
			m.subject, m.sid = words[1], words[2]
			m.body = data[end+head : end+size]
			end += size + 2
		}
		m.raw = data[:end]
		f(m)
		data = data[end:]
	}
}

// received takes in what came from the server.
func (c *tapped) received(m message) {
	r := c.tap.record
	root := strings.TrimSuffix(c.tap.subjects.AllBumps(), ">")
	switch {
	case m.verb == "PONG" && !c.up: // to what we greeted with
		c.up = true
		add(r, &r.dialed, r.now())
	case strings.HasPrefix(m.subject, root):
		if b, err := events.DecodeBump(m.body); err == nil {
			c.out = append(c.out, c.tap.mark(b, m.subject, m.sid)...)
		}
	case bytes.HasPrefix(m.body, []byte(`{"bumps":`)):
		if reply, err := events.DecodeCatchUpReply(m.body); err == nil {
			for _, b := range reply.Bumps {
				add(r, &r.caught, event{r.now(), b.Key, b.Version})
			}
		}
	}
}

// sent takes in what goes to the server.
func (c *tapped) sent(m message) {
	if m.verb != "PUB" && m.verb != "HPUB" {
		return
	}
	key, err := c.tap.subjects.ParseRequest(m.subject)
	if err != nil {
		return
	}
	if req, err := events.DecodeTokenRequest(m.body); err == nil {
		r := c.tap.record
		add(r, &r.asked, event{r.now(), key, req.MinVersion})
	}
}
