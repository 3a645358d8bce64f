package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/loginfile"
)

const (
	// inFlight is how many logins of an import are under way at once. A worker
	// takes thousands of verbs at once, and more than this makes none faster.
	inFlight = 64
	// silence is how long an import goes on asking workers of whom none does
	// what it is asked.
	silence = 30 * time.Second
	// stubborn is how long it goes on for one login that alone doesn't go in.
	stubborn = 2 * time.Minute
)

// sender puts the logins of an import, many at once.
type sender struct {
	*conn
	options importOptions
	retry   backoff.Policy
	silence time.Duration
	began   time.Time
	lively  atomic.Int64 // nanoseconds after began when a worker last did what it was asked
	told    sync.Once    // that workers are asked again
	notes   chan string
}

func newSender(c *conn, o importOptions) *sender {
	return &sender{
		conn: c, options: o, retry: backoff.Policy{Base: 100 * time.Millisecond, Cap: 5 * time.Second}, silence: silence,
		began: time.Now(), notes: make(chan string, 1),
	}
}

// send puts the logins and reports every item, in the order of the items. One
// that could not be put, or not any more because ctx has ended, is reported as
// failed. An error means that it is the same with every login: then what was
// under way is reported too, and the rest was not sent.
//
// No two of the logins have the same key, so it doesn't matter which is first.
func (s *sender) send(ctx context.Context, items []item, rep *reporter) error {
	// The first goes alone: what is wrong with all is said once.
	first := 0
	for first < len(items) && items[first].outcome != found {
		first++
	}
	if first < len(items) {
		if err := s.one(ctx, &items[first], rep); err != nil {
			return err
		}
	}
	for i := range min(first+1, len(items)) {
		rep.item(items[i])
	}
	if first+1 >= len(items) {
		return nil
	}
	return s.many(ctx, items[first+1:], rep)
}

// one puts a login while nothing else is done.
func (s *sender) one(ctx context.Context, it *item, rep *reporter) error {
	done := make(chan error, 1)
	go func() { done <- s.importItem(ctx, it) }()
	for {
		select {
		case err := <-done:
			if err == nil {
				rep.progress.add()
			}
			return err
		case note := <-s.notes:
			rep.note(note)
		}
	}
}

func (s *sender) many(ctx context.Context, items []item, rep *reporter) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var next atomic.Int64
	var fatal atomic.Pointer[error]
	finished := make(chan int, inFlight)
	var wg sync.WaitGroup
	for range min(inFlight, len(items)) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(items) || fatal.Load() != nil {
					return
				}
				if err := s.importItem(ctx, &items[i]); err != nil {
					fatal.CompareAndSwap(nil, &err)
					stop()
				}
				finished <- i
			}
		})
	}
	go func() { wg.Wait(); close(finished) }()
	ready, reported := make([]bool, len(items)), 0
	for {
		select {
		case note := <-s.notes:
			rep.note(note)
		case i, ok := <-finished:
			if !ok {
				if err := fatal.Load(); err != nil {
					reportTried(items[reported:], rep)
					return *err
				}
				return nil
			}
			ready[i] = true
			if items[i].sendable() {
				rep.progress.add()
			}
			for ; reported < len(items) && ready[reported] && fatal.Load() == nil; reported++ {
				rep.item(items[reported])
			}
		}
	}
}

// reportTried reports the items that something was done about.
func reportTried(items []item, rep *reporter) {
	for _, it := range items {
		if it.outcome != found {
			rep.item(it)
		}
	}
}

// sendable reports whether the item was one to send, also after it was sent.
func (it *item) sendable() bool { return !it.key.IsZero() }

// importItem puts the login, unless there is none to put. An error means that
// it would be the same with every other.
func (s *sender) importItem(ctx context.Context, it *item) error {
	if it.outcome != found {
		return nil
	}
	var before, after events.Account
	err := s.insist(ctx, it, func() (err error) {
		before, err = s.on(ctx, events.VerbGet, it.key, false)
		return err
	})
	isNew := errors.Is(err, &events.Error{Code: events.CodeNotFound})
	if err == nil || isNew {
		err = s.insist(ctx, it, func() (err error) {
			after, err = s.put(ctx, it, isNew)
			return err
		})
	} else if ctx.Err() != nil {
		err = errNotSent // but for the question
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return err
	}
	switch {
	case err != nil:
		it.outcome, it.err = failed, fmt.Errorf("%s: %s: %w", it.file, it.key, remedy(err, it.key))
		return nil
	case isNew:
		it.outcome = created
	case after.Version != before.Version || after.Label != before.Label:
		it.outcome = updated
	default:
		it.outcome = unchanged
	}
	it.version = after.Version
	return nil
}

// put sends the login. A label that comes from a file's tokens counts only for
// a new account, so that one that an operator gave stays; one that stands in a
// body of accounts.put is meant.
func (s *sender) put(ctx context.Context, it *item, isNew bool) (events.Account, error) {
	l, key := it.login, it.key
	req := events.PutRequest{Platform: key.Platform(), ID: key.ID(), Type: l.Type, IfVersion: l.IfVersion, Credentials: l.Credentials.Encode()}
	if s.options.labelSet || l.Label != "" && (isNew || l.Format == loginfile.FormatTokenbus) {
		req.Label = &l.Label
	}
	guess := isNew && req.IfVersion == nil
	if guess {
		req.IfVersion = new(account.Version) // none: saves the worker a look
	}
	var doc events.Account
	err := s.admin(ctx, events.VerbPut, req, &doc)
	if guess && errors.Is(err, &events.Error{Code: events.CodeBadRequest}) {
		req.IfVersion = nil // somebody else's came first, or the login is wrong as well without it
		err = s.admin(ctx, events.VerbPut, req, &doc)
	}
	return doc, err
}

// insist repeats a verb as long as the workers can't carry it out just now,
// such as when they have too much to do. Getting and putting may be repeated.
func (s *sender) insist(ctx context.Context, it *item, verb func() error) error {
	began := time.Now()
	for failures := 1; ; failures++ {
		err := verb()
		e, answered := errors.AsType[*events.Error](err)
		if err == nil || answered && e.Code != events.CodeUnavailable {
			s.lively.Store(int64(time.Since(s.began)))
		}
		if !answered || e.Code != events.CodeUnavailable {
			return err
		}
		wait := max(e.RetryAfter, s.retry.Delay(failures, rand.Float64()))
		quiet := time.Since(s.began) - time.Duration(s.lively.Load())
		if quiet+wait > s.silence || time.Since(began)+wait > stubborn {
			return err
		}
		s.told.Do(func() { s.notes <- fmt.Sprintf("%s: %v; trying again", it.key, err) })
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}
