package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

const (
	// catchUpsAtOnce is how many requests read the stream at once, catchUpsWaiting
	// how many there may be with those that wait for it: at most, and no more than a
	// quarter of the places that they share with requests for tokens.
	catchUpsAtOnce  = 2
	catchUpsWaiting = 128
	// catchUpPatience is how long one may take, a little less than clients wait.
	catchUpPatience = 4 * time.Second
)

// catchUps answers with the last bumps of accounts. Who asks could read them from
// the stream himself; but JetStream, which may do everything, would then answer
// to whatever subject he names.
type catchUps struct {
	conn     *nats.Conn
	subjects events.Subjects

	waiting, reading chan struct{} // one taken by each request

	mu     sync.Mutex // guards what follows
	own    *nats.Conn // see connection
	closed bool
}

func newCatchUps(conn *nats.Conn, subjects events.Subjects, places int) *catchUps {
	return &catchUps{
		conn: conn, subjects: subjects,
		waiting: make(chan struct{}, min(catchUpsWaiting, max(places/4, catchUpsAtOnce))), reading: make(chan struct{}, catchUpsAtOnce),
	}
}

func (c *catchUps) endpoint() endpoint {
	return endpoint{
		name:    "catchup",
		subject: c.subjects.AllCatchUps(),
		prepare: func(m *nats.Msg) ([]byte, work, error) {
			platform, _ := strings.CutPrefix(m.Subject, c.subjects.CatchUp(""))
			keys, err := events.DecodeCatchUpRequest(platform, m.Data)
			if err != nil {
				return nil, nil, err
			}
			return nil, func(ctx context.Context, done func([]byte, error)) {
				select {
				case c.waiting <- struct{}{}:
				default:
					done(nil, errTooManyCatchUps)
					return
				}
				go func() {
					defer func() { <-c.waiting }()
					done(c.answer(ctx, keys))
				}()
			}, nil
		},
	}
}

var errTooManyCatchUps = events.Unavailable(busyRetryAfter, "too many clients catch up at once")

func (c *catchUps) answer(ctx context.Context, keys []account.Key) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, catchUpPatience)
	defer cancel()
	select {
	case c.reading <- struct{}{}:
		defer func() { <-c.reading }()
	case <-ctx.Done():
		return nil, errTooManyCatchUps
	}
	reply, err := c.read(ctx, keys)
	if err != nil {
		return nil, events.Unavailable(busyRetryAfter, "the last bumps can't be read: %v", explain(events.StreamBumps, err))
	}
	return reply.Encode(), nil
}

// read reads the accounts' last bumps from whichever replica answers. One that
// can't be read is left out.
func (c *catchUps) read(ctx context.Context, keys []account.Key) (events.CatchUpReply, error) {
	var reply events.CatchUpReply
	if len(keys) == 0 {
		return reply, nil
	}
	conn, err := c.connection()
	if err != nil {
		return reply, err
	}
	inbox, err := conn.SubscribeSync(conn.NewInbox())
	if err != nil {
		return reply, err
	}
	defer func() { _ = inbox.Unsubscribe() }()
	var req struct {
		MultiLast []string `json:"multi_last"`
	}
	for _, key := range keys {
		req.MultiLast = append(req.MultiLast, c.subjects.Bump(key))
	}
	body, _ := json.Marshal(req) // strings
	if err := conn.PublishRequest("$JS.API.DIRECT.GET."+events.StreamBumps, inbox.Subject, body); err != nil {
		return reply, err
	}
	for {
		m, err := inbox.NextMsgWithContext(ctx)
		if err != nil {
			return reply, err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
			if b, err := events.DecodeBump(m.Data); err == nil && c.subjects.Bump(b.Key) == m.Header.Get("Nats-Subject") {
				reply.Bumps = append(reply.Bumps, b)
			}
		case "204", "404": // the end; none of them has a bump
			return reply, nil
		case "503":
			return reply, nats.ErrNoResponders
		default:
			return reply, fmt.Errorf("the server says %s %s", status, m.Header.Get("Description"))
		}
	}
}

// connection returns a connection to read the stream on. It is not the worker's:
// the server does nothing else for a connection while it reads a thousand bumps
// for it, and the answers to requests for tokens would wait.
func (c *catchUps) connection() (*nats.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nats.ErrConnectionClosed
	}
	if c.own != nil && !c.own.IsClosed() {
		return c.own, nil
	}
	opts := c.conn.Opts
	opts.Name += " (catching up)"
	// What becomes of NATS is told once, by the worker's own connection.
	opts.ConnectedCB, opts.ReconnectedCB, opts.DisconnectedErrCB, opts.ReconnectErrCB, opts.ClosedCB = nil, nil, nil, nil, nil
	opts.AsyncErrorCB = func(*nats.Conn, *nats.Subscription, error) {}
	var err error
	c.own, err = opts.Connect()
	return c.own, err
}

// close ends the connection; no request is under way.
func (c *catchUps) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.own != nil {
		c.own.Close()
	}
}
