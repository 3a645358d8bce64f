package client

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// trouble is what the library tells of the client's own connection and doesn't
// keep: why there is none, and what the server doesn't permit. Of a caller's
// connection nothing is told.
type trouble struct {
	inbox string // what the subjects of replies begin with

	mu      sync.Mutex // guards what follows
	why     error      // there is no connection
	deaf    error      // replies can't be heard; until the connection is lost
	waiting map[*waiter]struct{}
}

// waiter is a question that waits for an answer.
type waiter struct {
	subject string
	refuse  func(error)
}

// unreachable takes in why there is no connection; nil where there is one.
func (t *trouble) unreachable(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.why = err
}

// lost takes in that the connection is lost: the next one may be permitted more.
func (t *trouble) lost(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.why, t.deaf = err, nil
}

// forbidden takes in that the server doesn't permit something, and refuses the
// questions that get no answer for that.
func (t *trouble) forbidden(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := err.Error()
	if strings.Contains(text, `Subscription to "`+t.inbox+".") {
		t.deaf = err
	}
	for w := range t.waiting {
		if t.deaf != nil || strings.Contains(text, `Publish to "`+w.subject+`"`) {
			w.refuse(err)
		}
	}
}

// watch calls refuse, from now until stop, when a question about the subject will
// get no answer since the server doesn't permit it. refuse must not block.
func (t *trouble) watch(subject string, refuse func(error)) (stop func()) {
	w := &waiter{subject, refuse}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.deaf != nil {
		refuse(t.deaf)
	}
	if t.waiting == nil {
		t.waiting = map[*waiter]struct{}{}
	}
	t.waiting[w] = struct{}{}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.waiting, w)
	}
}

// behind returns err with what the connection has to do with it, where that is known.
func (c *Client) behind(err error) error {
	why := c.nc.LastError()
	if c.nc.IsConnected() && !errors.Is(why, nats.ErrPermissionViolation) {
		return err // of something else, or long ago
	}
	if why == nil { // as where it tries to connect just now
		c.trouble.mu.Lock()
		why = c.trouble.why
		c.trouble.mu.Unlock()
	}
	if why == nil || errors.Is(err, why) {
		return err
	}
	return fmt.Errorf("%w: %w", err, why)
}
