package client

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go"
)

// link notices when the connection to NATS is lost and when it is back, and
// catches up then.
type link struct {
	client *Client
	status chan nats.Status
	behind chan struct{} // there is something to catch up with

	mu   sync.Mutex      // guards what follows
	now  context.Context //nolint:containedctx // ends when the connection is lost
	lose context.CancelFunc
}

func newLink(c *Client) *link {
	l := &link{client: c, behind: make(chan struct{}, 1), status: c.nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)}
	l.now, l.lose = context.WithCancel(context.Background())
	c.work.begin()
	go func() { defer c.work.end(); l.watch() }()
	c.work.begin()
	go func() { defer c.work.end(); l.catchUp() }()
	return l
}

// watch takes in what becomes of the connection, until close. A loss counts as
// well as a return: what was held before is served while we are cut off, and not
// after.
func (l *link) watch() {
	for status := range l.status {
		if l.client.life.Err() != nil {
			continue
		}
		if status == nats.CONNECTED {
			l.client.missed("connected again")
			continue
		}
		l.client.missed("connection lost")
		l.mu.Lock()
		l.lose()
		l.now, l.lose = context.WithCancel(context.Background())
		l.mu.Unlock()
	}
}

// lost returns a context that ends when the connection is lost the next time.
func (l *link) lost() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

// catchUpSoon asks for catching up.
func (l *link) catchUpSoon() {
	select {
	case l.behind <- struct{}{}:
	default: // asked for already
	}
}

// close stops watching; the client's life has ended.
func (l *link) close() {
	l.client.nc.RemoveStatusListener(l.status)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose()
}
