package client

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// mostPlatforms is up to how many platforms are listened to one by one; then to
// all at once.
const mostPlatforms = 16

// mostBusy is how long a refresh is believed to run that nothing more is heard
// of, whatever the clock says that announced it.
const mostBusy = time.Minute

// ears hears the bumps of the platforms that are used, and the status events that
// say that a refresh ends the old token at once.
type ears struct {
	client *Client

	mu     sync.Mutex                      // guards what follows
	subs   map[string][]*nats.Subscription // of a platform; of "" where it is all of them
	all    bool
	closed bool
	ends   []<-chan struct{} // closed when a subscription's callback is called no more
}

func newEars(c *Client) *ears {
	return &ears{client: c, subs: map[string][]*nats.Subscription{}}
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
	these := platform + ".*"
	if l.all = len(l.subs) == mostPlatforms; l.all {
		platform, these = "", ">"
	}
	before := l.subs
	subjects := l.client.subjects
	for all, hear := range map[string]nats.MsgHandler{subjects.AllBumps(): l.hearBump, subjects.AllStatus(): l.hearStatus} {
		sub, err := l.client.nc.Subscribe(strings.TrimSuffix(all, ">")+these, hear)
		if err != nil {
			l.all = false
			return fmt.Errorf("listen to bumps: %w", err) // the connection is closed: so is what was made
		}
		l.watch(sub)
		l.subs[platform] = append(l.subs[platform], sub)
	}
	if l.all {
		l.subs = map[string][]*nats.Subscription{"": before[""]}
		delete(before, "")
		unsubscribe(before)
	}
	return nil
}

func unsubscribe(subs map[string][]*nats.Subscription) {
	for _, some := range subs {
		for _, sub := range some {
			_ = sub.Unsubscribe() // gone with the connection otherwise
		}
	}
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
		// Statuses come and go faster than the library keeps them for us: the
		// count tells.
		dropped := 0
		for {
			select {
			case <-end: // the connection was closed: the library forgets to close status
				return
			case _, ok := <-status: // closed with the subscription
				if !ok {
					return
				}
			}
			if n, err := sub.Dropped(); err == nil && n != dropped {
				dropped = n
				l.client.missed("bumps came too fast")
			}
		}
	}()
}

// known returns the account that a message is about, if memory has it.
func (l *ears) known(m *nats.Msg, all string) *entry {
	name, _ := strings.CutPrefix(m.Subject, strings.TrimSuffix(all, ">"))
	key, err := account.ParseKey(name)
	if err != nil {
		return nil
	}
	return l.client.memory.get(key)
}

// hearBump is called for each bump, one after the other.
func (l *ears) hearBump(m *nats.Msg) {
	e := l.known(m, l.client.subjects.AllBumps())
	if e == nil {
		return
	}
	b, err := events.DecodeBump(m.Data)
	if err != nil || b.Key != e.key {
		l.client.log.Warn("bump can't be read and is ignored", "subject", m.Subject, "error", err)
		return
	}
	l.client.hear(b)
}

// hearStatus is called for each status event, one after the other. What changes
// a status comes as a bump too, so one code alone counts.
func (l *ears) hearStatus(m *nats.Msg) {
	e := l.known(m, l.client.subjects.AllStatus())
	if e == nil {
		return
	}
	status, err := events.DecodeStatus(m.Data)
	if err != nil || status.Key != e.key {
		l.client.log.Warn("status event can't be read and is ignored", "subject", m.Subject, "error", err)
		return
	}
	s := l.client.situation()
	until := instant(0) // any other news ends it
	if status.Code == events.StatusRefreshing {
		until = s.at + min(max(status.Until.Sub(s.now.Round(0)), 0), mostBusy)
	}
	if e = l.client.memory.find(status.Key); e == nil {
		return
	}
	defer e.mu.Unlock()
	if until != 0 || e.busy != 0 {
		e.hearBusy(until)
	}
}

// close stops listening and waits until hear is called no more.
func (l *ears) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	unsubscribe(l.subs)
	for _, end := range l.ends {
		<-end
	}
}
