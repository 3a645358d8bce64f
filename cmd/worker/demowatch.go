package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
)

// demoWatcher tells what workers do. It is safe for concurrent use.
type demoWatcher struct {
	story *story

	mu      sync.Mutex                      // guards what follows
	held    map[heldKey]account.Version     // what each worker answered last
	told    map[account.Key]account.Version // the newest that was told of
	dropped int                             // stale entries
}

type heldKey struct {
	worker string
	key    account.Key
}

func newDemoWatcher(s *story) *demoWatcher {
	return &demoWatcher{story: s, held: map[heldKey]account.Version{}, told: map[account.Key]account.Version{}}
}

// hooks returns what lets the watcher see a worker's doings.
func (d *demoWatcher) hooks(worker string) hooks {
	return hooks{
		core:      func(c core) core { return &watchedCore{core: c, watcher: d, worker: worker} },
		publisher: func(p ledger.Publisher) ledger.Publisher { return &watchedPublisher{p, d} },
	}
}

func (d *demoWatcher) drops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dropped
}

// answered notes what a worker has in its own cache.
func (d *demoWatcher) answered(worker string, key account.Key, v account.Version) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := heldKey{worker, key}
	d.held[at] = max(d.held[at], v)
}

// refreshed tells of a new version, before its bump goes out.
func (d *demoWatcher) refreshed(e events.Refreshed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e.Version <= d.told[e.Key] {
		return // announced again
	}
	d.told[e.Key] = e.Version
	d.held[heldKey{e.By, e.Key}] = e.Version
	if e.Reason != events.ReasonExternal {
		d.story.tell(green, e.By, "refreshed %s: version %d → %d, lives %.0fs (%s)", e.Key, e.Version-1, e.Version, time.Until(e.ExpiresAt).Seconds(), reasons[e.Reason])
	}
}

// reasons are the reasons of a refresh for people.
var reasons = map[events.Reason]string{
	events.ReasonExpiry: "ahead of need", events.ReasonRequest: "a request found it near its end",
	events.ReasonForced: "forced", events.ReasonRejected: "the API rejected it",
}

// bumped tells of a bump that a peer heard.
func (d *demoWatcher) bumped(worker string, b events.Bump) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := heldKey{worker, b.Key}
	held := d.held[at]
	if held == 0 || held >= b.Version {
		return
	}
	delete(d.held, at)
	d.dropped++
	d.story.tell(cyan, worker, "hears the bump of %s: drops version %d from its cache", b.Key, held)
}

// watchedCore is a provider that is watched.
type watchedCore struct {
	core
	watcher *demoWatcher
	worker  string
}

func (c *watchedCore) Cached(key account.Key, req events.TokenRequest) ([]byte, bool) {
	body, ok := c.core.Cached(key, req)
	if ok {
		c.watch(key, body)
	}
	return body, ok
}

func (c *watchedCore) watch(key account.Key, body []byte) {
	if reply, err := events.DecodeTokenReply(key, body); err == nil {
		c.watcher.answered(c.worker, key, reply.Version)
	}
}

func (c *watchedCore) Ask(ctx context.Context, key account.Key, req events.TokenRequest, answer func([]byte, error)) {
	c.core.Ask(ctx, key, req, func(body []byte, err error) {
		if err == nil {
			c.watch(key, body)
		}
		answer(body, err)
	})
}

func (c *watchedCore) ObserveBump(b events.Bump) {
	c.core.ObserveBump(b)
	c.watcher.bumped(c.worker, b)
}

// watchedPublisher is a publisher that is watched.
type watchedPublisher struct {
	ledger.Publisher
	watcher *demoWatcher
}

func (p *watchedPublisher) Refreshed(ctx context.Context, e events.Refreshed) error {
	err := p.Publisher.Refreshed(ctx, e)
	if err == nil {
		p.watcher.refreshed(e)
	}
	return err
}

// putAccount logs an account in by the operators' API.
func putAccount(ctx context.Context, conn *nats.Conn, subjects events.Subjects, key account.Key, c account.Credentials) error {
	body, err := json.Marshal(events.PutRequest{Platform: key.Platform(), ID: key.ID(), Type: "oauth", Credentials: c.Encode()})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	reply, err := conn.RequestWithContext(ctx, subjects.Admin(events.VerbPut), body)
	if err != nil {
		return err
	}
	if text := reply.Header.Get(events.HeaderError); text != "" {
		return errors.New(text)
	}
	return nil
}
