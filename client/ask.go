package client

import (
	"context"
	"errors"
	"fmt"
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
)

// ask makes one request for a version of at least floor.
func (c *Client) ask(ctx context.Context, key account.Key, req events.TokenRequest, floor account.Version) (events.TokenReply, error) {
	req.MinVersion = floor
	if err := c.awaitConnection(ctx, key); err != nil {
		return events.TokenReply{}, err
	}
	req.Timeout = patience(ctx)
	msg, err := c.request(ctx, c.subjects.Request(key), req.Encode())
	if errors.Is(err, errLost) {
		// The request or its reply went with the connection. Asking twice for a
		// token is harmless.
		return c.ask(ctx, key, req, floor)
	}
	if err != nil {
		return events.TokenReply{}, c.requestError(ctx, key, err)
	}
	reply, err := events.DecodeTokenReply(key, msg.Data)
	if e, ok := errors.AsType[*events.Error](err); ok {
		return events.TokenReply{}, &Error{Key: key, Code: e.Code, Message: e.Message, RetryAfter: e.RetryAfter}
	}
	switch {
	case err != nil:
		return events.TokenReply{}, unavailable(key, "the worker's reply makes no sense", err)
	case reply.NotModified:
		return events.TokenReply{}, unavailable(key, "the worker's reply has no token", nil)
	case reply.Version < floor:
		return events.TokenReply{}, unavailable(key, fmt.Sprintf("the worker's reply has version %d; at least %d was asked for", reply.Version, floor), nil)
	}
	return reply, nil
}

var errLost = errors.New("the connection was lost")

// request makes one request, and ends with errLost when the connection is lost
// before the reply is there.
func (c *Client) request(ctx context.Context, subject string, body []byte) (*nats.Msg, error) {
	attempt, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.link.up(), func() { cancel(errLost) })()
	msg, err := c.nc.RequestWithContext(attempt, subject, body)
	// The library itself ends requests only when a reconnect was asked for.
	if err != nil && ctx.Err() == nil && (context.Cause(attempt) == errLost || errors.Is(err, nats.ErrDisconnected)) {
		return nil, errLost
	}
	return msg, err
}

// patience returns how long the worker may take: a little less than we wait.
func patience(ctx context.Context) time.Duration {
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
	return unavailable(key, "not connected to NATS", nats.ErrDisconnected)
}

// requestError says why a request brought no reply.
func (c *Client) requestError(ctx context.Context, key account.Key, err error) error {
	switch {
	case c.life.Err() != nil:
		return ErrClosed
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("token of %s: %w", key, context.Cause(ctx))
	case errors.Is(err, nats.ErrNoResponders):
		return unavailable(key, "no worker answers requests", err)
	case ctx.Err() == nil:
		return unavailable(key, "the request could not be sent", err)
	case !c.nc.IsConnected():
		return unavailable(key, "not connected to NATS", ctx.Err())
	}
	return &Error{Key: key, Code: events.CodeTimeout, Message: "no worker answered in time", cause: ctx.Err()}
}
