package client

import (
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// mostPlatforms is up to how many platforms are listened to one by one; then to
// all at once.
const mostPlatforms = 16

// ears hears the bumps of the platforms that are used.
type ears struct {
	client *Client

	mu     sync.Mutex // guards what follows
	subs   map[string]*nats.Subscription
	all    bool
	closed bool
	ends   []<-chan struct{} // closed when a subscription's callback is called no more
}

func newEars(c *Client) *ears {
	return &ears{client: c, subs: map[string]*nats.Subscription{}}
}

// listen makes sure that the platform's bumps are heard from here on.
func (l *ears) listen(platform string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all || l.subs[platform] != nil {
		return nil
	}
	if l.closed {
		return ErrClosed
	}
	subject := strings.TrimSuffix(l.client.subjects.AllBumps(), ">") + platform + ".*"
	if len(l.subs) == mostPlatforms {
		subject = l.client.subjects.AllBumps()
	}
	sub, err := l.client.nc.Subscribe(subject, l.hear)
	if err != nil {
		return fmt.Errorf("listen to bumps: %w", err)
	}
	l.watch(sub)
	if len(l.subs) == mostPlatforms {
		for p, sub := range l.subs {
			_ = sub.Unsubscribe() // gone with the connection otherwise
			delete(l.subs, p)
		}
		platform, l.all = "", true
	}
	l.subs[platform] = sub
	return nil
}

// watch notices when bumps come faster than they are taken, and when the
// subscription has ended. The caller holds mu.
func (l *ears) watch(sub *nats.Subscription) {
	end := make(chan struct{})
	done := sync.OnceFunc(func() { close(end) })
	sub.SetClosedHandler(func(string) { done() })
	if !sub.IsValid() { // the connection was closed just now, and tells nobody
		done()
	}
	l.ends = append(l.ends, end)
	status := sub.StatusChanged(nats.SubscriptionSlowConsumer, nats.SubscriptionActive, nats.SubscriptionClosed)
	if !l.client.work.begin() {
		return
	}
	go func() {
		defer l.client.work.end()
		slow := false
		for s := range status { // closed with the subscription
			switch {
			case s == nats.SubscriptionSlowConsumer:
				slow = true
				l.client.missed("bumps came too fast")
			case s == nats.SubscriptionActive && slow: // what was dropped until now is missed too
				slow = false
				l.client.missed("bumps came too fast")
			}
		}
	}()
}

// hear is called for each bump, one after the other.
func (l *ears) hear(m *nats.Msg) {
	c := l.client
	name, ok := strings.CutPrefix(m.Subject, strings.TrimSuffix(c.subjects.AllBumps(), ">"))
	key, err := account.ParseKey(name)
	if !ok || err != nil || c.memory.get(key) == nil {
		return
	}
	b, err := events.DecodeBump(m.Data)
	if err != nil || b.Key != key {
		c.log.Warn("bump can't be read and is ignored", "subject", m.Subject, "error", err)
		return
	}
	c.hear(b)
}

// close stops listening and waits until hear is called no more.
func (l *ears) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, sub := range l.subs {
		_ = sub.Unsubscribe() // gone with the connection otherwise
	}
	for _, end := range l.ends {
		<-end
	}
}
