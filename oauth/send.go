package oauth

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/tokenbus/tokenbus/refresh"
)

// keptHeaders are the headers of an answer that a verdict or a person needs.
var keptHeaders = [...]string{"Content-Type", "Retry-After", "Retry-After-Ms", "Date", "Location"}

// lastLook is how long a read may still take once the patience is over, and
// lastLooks all of them together, however little each one brings.
const (
	lastLook  = 20 * time.Millisecond
	lastLooks = 10 * lastLook
)

// maxInterim bounds the 1xx answers before the real one.
const maxInterim = 5

// Send implements [refresh.Endpoint]. It gives up when ctx ends or the
// definition's timeout has passed, whichever is sooner. An answer whose status
// line and header arrived is returned whatever happened to its body, which is
// then marked as truncated. Every error is a [*refresh.SendError]; one that
// wraps [refresh.ErrMisconfigured] is the definition's fault, not the
// account's. No error holds a secret.
func (c *Client) Send(ctx context.Context, req refresh.SendRequest) (refresh.RawAnswer, error) {
	d, ok := c.definitions[req.Platform]
	if !ok {
		return refresh.RawAnswer{}, unsent(fmt.Errorf("%w: no provider of this name is defined", refresh.ErrMisconfigured))
	}
	r, err := c.build(d, req.Credentials)
	if err != nil {
		return refresh.RawAnswer{}, unsent(err)
	}
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	raw, err := c.connect(ctx, r)
	if err != nil {
		return refresh.RawAnswer{}, unsent(fmt.Errorf("connect to the token endpoint: %w", err))
	}
	conn := &firstByteConn{Conn: raw, before: req.BeforeFirstByte}
	defer conn.Close()
	// A deadline in the past makes blocked reads and writes return.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	sent := c.now().UTC().Truncate(time.Millisecond)
	answer, err := c.exchange(conn, r.bytes)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
		return refresh.RawAnswer{}, &refresh.SendError{Sent: conn.sent, Err: err}
	}
	answer.SentAt = sent
	return answer, nil
}

func unsent(err error) error { return &refresh.SendError{Err: err} }

// exchange writes the request and reads the answer.
func (c *Client) exchange(conn *firstByteConn, request []byte) (refresh.RawAnswer, error) {
	if _, err := conn.Write(request); err != nil {
		if conn.refused {
			return refresh.RawAnswer{}, err
		}
		// The endpoint may have answered before it had read everything.
		if answer, readErr := c.read(conn); readErr == nil {
			return answer, nil
		}
		return refresh.RawAnswer{}, fmt.Errorf("send the request: %w", err)
	}
	return c.read(conn)
}

// read reads one answer.
func (c *Client) read(conn net.Conn) (refresh.RawAnswer, error) {
	limit := &io.LimitedReader{R: conn, N: c.maxHeader}
	br := bufio.NewReader(limit)
	var resp *http.Response
	for range maxInterim + 1 {
		var err error
		if resp, err = http.ReadResponse(br, &http.Request{Method: http.MethodPost}); err != nil {
			if limit.N <= 0 {
				return refresh.RawAnswer{}, fmt.Errorf("the answer's header is larger than %d bytes", c.maxHeader)
			}
			return refresh.RawAnswer{}, readError(err)
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			break
		}
	}
	answer := refresh.RawAnswer{
		Status:     resp.StatusCode,
		Header:     map[string]string{},
		ReceivedAt: c.now().UTC().Truncate(time.Millisecond),
	}
	for _, name := range keptHeaders {
		if v := resp.Header.Get(name); v != "" {
			answer.Header[name] = v
		}
	}
	if answer.Status < 200 {
		return answer, nil
	}
	// Twice the bound leaves room for the framing of chunks; the body itself
	// is bounded exactly.
	limit.N = 2*c.maxBody + c.maxHeader
	body, err := io.ReadAll(io.LimitReader(resp.Body, c.maxBody+1))
	answer.Truncated = err != nil
	if int64(len(body)) > c.maxBody {
		body, answer.Truncated = body[:c.maxBody], true
	}
	answer.Body = body
	return answer, nil
}

// readError says why no answer could be read. What arrived may hold secrets,
// so errors that quote it are replaced.
func readError(err error) error {
	_, isNet := errors.AsType[*net.OpError](err)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the connection ended before an answer: %w", io.ErrUnexpectedEOF)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("no answer in time")
	case isNet:
		return fmt.Errorf("read the answer: %w", err)
	}
	return errors.New("what came back is no HTTP answer")
}

// firstByteConn stands between the request and the connection, which is past
// every handshake. It is used by one goroutine.
type firstByteConn struct {
	net.Conn
	before  func() error
	begun   bool
	refused bool      // before said no
	sent    bool      // bytes of the request may have left
	end     time.Time // of the last looks; zero before the first
}

// Read takes what has arrived already when the patience ends: a process that
// was stopped in between finds its answer and its deadline at once. What still
// comes a byte at a time is not waited for.
func (c *firstByteConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	now := time.Now()
	if c.end.IsZero() {
		c.end = now.Add(lastLooks)
	}
	if !now.Before(c.end) {
		return 0, err
	}
	_ = c.SetReadDeadline(now.Add(min(lastLook, c.end.Sub(now))))
	return c.Conn.Read(p)
}

// Write asks before the first byte and passes on what may leave.
func (c *firstByteConn) Write(p []byte) (int, error) {
	if !c.begun {
		c.begun = true
		if c.before != nil {
			if err := c.before(); err != nil {
				c.refused = true
				return 0, err
			}
		}
	}
	if c.refused {
		return 0, net.ErrClosed
	}
	c.sent = true
	return c.Conn.Write(p)
}
