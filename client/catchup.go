package client

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tokenbus/tokenbus/events"
)

const (
	// catchUpPatience is how long one batch may take.
	catchUpPatience = 5 * time.Second
	// catchUpsAtOnce is how many batches are under way at once: one is read while
	// the other is on its way.
	catchUpsAtOnce = 2
	// After a restart of everything NATS is there before the workers.
	catchUpTries = 6
	catchUpPause = 100 * time.Millisecond // the first; each is twice the one before
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
			if sleep(c.life, catchUpPause<<(try-1)) != nil {
				return
			}
		}
	}
}

// catchUp holds what is in memory, and was used since it came, against the last
// bumps, which workers read. What is as it was may be served again; about the rest a
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
	slices.SortFunc(behind, func(a, b *entry) int { return strings.Compare(a.key.Platform(), b.key.Platform()) })
	unchanged, err := c.catchUpAll(ctx, behind, epoch)
	if err != nil {
		return fmt.Errorf("read last bumps: %w", err)
	}
	c.counts.caughtUp.Add(int64(unchanged))
	if hook := c.hooks.CaughtUp; hook != nil {
		hook(len(behind), unchanged, c.clock.now().Sub(began))
	}
	return nil
}

// catchUpAll catches up with the accounts, batch by batch, and returns how many
// are as they were.
func (c *Client) catchUpAll(ctx context.Context, behind []*entry, epoch int64) (unchanged int, err error) {
	type result struct {
		unchanged int
		err       error
	}
	results, underWay := make(chan result, catchUpsAtOnce), 0
	for rest := behind; len(rest) > 0 && err == nil || underWay > 0; {
		if len(rest) > 0 && err == nil && underWay < catchUpsAtOnce {
			batch := rest[:c.batch(rest)]
			rest = rest[len(batch):]
			underWay++
			go func() {
				n, err := c.catchUpWith(ctx, batch, epoch)
				results <- result{n, err}
			}()
			continue
		}
		r := <-results
		underWay--
		unchanged, err = unchanged+r.unchanged, cmp.Or(err, r.err)
	}
	return unchanged, err
}

// batch returns how many of the accounts, from the first on, one request may ask
// for.
func (c *Client) batch(of []*entry) (n int) {
	left := min(events.MaxCatchUpRequest, int(c.nc.MaxPayload())) - len(`{"ids":[]}`)
	for _, e := range of[:min(len(of), events.MaxCatchUp)] {
		left -= len(e.key.ID()) + len(`"",`)
		if n > 0 && (left < 0 || e.key.Platform() != of[0].key.Platform()) {
			break
		}
		n++
	}
	return n
}

// catchUpWith asks a worker for the last bumps of a batch, and returns how many
// accounts are as they were.
func (c *Client) catchUpWith(ctx context.Context, batch []*entry, epoch int64) (unchanged int, err error) {
	ctx, cancel := context.WithTimeout(ctx, catchUpPatience)
	defer cancel()
	var req events.CatchUpRequest
	for _, e := range batch {
		req.IDs = append(req.IDs, e.key.ID())
	}
	m, err := c.nc.RequestWithContext(ctx, c.subjects.CatchUp(batch[0].key.Platform()), req.Encode())
	if err != nil {
		return 0, err
	}
	reply, err := events.DecodeCatchUpReply(m.Data)
	if err != nil {
		return 0, err
	}
	for _, b := range reply.Bumps { // about the others a worker is asked
		if c.compare(b, epoch) {
			unchanged++
		}
	}
	return unchanged, nil
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
