package client

import (
	"time"

	"github.com/tokenbus/tokenbus/account"
)

const (
	// lastMoment is how long before its end a token counts as ended.
	lastMoment = time.Second
	// refreshSkew is how long before a token's end we begin to ask beside, as
	// long as the workers' own skew; of a token that came with less than three
	// times that to live, a third.
	refreshSkew = 3 * time.Minute
	// besideEvery is how often a token near its end is asked about beside.
	besideEvery = 5 * time.Second
	// retryEvery is the same where the last question brought nothing.
	retryEvery = time.Second
	// reprieve is how long nobody waits for workers that have just not answered.
	reprieve = 5 * time.Second
)

// held is a token in memory. It is immutable; changes replace it.
type held struct {
	token Token

	// The fast path looks at these two alone: the token is served until fresh
	// in this epoch.
	fresh instant
	stamp int64

	ends     instant // of the token's life
	skew     time.Duration
	checked  instant // a worker has vouched for it
	epoch    int64   // no bump was missed up to this epoch, if checked
	unsure   bool    // something happened to the account since
	beside   instant // when to ask beside
	reprieve instant // nobody waits for workers until then, in the epoch of stamp
}

// want is what one look-up needs, beside a living token. Look-ups that want the
// same share an answer.
type want struct {
	minTTL     time.Duration
	minVersion account.Version
	rejected   account.Version
}

// situation is what a judgement depends on beside the token.
type situation struct {
	now       time.Time
	at        instant // now
	epoch     int64
	up        bool            // connected to NATS
	announced account.Version // by a bump, and not refuted; else 0
	busy      bool            // a refresh runs that ends the old token at once
	maxAge    time.Duration
	minTTL    time.Duration
}

type verdict int

const (
	mustAsk     verdict = iota // what is held doesn't do
	shouldAsk                  // it does if no worker answers
	serveAndAsk                // a worker should be asked beside
	serve
)

// judge decides whether what is held answers a look-up. It is a pure function;
// docs/coherence.md has it as a table.
func judge(h *held, w want, s situation) verdict {
	if h == nil {
		return mustAsk
	}
	left, v := h.left(s), h.token.Version
	margin := w.minTTL
	if margin == 0 {
		margin = s.minTTL
	}
	switch {
	case left <= lastMoment, left < w.minTTL, v < w.minVersion, v <= w.rejected, v < s.announced:
		return mustAsk
	case !s.up:
		return serve
	case s.busy:
		return mustAsk
	case s.at < h.reprieve && h.stamp == s.epoch:
	case h.unsure, h.epoch < s.epoch, s.at-h.checked >= s.maxAge, left < margin:
		return shouldAsk
	}
	if s.at >= h.beside {
		return serveAndAsk
	}
	return serve
}

// left returns how long the token lives, by the clock that gives it less.
func (h *held) left(s situation) time.Duration {
	return min(h.ends-s.at, h.token.ExpiresAt.Sub(s.now.Round(0)))
}

// vouched returns h as of a worker's word, given in answer to a question that
// was asked in situation s. It is not ready.
func (h held) vouched(s situation, unsure bool) *held {
	h.checked, h.epoch, h.unsure, h.reprieve = s.at, s.epoch, unsure, 0
	h.beside = min(s.at+s.maxAge*2/3, max(h.ends-h.skew, s.at+besideEvery))
	return &h
}

// asked returns h while a question runs beside.
func (h held) asked(s situation) *held {
	h.beside = s.at + retryEvery
	return h.ready(s)
}

// spared returns h after no worker has answered.
func (h held) spared(s situation) *held {
	h.reprieve = s.at + reprieve
	return h.asked(s)
}

// ready returns h with the fast path open for as long as [judge] would say serve
// to a look-up that wants nothing special and nothing happens.
func (h held) ready(s situation) *held {
	h.stamp, h.fresh = s.epoch, 0
	if judge(&h, want{}, s) != serve {
		return &h
	}
	last := s.at + h.left(s) - lastMoment
	switch {
	case !s.up:
		h.fresh = last
	case s.at < h.reprieve:
		h.fresh = min(last, h.beside, h.reprieve)
	default:
		h.fresh = min(h.checked+s.maxAge, s.at+h.left(s)-s.minTTL, h.beside)
	}
	return &h
}

// closed returns h with the fast path closed.
func (h held) closed() *held {
	h.fresh = 0
	return &h
}
