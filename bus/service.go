package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/tokenbus/tokenbus/events"
)

// serviceConfig describes a service that the NATS micro protocol can find.
type serviceConfig struct {
	conn        *nats.Conn
	name        string
	version     string
	description string
	metadata    map[string]string
	queue       string // group of every endpoint
	// own is what the bus's own subjects begin with: answers never go there.
	own         string
	maxInFlight int // answers under way at once, over all endpoints
	endpoints   []endpoint
	log         *slog.Logger
}

// endpoint is one subject that a service answers.
type endpoint struct {
	name, subject string
	// prepare runs on the subscription's goroutine, one message after the
	// other. It returns the answer, or an error, or work that must wait and
	// then returns either. It must not keep the message's data after work.
	prepare func(m *nats.Msg) (answer []byte, work work, err error)
}

// work begins to look for an answer, on the subscription's goroutine, and must
// not block. It calls done once, from any goroutine, soon when ctx ends.
type work func(ctx context.Context, done func(answer []byte, err error))

// busyRetryAfter is what an asker is told when too many wait already, and
// tooLargeRetryAfter where somebody has to change something first.
const (
	busyRetryAfter     = time.Second
	tooLargeRetryAfter = time.Minute
)

// service answers requests on its endpoints until it is stopped.
type service struct {
	cfg     serviceConfig
	id      string
	started time.Time
	// ctx is the context of all work; cancelled when the time to stop is up.
	ctx    context.Context //nolint:containedctx // the lifetime of the service, not of a call
	cancel context.CancelFunc

	running   []*running
	discovery []*nats.Subscription
	slots     chan struct{} // one taken by each work under way
	refused   atomic.Int64  // requests that found no slot, or a service that stops

	mu       sync.Mutex // guards stopped, and that work begins only before it
	stopped  bool
	inFlight sync.WaitGroup
}

// running is an endpoint with its subscription and statistics.
type running struct {
	endpoint
	sub    *nats.Subscription
	closed <-chan struct{} // the subscription's goroutine has ended

	requests, errors atomic.Int64
	waited           atomic.Int64 // nanoseconds spent in work
	lastError        atomic.Pointer[string]
	tooLarge         atomic.Bool // the log has it
}

