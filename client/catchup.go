package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/events"
)

const (
	// catchUpBatch is how many accounts' last bumps are asked for at once: the
	// most that the server gives in one answer.
	catchUpBatch = 1024
	// catchUpPatience is how long one batch may take.
	catchUpPatience = 5 * time.Second
	catchUpTries    = 3
)

// catchUp catches up whenever it is asked to, until the client is closed.
func (l *link) catchUp() {
	c := l.client
	for {
		select {
		case <-c.life.Done():
			return
		case <-l.behind:
		}
		if !c.nc.IsConnected() {
			continue // the return asks again
		}
		for try := 1; ; try++ {
			err := l.client.catchUp(c.life)
			if err == nil || c.life.Err() != nil || !c.nc.IsConnected() {
				break
			}
			if try == catchUpTries {
				// Nothing is lost: each account is asked about before it is used.
				c.log.Warn("last bumps can't be read; accounts are asked about one by one", "error", err)
				break
			}
			if sleep(c.life, time.Duration(try)*100*time.Millisecond) != nil {
				return
			}
		}
	}
}

// catchUp holds what is in memory, and was used since it came, against the last
// bumps of the stream. What is as it was may be served again; about the rest a
// worker is asked when it is used next.
func (c *Client) catchUp(ctx context.Context) error {
	began, epoch := c.clock.now(), c.epoch.Load()
	var behind []*entry
	c.memory.all(func(e *entry) {
		if h := e.held.Load(); h != nil && h.epoch < epoch && e.used.Load() {
			behind = append(behind, e)
		} else {
			e.mu.Lock()
			e.tell() // who watches it looks for himself
			e.mu.Unlock()
		}
	})
	if len(behind) == 0 {
		return nil
	}
	inbox, err := c.nc.SubscribeSync(c.nc.NewInbox())
	if err != nil {
		return fmt.Errorf("read last bumps: %w", err)
	}
	defer func() { _ = inbox.Unsubscribe() }()
	unchanged := 0
	for rest := behind; len(rest) > 0; {
		batch := rest[:min(len(rest), catchUpBatch)]
		rest = rest[len(batch):]
		n, err := c.catchUpWith(ctx, inbox, batch, epoch)
		unchanged += n
		if err != nil {
			return fmt.Errorf("read last bumps: %w", err)
		}
	}
	c.counts.caughtUp.Add(int64(unchanged))
	if hook := c.hooks.CaughtUp; hook != nil {
		hook(len(behind), unchanged, c.clock.now().Sub(began))
	}
	return nil
}

// catchUpWith reads the last bumps of a batch, and returns how many accounts are
// as they were.
func (c *Client) catchUpWith(ctx context.Context, inbox *nats.Subscription, batch []*entry, epoch int64) (unchanged int, err error) {
	ctx, cancel := context.WithTimeout(ctx, catchUpPatience)
	defer cancel()
	var req struct {
		MultiLast []string `json:"multi_last"`
	}
	for _, e := range batch {
		req.MultiLast = append(req.MultiLast, c.subjects.Bump(e.key))
	}
	body, err := json.Marshal(req)
	if err != nil {
		return 0, err
	}
	if err := c.nc.PublishRequest("$JS.API.DIRECT.GET."+events.StreamBumps, inbox.Subject, body); err != nil {
		return 0, err
	}
	for {
		m, err := inbox.NextMsgWithContext(ctx)
		if err != nil {
			return unchanged, err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "204", "404": // the end; none of them has a bump
			return unchanged, nil
		default:
			return unchanged, errors.New("the server says " + status + " " + m.Header.Get("Description"))
		}
		b, err := events.DecodeBump(m.Data)
		if err != nil || c.subjects.Bump(b.Key) != m.Header.Get("Nats-Subject") {
			continue // a worker is asked about it
		}
		if c.compare(b, epoch) {
			unchanged++
		}
	}
}

// compare takes in the last bump of an account, and reports whether it is one
// that we have heard of already.
func (c *Client) compare(b events.Bump, epoch int64) bool {
	c.hear(b)
	e := c.memory.get(b.Key)
	if e == nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.confirm(b, epoch, c.situation())
}
