package client

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go"
)

// link tells when the connection to NATS is lost.
type link struct {
	nc     *nats.Conn
	status chan nats.Status
	wg     sync.WaitGroup

	mu   sync.Mutex      // guards what follows
	now  context.Context //nolint:containedctx // ends when the connection is lost
	lose context.CancelFunc
}

func watch(nc *nats.Conn) *link {
	l := &link{nc: nc, status: nc.StatusChanged(nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)}
	l.now, l.lose = context.WithCancel(context.Background())
	l.wg.Go(func() {
		for range l.status { // until close
			l.mu.Lock()
			l.lose()
			l.now, l.lose = context.WithCancel(context.Background())
			l.mu.Unlock()
		}
	})
	return l
}

// up returns a context that ends when the connection is lost the next time.
func (l *link) up() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

// close stops watching.
func (l *link) close() {
	l.nc.RemoveStatusListener(l.status)
	l.wg.Wait()
	l.lose()
}