// startService subscribes the endpoints and answers discovery.
func startService(cfg serviceConfig) (*service, error) {
	s := &service{
		cfg:     cfg,
		id:      nuid.Next(),
		started: time.Now().UTC(),
		slots:   make(chan struct{}, cfg.maxInFlight),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	err := s.subscribeDiscovery()
	for _, e := range cfg.endpoints {
		if err == nil {
			err = s.subscribe(e)
		}
	}
	if err != nil {
		s.cancel()
		s.unsubscribe()
		return nil, fmt.Errorf("start service %s: %w", cfg.name, err)
	}
	return s, nil
}

func (s *service) subscribe(e endpoint) error {
	r := &running{endpoint: e}
	sub, err := s.cfg.conn.QueueSubscribe(e.subject, s.cfg.queue, func(m *nats.Msg) { s.serve(r, m) })
	if err != nil {
		return err
	}
	r.sub, r.closed = sub, whenClosed(sub)
	s.running = append(s.running, r)
	return nil
}

// whenClosed returns a channel that is closed when the subscription's callback
// is called no more.
func whenClosed(sub *nats.Subscription) <-chan struct{} {
	ch := make(chan struct{})
	done := sync.OnceFunc(func() { close(ch) })
	sub.SetClosedHandler(func(string) { done() })
	if !sub.IsValid() { // the connection was closed just now, and tells nobody
		done()
	}
	return ch
}

// answerable reports whether an answer may go to the reply subject. It goes
// there with our permissions, so it must be no subject that means something.
func (s *service) answerable(reply string) bool {
	return reply != "" && reply[0] != '$' && !strings.HasPrefix(reply, s.cfg.own)
}

func (s *service) serve(r *running, m *nats.Msg) {
	if !s.answerable(m.Reply) {
		return
	}
	r.requests.Add(1)
	answer, work, err := r.prepare(m)
	if work == nil {
		s.answer(r, m.Reply, answer, err)
		return
	}
	if !s.begin() {
		s.refused.Add(1)
		s.answer(r, m.Reply, nil, &events.Error{Code: events.CodeUnavailable, Message: "the worker has too much to do, or stops", RetryAfter: busyRetryAfter})
		return
	}
	reply, start := m.Reply, time.Now()
	work(s.ctx, func(answer []byte, err error) {
		r.waited.Add(int64(time.Since(start)))
		s.answer(r, reply, answer, err)
		s.end()
	})
}

// begin takes a slot for one work; false if there is none or the service has
// stopped.
func (s *service) begin() bool {
	select {
	case s.slots <- struct{}{}:
	default:
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		<-s.slots
		return false
	}
	s.inFlight.Add(1)
	return true
}

func (s *service) end() {
	<-s.slots
	s.inFlight.Done()
}

// answer sends the answer or the error, and counts.
func (s *service) answer(r *running, reply string, answer []byte, err error) {
	if err == nil {
		if err = s.cfg.conn.Publish(reply, answer); errors.Is(err, nats.ErrMaxPayload) {
			err = s.sendError(r, reply, s.tooLarge(r, len(answer)))
		}
	} else {
		err = s.sendError(r, reply, err)
	}
	if err != nil {
		r.errors.Add(1)
		r.lastError.Store(new(err.Error()))
	}
}

// sendError sends err as the contract has it, and returns what it has become.
func (s *service) sendError(r *running, reply string, err error) error {
	e := wireError(err)
	if e.Code == events.CodeUnavailable && !isWire(err) {
		s.cfg.log.Error("request failed with an error that has no code", "endpoint", r.name, "error", err)
	}
	if err := s.cfg.conn.PublishMsg(&nats.Msg{Subject: reply, Header: e.Header(), Data: e.Encode()}); err != nil {
		return err
	}
	return e
}

// tooLarge returns the error that stands for an answer of n bytes, which the
// server doesn't take.
func (s *service) tooLarge(r *running, n int) error {
	most := s.cfg.conn.MaxPayload()
	if !r.tooLarge.Swap(true) {
		s.cfg.log.Error("answer is larger than the NATS server takes; an error is sent instead, also for those that follow",
			"endpoint", r.name, "bytes", n, "max_payload", most)
	}
	return events.Unavailable(tooLargeRetryAfter, "the answer has %d bytes, and the NATS server takes %d (max_payload); of a list, ask for less at once", n, most)
}

// wireError returns err as the contract has it.
func wireError(err error) *events.Error {
	e, ok := errors.AsType[*events.Error](err)
	if !ok {
		e = &events.Error{Code: events.CodeUnavailable, Message: "the worker failed; its log says why"}
	}
	if e.RetryAfter == 0 && (e.Code == events.CodeUnavailable || e.Code == events.CodeCoolingDown) {
		e = &events.Error{Code: e.Code, Message: e.Message, RetryAfter: busyRetryAfter}
	}
	return e
}

func isWire(err error) bool { _, ok := errors.AsType[*events.Error](err); return ok }

// drain leaves the queue groups, answers what was taken, and waits for it.
// When ctx ends, what is under way is cancelled and its error sent.
func (s *service) drain(ctx context.Context) error {
	var problems []error
	for _, r := range s.running {
		leave := r.sub.Drain
		if !s.cfg.conn.IsConnected() {
			leave = r.sub.Unsubscribe // nothing more comes, and nothing gets through
		}
		if err := leave(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrBadSubscription) {
			problems = append(problems, fmt.Errorf("leave %s: %w", r.subject, err))
		}
	}
	for _, r := range s.running {
		select {
		case <-r.closed:
		case <-ctx.Done():
			problems = append(problems, fmt.Errorf("leave %s: %w", r.subject, ctx.Err()))
		}
	}
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	problems = append(problems, s.waitForWork(ctx))
	s.unsubscribe()
	if err := flush(ctx, s.cfg.conn); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		problems = append(problems, fmt.Errorf("send the last answers: %w", err))
	}
	s.cancel()
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("stop service %s: %w", s.cfg.name, err)
	}
	return nil
}

// cancelGrace is how long cancelled work may take to end.
const cancelGrace = 2 * time.Second

func (s *service) waitForWork(ctx context.Context) error {
	done := make(chan struct{})
	go func() { s.inFlight.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	n := len(s.slots)
	s.cancel()
	select {
	case <-done:
	case <-time.After(cancelGrace):
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d requests were cut short: %w", n, ctx.Err())
}

func (s *service) unsubscribe() {
	for _, sub := range s.discovery {
		_ = sub.Unsubscribe() // gone with the connection otherwise
	}
	for _, r := range s.running {
		_ = r.sub.Unsubscribe()
	}
}
