package client

import (
	"sync"
	"sync/atomic"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// entry is what the client knows of one account.
type entry struct {
	key  account.Key
	held atomic.Pointer[held] // replaced under mu
	used atomic.Bool          // since what is held was vouched for, or the hand came by

	mu        sync.Mutex // guards what follows
	seen      account.Version
	heard     account.Rev     // of the newest bump
	announced account.Version // by a bump, above seen and not refuted; else 0
	busy      instant         // until then a refresh may run that ends the old token at once
	flights   map[want]*flight
	watchers  map[chan struct{}]struct{}
	placed    bool // has a place in memory
	gone      bool // from memory: look it up again
}

// idle reports whether nobody waits for news; the caller holds mu.
func (e *entry) idle() bool { return len(e.flights) == 0 && len(e.watchers) == 0 }

// of returns the situation of this account; the caller holds mu.
func (e *entry) of(s situation) situation {
	s.announced, s.busy = e.announced, s.at < e.busy
	return s
}

// touch marks the account as used. It mostly only reads.
func (e *entry) touch() {
	if !e.used.Load() {
		e.used.Store(true)
	}
}

// question is what a worker is asked, and what was known at that time.
type question struct {
	req   events.TokenRequest
	heard account.Rev
	busy  instant
	when  situation
}

// question returns what to ask a worker; the caller holds mu.
func (e *entry) question(w want, s situation) question {
	q := question{heard: e.heard, busy: e.busy, when: s}
	q.req = events.TokenRequest{MinTTL: w.minTTL, MinVersion: max(w.minVersion, e.seen), RejectedVersion: w.rejected}
	if h := e.held.Load(); h != nil && h.left(s) > lastMoment && h.token.Version > w.rejected && h.token.Version >= q.req.MinVersion {
		q.req.KnownVersion = h.token.Version
	}
	return q
}

// outcome is what becomes of a reply.
type outcome int

const (
	given   outcome = iota // hand it out
	old                    // a newer version was given out meanwhile: ask for that
	doubted                // a bump that we had heard names a newer one: ask again soon
)

// take takes a reply in and returns the token to hand out. s is the situation
// now. The caller holds mu.
func (e *entry) take(q question, reply events.TokenReply, s situation, refuted bool) (Token, outcome) {
	h := e.held.Load()
	switch {
	case reply.Version < e.seen, reply.NotModified && (h == nil || h.token.Version != reply.Version):
		return Token{}, old
	case reply.Version < e.announced && q.heard != e.heard:
		return Token{}, old
	case reply.Version < e.announced && !refuted:
		return Token{}, doubted
	}
	token := Token{
		Key: e.key, Version: reply.Version, TokenType: reply.TokenType, ExpiresAt: reply.ExpiresAt,
		Source: reply.Source, Extra: reply.Extra, access: reply.AccessToken,
	}
	if reply.NotModified {
		token = h.token
		token.ExpiresAt = reply.ExpiresAt
	}
	news := reply.Version > e.seen
	e.seen, e.announced = reply.Version, 0
	if q.busy == e.busy {
		e.busy = 0 // the worker has waited for it
	}
	e.hold(token, q, s)
	if news {
		e.tell()
	}
	return token, given
}

// hold keeps the token in memory, if it may be.
func (e *entry) hold(token Token, q question, s situation) {
	if s.maxAge <= 0 || token.ExpiresAt.IsZero() {
		e.held.Store(nil)
		return
	}
	before := e.held.Load()
	token.Source = SourceClient
	h := held{token: token, ends: s.at + token.ExpiresAt.Sub(s.now.Round(0))}
	if before != nil && before.token.Version == token.Version {
		h.skew = before.skew
	} else {
		h.skew = min(refreshSkew, (h.ends-s.at)/3)
		e.used.Store(false)
	}
	// A bump that came while we waited may be about this version, or the reply
	// may be older than what it says of the account.
	e.held.Store(h.vouched(q.when, q.heard != e.heard || e.busy != 0).ready(e.of(s)))
}

// deny takes in that the fleet gives no token for the account any more. The
// caller holds mu.
func (e *entry) deny() {
	e.held.Store(nil)
	e.tell()
}

// spare takes in that workers did not answer: for a while nobody waits for them.
// The caller holds mu.
func (e *entry) spare(s situation) {
	if h := e.held.Load(); h != nil {
		e.held.Store(h.spared(e.of(s)))
	}
}

// hear takes a bump in, and reports whether it was news. The caller holds mu.
func (e *entry) hear(b events.Bump) bool {
	if b.Rev <= e.heard {
		return false
	}
	e.heard, e.busy = b.Rev, 0
	if b.Version > max(e.seen, e.announced) {
		e.announced = b.Version
	}
	if h := e.held.Load(); h != nil {
		h := *h
		h.unsure, h.reprieve = true, 0
		e.held.Store(h.closed())
	}
	e.tell()
	return true
}

// hearBusy takes in that a refresh runs until then that ends the old token at
// once, or with 0 that none does. The caller holds mu.
func (e *entry) hearBusy(until instant) {
	e.busy = until
	if h := e.held.Load(); h != nil {
		e.held.Store(h.closed())
	}
}

// confirm takes in that the stream's last bump is one that we have heard of
// already, as of the epoch. The caller holds mu.
func (e *entry) confirm(b events.Bump, epoch int64, s situation) bool {
	h := e.held.Load()
	if h == nil || h.unsure || e.busy != 0 || e.announced > h.token.Version || b.Rev != e.heard || h.epoch >= epoch {
		return false
	}
	next := *h
	next.epoch = epoch
	e.held.Store(next.ready(e.of(s)))
	return true
}

// tell wakes who watches the account; the caller holds mu.
func (e *entry) tell() {
	for signal := range e.watchers {
		select {
		case signal <- struct{}{}:
		default:
		}
	}
}
