package coherence_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/events"
)

// verdict holds what was recorded against the rules.
func (fl *fleet) verdict(patience time.Duration) {
	fl.t.Helper()
	found := fl.record.judge(patience)
	fl.found = len(found)
	for i, v := range found {
		if i == 20 {
			fl.t.Errorf("and more")
			break
		}
		fl.t.Error(v)
	}
}

// want looks the account up, and expects a token. Which one, the rules say.
func (g *gateway) want(t *testing.T, key account.Key, opts ...client.Option) account.Version {
	t.Helper()
	token, err := g.Token(t.Context(), key, opts...)
	check(t, err)
	return token.Version
}

// heardOf waits until the client has heard of the version.
func (g *gateway) heardOf(t *testing.T, key account.Key, v account.Version) {
	t.Helper()
	eventually(t, "bump", func() bool {
		g.record.mu.Lock()
		defer g.record.mu.Unlock()
		return highest(g.record.heard).before(key, forever).version >= v
	})
}

// hearsAgain has the account rotated until the client, flooded before, hears of
// it. The library tells that messages are taken again with the next that is.
func (g *gateway) hearsAgain(t *testing.T, w *worker, key account.Key) {
	t.Helper()
	n := count(g.record, &g.record.heard)
	eventually(t, "bumps are heard again", func() bool {
		if err := w.rotate(t.Context(), key); err != nil {
			t.Error(err)
		}
		return within(50*time.Millisecond, func() bool { return count(g.record, &g.record.heard) > n })
	})
}

// heardOf waits until the worker has heard of the version.
func (w *worker) heardOf(t *testing.T, key account.Key, v account.Version) {
	t.Helper()
	eventually(t, "bump", func() bool {
		w.record.mu.Lock()
		defer w.record.mu.Unlock()
		return highest(w.record.heard).before(key, forever).version >= v
	})
}

// hold keeps the worker's first answer about the account to who has no version
// yet, until release is called. Others to him, whom the client asks for because
// the first doesn't come, are kept for good.
func (w *worker) hold(t *testing.T, key account.Key) (held <-chan struct{}, release func()) {
	first, open, end := make(chan struct{}), make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(end) })
	var n atomic.Int64
	f := func(k account.Key, req events.TokenRequest) *events.Error {
		switch {
		case k != key || req.MinVersion > 0:
		case n.Add(1) == 1:
			close(first)
			<-open
		default:
			<-end
		}
		return nil
	}
	w.holds.Store(&f)
	release = sync.OnceFunc(func() {
		w.holds.Store(nil)
		close(open)
	})
	t.Cleanup(release)
	return first, release
}

// waiting is the context of a look-up that tells when it has to wait: it is asked
// how long then, with the account locked.
type waiting struct {
	context.Context //nolint:containedctx // it is one
	begun           func()
}

func (w waiting) Deadline() (time.Time, bool) {
	w.begun()
	return w.Context.Deadline()
}

// beside looks the account up beside what else goes on; begun is closed when it
// waits for an answer, got when it has one.
func (g *gateway) beside(t *testing.T, key account.Key) (begun, got <-chan struct{}) {
	b, over := make(chan struct{}), make(chan struct{})
	ctx := waiting{t.Context(), sync.OnceFunc(func() { close(b) })}
	go func() {
		defer close(over)
		if _, err := g.Token(ctx, key); err != nil {
			t.Error(err)
		}
	}()
	return b, over
}

