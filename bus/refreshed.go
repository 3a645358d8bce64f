package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/events"
)

// refreshedConsumer is the durable consumer that all workers share.
const refreshedConsumer = "tokenbus-workers"

const (
	ackWait       = 12 * time.Second
	handleTimeout = 10 * time.Second // of one event; shorter than ackWait
	handlers      = 8                // events under way at once, per worker
	maxAttempts   = 100              // about eight hours

	giveBackTimeout = 2 * time.Second // for a server that is silent
)

// verdict is what to tell the stream about a message.
type verdict struct {
	action action
	delay  time.Duration // of a nak
}

type action string

const (
	ack  action = "ack"  // done with
	nak  action = "nak"  // again, after the delay
	term action = "term" // never again
)

var errUndecodable = errors.New("event can't be read")

// judge decides from the error of the nth delivery, counted from 1.
func judge(err error, attempt uint64) verdict {
	switch {
	case err == nil:
		return verdict{action: ack}
	case errors.Is(err, errUndecodable):
		return verdict{action: term}
	case errors.Is(err, context.Canceled):
		return verdict{action: nak} // we stop; another worker takes it
	case attempt >= maxAttempts:
		return verdict{action: term}
	}
	return verdict{nak, min(time.Second<<min(max(attempt, 1)-1, 9), 5*time.Minute)}
}

// refreshedListener takes refreshed events from the stream, together with the
// other workers.
type refreshedListener struct {
	js       jetstream.JetStream
	subjects events.Subjects
	observer Observer
	log      *slog.Logger
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

func startRefreshedListener(js jetstream.JetStream, subjects events.Subjects, o Observer, log *slog.Logger) *refreshedListener {
	ctx, cancel := context.WithCancel(context.Background())
	l := &refreshedListener{js: js, subjects: subjects, observer: o, log: log, cancel: cancel}
	l.wg.Go(func() { l.run(ctx) })
	return l
}

// close takes no more events, cancels those under way and waits for them.
func (l *refreshedListener) close() {
	l.cancel()
	l.wg.Wait()
}

// run consumes, and begins again when that fails, until ctx ends.
func (l *refreshedListener) run(ctx context.Context) {
	for attempt := 1; ; attempt++ {
		began := time.Now()
		err := l.consume(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Minute {
			attempt = 1
		}
		if attempt == 1 {
			l.log.Warn("refreshed events can't be taken; trying again until they can", "error", err)
		}
		pause := time.NewTimer(reconnectDelay(attempt))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
	}
}

func (l *refreshedListener) consume(ctx context.Context) error {
	consumer, err := l.consumer(ctx)
	if err != nil {
		return err
	}
	// A small buffer: what lies in it when a worker dies waits for ackWait.
	messages, err := consumer.Messages(jetstream.PullMaxMessages(2 * handlers))
	if err != nil {
		return err
	}
	defer l.giveBack(messages)
	var under sync.WaitGroup
	defer under.Wait()
	slots := make(chan struct{}, handlers)
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		slots <- struct{}{} // frees itself: every handler ends with ctx
		under.Go(func() {
			defer func() { <-slots }()
			l.handle(ctx, msg)
		})
	}
}

// giveBack hands buffered messages to other workers at once. Without a server
// they can't be, and the library would wait 10 s for one: they come after ackWait.
func (l *refreshedListener) giveBack(messages jetstream.MessagesContext) {
	if !l.js.Conn().IsConnected() {
		messages.Stop()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), giveBackTimeout)
	defer cancel()
	messages.Drain()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return
		}
		_ = msg.Nak()
	}
}

// consumer makes the shared consumer or adopts it as it is.
func (l *refreshedListener) consumer(ctx context.Context) (jetstream.Consumer, error) {
	want := jetstream.ConsumerConfig{
		Durable:       refreshedConsumer,
		Description:   "tokenbus: workers take changed credentials",
		FilterSubject: l.subjects.AllRefreshed(),
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxDeliver:    -1,
		MaxAckPending: 1000,
	}
	c, err := l.js.CreateConsumer(ctx, events.StreamEvents, want)
	if errors.Is(err, jetstream.ErrConsumerExists) || errors.Is(err, jetstream.ErrConsumerNameAlreadyInUse) {
		c, err = l.js.Consumer(ctx, events.StreamEvents, refreshedConsumer)
	}
	if err != nil {
		return nil, fmt.Errorf("consumer %s of stream %s: %w", refreshedConsumer, events.StreamEvents, err)
	}
	return c, nil
}

func (l *refreshedListener) handle(ctx context.Context, msg jetstream.Msg) {
	e, err := l.decode(msg)
	if err == nil {
		hctx, cancel := context.WithTimeout(ctx, handleTimeout)
		err = l.observer.ObserveRefreshed(hctx, e)
		cancel()
		if err != nil && ctx.Err() != nil {
			err = context.Canceled // whatever it was, we stop
		}
	}
	attempt := uint64(1)
	if meta, metaErr := msg.Metadata(); metaErr == nil {
		attempt = meta.NumDelivered
	}
	v := judge(err, attempt)
	switch v.action {
	case ack:
		err = msg.Ack()
	case nak:
		l.log.Debug("refreshed event comes again later", "subject", msg.Subject(), "attempt", attempt, "delay", v.delay, "error", err)
		err = msg.NakWithDelay(v.delay)
	case term:
		l.log.Warn("refreshed event is given up", "subject", msg.Subject(), "attempt", attempt, "error", err)
		err = msg.Term()
	}
	if err != nil {
		// It comes again, which harms nothing.
		l.log.Debug("stream can't be told about a refreshed event", "subject", msg.Subject(), "error", err)
	}
}

func (l *refreshedListener) decode(msg jetstream.Msg) (events.Refreshed, error) {
	e, err := events.DecodeRefreshed(msg.Data())
	if err == nil && msg.Subject() != l.subjects.Refreshed(e.Key) {
		err = fmt.Errorf("it is of %s", e.Key)
	}
	if err != nil {
		return e, fmt.Errorf("%w: %w", errUndecodable, err)
	}
	return e, nil
}
