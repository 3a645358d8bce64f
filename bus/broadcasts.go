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
	// ObserveStatus is called for every status event that is heard, one after
	// the other. It must not block. One may be missed without a word.
	ObserveStatus(e events.Status)
	// ObserveRefreshed is called for every refreshed event, at least once over
	// all workers. nil means that it is done with; an error, that it should be
	// called again later.
	ObserveRefreshed(ctx context.Context, e events.Refreshed) error
	// Resync is called when bumps may have been missed: the connection was
	// lost, or is back, or bumps came faster than they were taken.
	Resync()
}

// broadcasts hears bumps and status events as they are sent.
type broadcasts struct {
	conn     *nats.Conn
	subjects events.Subjects
	observer Observer
	log      *slog.Logger

	subs   []*nats.Subscription
	closed []<-chan struct{} // the goroutine of each subscription has ended
	status chan nats.Status
	stop   chan struct{}
	wg     sync.WaitGroup
}

func hearBroadcasts(conn *nats.Conn, subjects events.Subjects, o Observer, log *slog.Logger) (*broadcasts, error) {
	b := &broadcasts{conn: conn, subjects: subjects, observer: o, log: log, stop: make(chan struct{})}
	// Before subscribing, so that no loss goes unnoticed.
	b.status = conn.StatusChanged(nats.CONNECTED, nats.RECONNECTING)
	bumps, err := b.subscribe(subjects.AllBumps(), b.hearBump)
	if err == nil {
		_, err = b.subscribe(subjects.AllStatus(), b.hearStatus)
	}
	if err != nil {
		b.close()
		return nil, fmt.Errorf("listen to broadcasts: %w", err)
	}
	// Active comes after SlowConsumer, when messages are taken again: what was
	// dropped until then is missed too.
	overflow := bumps.StatusChanged(nats.SubscriptionSlowConsumer, nats.SubscriptionActive)
	b.wg.Go(func() { b.watch(b.status, overflow) })
	return b, nil
}

func (b *broadcasts) subscribe(subject string, hear nats.MsgHandler) (*nats.Subscription, error) {
	sub, err := b.conn.Subscribe(subject, hear)
	if err != nil {
		return nil, err
	}
	b.subs, b.closed = append(b.subs, sub), append(b.closed, whenClosed(sub))
	return sub, nil
}

func (b *broadcasts) hearBump(m *nats.Msg) {
	e, err := events.DecodeBump(m.Data)
	if err == nil && m.Subject != b.subjects.Bump(e.Key) {
		err = fmt.Errorf("it is of %s", e.Key)
	}
	if err != nil {
		b.log.Warn("bump can't be read and is ignored", "subject", m.Subject, "error", err)
		return
	}
	b.observer.ObserveBump(e)
}

func (b *broadcasts) hearStatus(m *nats.Msg) {
	e, err := events.DecodeStatus(m.Data)
	if err == nil && m.Subject != b.subjects.Status(e.Key) {
		err = fmt.Errorf("it is of %s", e.Key)
	}
	if err != nil {
		b.log.Warn("status event can't be read and is ignored", "subject", m.Subject, "error", err)
		return
	}
	b.observer.ObserveStatus(e)
}

// watch calls Resync. A lost connection counts as well as one that is back:
// the first request after it may overtake the news that it is back.
func (b *broadcasts) watch(status <-chan nats.Status, overflow <-chan nats.SubStatus) {
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
		case <-b.stop:
			return
		}
		b.observer.Resync()
	}
}

// close stops listening and waits until the observer is called no more.
func (b *broadcasts) close() {
	close(b.stop)
	b.wg.Wait()
	b.conn.RemoveStatusListener(b.status)
	for i, sub := range b.subs {
		_ = sub.Unsubscribe() // gone with the connection otherwise
		<-b.closed[i]
	}
}
