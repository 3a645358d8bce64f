package bus

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/events"
)

// Observer is told what other workers announce.
type Observer interface {
	// ObserveBump is called for every bump that is heard, one after the other.
	// It must not block.
	ObserveBump(b events.Bump)
	// ObserveRefreshed is called for every refreshed event, at least once over
	// all workers. nil means that it is done with; an error, that it should be
	// called again later.
	ObserveRefreshed(ctx context.Context, e events.Refreshed) error
	// Resync is called when bumps may have been missed: the connection was
	// lost, or is back, or bumps came faster than they were taken.
	Resync()
}

// bumpListener hears bumps as they are broadcast.
type bumpListener struct {
	conn     *nats.Conn
	subjects events.Subjects
	observer Observer
	log      *slog.Logger

	sub    *nats.Subscription
	closed <-chan struct{} // the subscription's goroutine has ended
	status chan nats.Status
	stop   chan struct{}
	wg     sync.WaitGroup
}

func startBumpListener(conn *nats.Conn, subjects events.Subjects, o Observer, log *slog.Logger) (*bumpListener, error) {
	l := &bumpListener{
		conn: conn, subjects: subjects, observer: o, log: log,
		stop: make(chan struct{}),
	}
	// Before subscribing, so that no loss goes unnoticed.
	l.status = conn.StatusChanged(nats.CONNECTED, nats.RECONNECTING)
	sub, err := conn.Subscribe(subjects.AllBumps(), l.hear)
	if err != nil {
		conn.RemoveStatusListener(l.status)
		return nil, fmt.Errorf("listen to bumps: %w", err)
	}
	l.sub, l.closed = sub, whenClosed(sub)
	// Active comes after SlowConsumer, when messages are taken again: what was
	// dropped until then is missed too.
	overflow := sub.StatusChanged(nats.SubscriptionSlowConsumer, nats.SubscriptionActive)
	l.wg.Go(func() { l.watch(l.status, overflow) })
	return l, nil
}

func (l *bumpListener) hear(m *nats.Msg) {
	b, err := events.DecodeBump(m.Data)
	if err == nil && m.Subject != l.subjects.Bump(b.Key) {
		err = fmt.Errorf("it is of %s", b.Key)
	}
	if err != nil {
		l.log.Warn("bump can't be read and is ignored", "subject", m.Subject, "error", err)
		return
	}
	l.observer.ObserveBump(b)
}

// watch calls Resync. A lost connection counts as well as one that is back:
// the first request after it may overtake the news that it is back.
func (l *bumpListener) watch(status <-chan nats.Status, overflow <-chan nats.SubStatus) {
	for {
		select {
		case _, ok := <-status:
			if !ok {
				status = nil
				continue
			}
		case _, ok := <-overflow:
			if !ok {
				overflow = nil
				continue
			}
		case <-l.stop:
			return
		}
		l.observer.Resync()
	}
}

// close stops listening and waits until the observer is called no more.
func (l *bumpListener) close() {
	close(l.stop)
	l.wg.Wait()
	l.conn.RemoveStatusListener(l.status)
	_ = l.sub.Unsubscribe() // gone with the connection otherwise
	<-l.closed
}
