package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

const (
	// answerMargin is how much sooner the worker is asked to give up than we
	// do, at most: so that its answer, which says more, arrives first.
	answerMargin = 250 * time.Millisecond
	// reconnectGrace is how long a request waits for a connection that is lost,
	// so that a server's restart goes unnoticed.
	reconnectGrace = 2 * time.Second
	// Another worker is asked when one has been silent for hedgeAfter, and again
	// each time that as long as until then has passed, or slowHedge, up to
	// mostRequests at once: NATS chooses who gets a request, and may choose one
	// that is frozen again. A worker that waits for a refresh is as silent, and each
	// request that it holds takes a place of those that it has for all platforms: so
	// they are few. They reach another than the frozen one of two workers in all but
	// one of 4,096 questions that wait for 10 s.
	hedgeAfter   = 250 * time.Millisecond
	slowHedge    = time.Second
	mostRequests = 12
	// One that fails is given mostFailures-1 others, after a short pause each.
	mostFailures = 3
	failurePause = 30 * time.Millisecond
)

// ask asks workers until one answers, and returns its reply or a typed error.
func (c *Client) ask(ctx context.Context, key account.Key, req events.TokenRequest, requests *int) (events.TokenReply, error) {
	for {
		if err := c.awaitConnection(ctx, key); err != nil {
			return events.TokenReply{}, err
		}
		reply, err := c.race(ctx, key, req, requests)
		if errors.Is(err, errLost) {
			continue // requests and replies went with the connection
		}
		return reply, err
	}
}

var errLost = errors.New("the connection was lost")

// answer is what one request brought.
type answer struct {
	reply events.TokenReply
	err   error
}

// race makes requests until there is an answer that another worker would not
// better: the later ones where the earlier are silent or have failed.
func (c *Client) race(ctx context.Context, key account.Key, req events.TokenRequest, requests *int) (events.TokenReply, error) {
	attempts, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	lost := c.link.lost()
	defer context.AfterFunc(lost, func() { cancel(errLost) })()
	defer c.trouble.watch(c.subjects.Request(key), func(err error) {
		cancel(unavailable(key, "NATS does not permit it: the key lacks the client role, or the inbox prefix is not the role's", err))
	})()
	answers := make(chan answer, mostRequests)
	sent, failures := 0, 0
	var last error // of a request that failed
	send := func() {
		sent++
		*requests++
		c.counts.requests.Add(1)
		go func() { answers <- c.request(attempts, key, req) }()
	}
	send()
	// All requests end when this returns; they are waited for, so that none
	// outlives Close.
	defer func() {
		cancel(nil)
		for ; sent > 0; sent-- {
			<-answers
		}
	}()
	pause := hedgeAfter
	next := time.NewTimer(pause)
	defer next.Stop()
	for {
		select {
		case a := <-answers:
			sent--
			if failures++; a.err == nil || !worthAnother(a.err) || failures == mostFailures {
				return a.reply, a.err
			}
			last = a.err
			next.Reset(failurePause<<failures/2 + rand.N(failurePause))
		case <-next.C:
			if sent < mostRequests {
				send()
			}
			next.Reset(pause)
			pause = min(2*pause, slowHedge)
		case <-attempts.Done():
			if lost.Err() != nil && ctx.Err() == nil {
				return events.TokenReply{}, errLost
			}
			if err, ok := errors.AsType[*Error](context.Cause(attempts)); ok {
				return events.TokenReply{}, err
			}
			if last != nil && c.life.Err() == nil {
				return events.TokenReply{}, last // which says more
			}
			return events.TokenReply{}, c.requestError(ctx, key, ctx.Err())
		}
	}
}

// worthAnother reports whether another worker may do better than one that
// answered with err.
func worthAnother(err error) bool {
	return errors.Is(err, ErrUnavailable) && !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, nats.ErrConnectionClosed) &&
		!errors.Is(err, nats.ErrMaxPayload) && !errors.Is(err, nats.ErrPermissionViolation)
}

// request makes one request.
func (c *Client) request(ctx context.Context, key account.Key, req events.TokenRequest) answer {
	req.Timeout = toldPatience(ctx)
	msg, err := c.nc.RequestWithContext(ctx, c.subjects.Request(key), req.Encode())
	if err != nil {
		if errors.Is(err, nats.ErrDisconnected) && ctx.Err() == nil { // a reconnect was asked for
			return answer{err: errLost}
		}
		return answer{err: c.requestError(ctx, key, err)}
	}
	reply, err := readReply(key, msg.Data, req)
	return answer{reply, err}
}

// readReply reads a worker's reply to req. What breaks the contract is
// ErrBadReply.
func readReply(key account.Key, body []byte, req events.TokenRequest) (events.TokenReply, error) {
	reply, err := events.DecodeTokenReply(key, body)
	if e, ok := errors.AsType[*events.Error](err); ok {
		return events.TokenReply{}, &Error{Key: key, Code: e.Code, Message: e.Message, RetryAfter: e.RetryAfter}
	}
	least := max(req.MinVersion, req.RejectedVersion+min(req.RejectedVersion, 1))
	switch {
	case err != nil:
		err = fmt.Errorf("%w: %w", ErrBadReply, err)
	case reply.NotModified && (req.KnownVersion == 0 || reply.Version != req.KnownVersion):
		err = fmt.Errorf("%w: it says that version %d is not modified; we hold %d", ErrBadReply, reply.Version, req.KnownVersion)
	case reply.Version < least:
		err = fmt.Errorf("%w: it has version %d; at least %d was asked for", ErrBadReply, reply.Version, least)
	default:
		return reply, nil
	}
	return events.TokenReply{}, unavailable(key, "the worker's reply makes no sense", err)
}

// toldPatience returns how long the worker may take: a little less than we wait.
func toldPatience(ctx context.Context) time.Duration {
	deadline, _ := ctx.Deadline()
	left := time.Until(deadline)
	return max(left-min(left/10, answerMargin), time.Millisecond).Round(time.Millisecond)
}

// awaitConnection waits a little for a connection that is lost.
func (c *Client) awaitConnection(ctx context.Context, key account.Key) error {
	if c.nc.IsConnected() {
		return nil
	}
	changes := c.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer c.nc.RemoveStatusListener(changes)
	grace := time.NewTimer(reconnectGrace)
	defer grace.Stop()
	if c.nc.IsConnected() { // before we listened
		return nil
	}
	if !c.nc.IsClosed() {
		select {
		case <-changes:
		case <-grace.C:
		case <-ctx.Done():
		}
	}
	if c.nc.IsConnected() {
		return nil
	}
	if ctx.Err() != nil {
		return c.requestError(ctx, key, ctx.Err())
	}
	return unavailable(key, "not connected to NATS", c.behind(nats.ErrDisconnected))
}

// requestError says why there is no reply.
func (c *Client) requestError(ctx context.Context, key account.Key, err error) error {
	switch {
	case c.life.Err() != nil:
		return ErrClosed
	case errors.Is(ctx.Err(), context.Canceled):
		if refused, ok := errors.AsType[*Error](context.Cause(ctx)); ok {
			return refused
		}
		return fmt.Errorf("token of %s: %w", key, context.Cause(ctx))
	case errors.Is(err, nats.ErrNoResponders):
		return unavailable(key, "no worker answers requests", err)
	case ctx.Err() == nil:
		return unavailable(key, "the request could not be sent", err)
	case !c.nc.IsConnected():
		return unavailable(key, "not connected to NATS", c.behind(ctx.Err()))
	}
	return &Error{Key: key, Code: events.CodeTimeout, Message: "no worker answered in time", cause: c.behind(ctx.Err())}
}