// scenarios bring about, one by one, what each rule is about. In none does max
// age save anybody, but in those that say so.
var scenarios = []struct {
	name     string
	workers  int
	patience time.Duration // with one question
	play     func(t *testing.T, fl *fleet)
}{
	{"a bump is heard", 1, forever, func(t *testing.T, fl *fleet) {
		key, c, w := fl.login(steady, "alice"), fl.clients[0], fl.workers[0]
		c.want(t, key)
		check(t, w.rotate(t.Context(), key))
		c.heardOf(t, key, 2)
		c.want(t, key)
	}},
	{"a reply is older than a bump", 1, forever, func(t *testing.T, fl *fleet) {
		key, c, w := fl.login(steady, "alice"), fl.clients[0], fl.workers[0]
		held, release := w.hold(t, key)
		_, first := c.beside(t, key)
		<-held
		check(t, w.rotate(t.Context(), key))
		c.heardOf(t, key, 2)
		begun, second := c.beside(t, key) // waits for the same answer
		<-begun
		release()
		<-first
		<-second
	}},
	{"a reply is older than one before it", 1, forever, func(t *testing.T, fl *fleet) {
		key, c, w := fl.login(steady, "alice"), fl.clients[0], fl.workers[0]
		held, release := w.hold(t, key)
		_, first := c.beside(t, key)
		<-held
		_, err := fl.loginUnheard(t.Context(), key) // no bump, which would do as well
		check(t, err)
		c.want(t, key, client.WithMinVersion(2))
		release()
		<-first
		c.want(t, key)
	}},
	{"a reply follows what was given", 1, 0, func(t *testing.T, fl *fleet) {
		// One look-up after the other, none from memory.
		key, w := fl.login(steady, "alice"), fl.workers[0]
		fl.cfg.clientAge = -1
		fl.startClient("forgetful")
		c := fl.clients[1]
		c.want(t, key)
		check(t, w.rotate(t.Context(), key))
		w.heardOf(t, key, 2)
		c.want(t, key)
		c.want(t, key)
	}},
	{"a client is cut off", 1, forever, func(t *testing.T, fl *fleet) {
		key, c, w := fl.login(steady, "alice"), fl.clients[0], fl.workers[0]
		c.want(t, key)
		c.link.Refuse(t)
		eventually(t, "cut off", func() bool { return !c.Stats().Connected })
		check(t, w.rotate(t.Context(), key))
		w.heardOf(t, key, 2)
		c.want(t, key)
		c.link.Heal(t)
		eventually(t, "back", func() bool {
			c.record.mu.Lock()
			defer c.record.mu.Unlock()
			n := len(c.record.noticed)
			return n > 0 && c.record.noticed[n-1].why == back
		})
		c.want(t, key)
		fl.settle(settled, key)
	}},
	{"a client is too slow", 1, forever, func(t *testing.T, fl *fleet) {
		key, other, c, w := fl.login(steady, "alice"), fl.login(steady, "bob"), fl.clients[0], fl.workers[0]
		c.want(t, key)
		c.want(t, other)
		release := c.tap.flood(false)
		defer release()
		check(t, w.rotate(t.Context(), other))
		eventually(t, "flooded", func() bool { return count(c.record, &c.record.flooded) > 0 && c.conn.Flush() == nil })
		check(t, w.rotate(t.Context(), key)) // of which nothing is heard
		w.heardOf(t, key, 2)
		check(t, c.conn.Flush())
		release()
		c.hearsAgain(t, w, other)
		fl.settle(settled, key)
	}},
	{"a worker hears a bump", 2, forever, func(t *testing.T, fl *fleet) {
		key, a, b := fl.login(steady, "alice"), fl.workers[0], fl.workers[1]
		b.ask(t, key, events.TokenRequest{})
		check(t, a.rotate(t.Context(), key))
		b.heardOf(t, key, 2)
		b.ask(t, key, events.TokenRequest{})
	}},
	{"a worker is cut off", 2, forever, func(t *testing.T, fl *fleet) {
		key, a, b := fl.login(steady, "alice"), fl.workers[0], fl.workers[1]
		b.ask(t, key, events.TokenRequest{})
		b.link.Refuse(t)
		eventually(t, "cut off", func() bool { return !b.conn.IsConnected() && b.record.cuts() > 0 })
		n := b.record.cuts()
		check(t, a.rotate(t.Context(), key))
		a.heardOf(t, key, 2)
		b.link.Heal(t)
		eventually(t, "back", func() bool { return b.conn.IsConnected() && b.record.cuts() > n })
		b.ask(t, key, events.TokenRequest{})
	}},
	{"a worker is behind what it is asked for", 1, forever, func(t *testing.T, fl *fleet) {
		key, w := fl.login(steady, "alice"), fl.workers[0]
		w.ask(t, key, events.TokenRequest{})
		_, err := fl.loginUnheard(t.Context(), key)
		check(t, err)
		w.ask(t, key, events.TokenRequest{MinVersion: 2})
	}},
}

// settled is how long a client may take to come to the newest version, where
// nothing is out of order: a moment, on a machine that is not too busy.
const settled = 20 * time.Second

func TestP4Scenario(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			fl := newFleet(t, config{workers: s.workers, clients: 1, workerAge: forever, clientAge: forever})
			s.play(t, fl)
			fl.verdict(s.patience)
		})
	}
}
