package provider

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// How a flight waits for another worker's rotation.
const (
	pollFirst = 100 * time.Millisecond
	pollMax   = time.Second
)

// rotate brings the account over w.over, by whoever does it: it is the body of
// a flight. It returns nil once something newer is in the store and in L1.
func (p *Provider) rotate(key account.Key, w want) error {
	news := p.listen(key)
	defer p.unlisten(key, news)
	lease, held := p.tryLease(key)
	defer func() {
		if lease != nil { // nobody waits for it to be given up
			p.background(func(context.Context) { p.releaseLease(lease) })
		}
	}()
	deadline := p.clock.Elapsed() + p.patience(key.Platform())
	for poll := pollFirst; ; poll = min(2*poll, pollMax) {
		if held && w.reason == events.ReasonExpiry {
			return nil // ahead of need, and another worker is at it
		}
		again, err := p.advance(p.base, key, w, held)
		if !again {
			if err == nil {
				p.sights.forget(key)
			}
			return err
		}
		if p.clock.Elapsed() > deadline {
			return unavailable(retrySoon, "%s: another worker's refresh takes long", key)
		}
		select {
		case <-news:
			poll = pollFirst
		case <-p.clock.After(poll):
		case <-p.stopping:
			return errStopping()
		}
		if lease == nil {
			lease, held = p.tryLease(key)
		}
	}
}

func unavailable(after time.Duration, format string, args ...any) *events.Error {
	return &events.Error{Code: events.CodeUnavailable, Message: fmt.Sprintf(format, args...), RetryAfter: atLeast(after)}
}

func errStopping() *events.Error { return unavailable(retrySoon, "this worker is stopping") }

// patience is how long a flight waits for another worker: past it a silent
// one's rotation has been judged.
func (p *Provider) patience(platform string) time.Duration {
	policy, _ := p.endpoint.Policy(platform)
	return 2*p.timing.LeaseTTL + policy.Timeout
}

// tryLease takes the lease. held says that another worker has it; a backend
// that is out of reach holds nobody up.
func (p *Provider) tryLease(key account.Key) (lease Lease, held bool) {
	ctx, cancel := context.WithTimeout(p.base, cacheTimeout)
	defer cancel()
	lease, err := p.locker.Acquire(ctx, key)
	if err == nil {
		return lease, false
	}
	if !errors.Is(err, ErrHeld) {
		p.log.Debug("lease backend is out of reach; going on without", "account", key.String(), "error", err)
	}
	return nil, errors.Is(err, ErrHeld)
}

func (p *Provider) releaseLease(lease Lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.base), cacheTimeout)
	defer cancel()
	lease.Release(ctx)
}

// advance reads the account, decides, and takes one step. again says that
// another worker is at it: look again later.
func (p *Provider) advance(ctx context.Context, key account.Key, w want, held bool) (again bool, err error) {
	a, err := p.deciding(ctx, key)
	if err != nil {
		return false, err
	}
	policy, known := p.endpoint.Policy(key.Platform())
	rules := Rules{Now: p.clock.Now(), Timing: p.timing, Policy: policy, Force: w.force, Exempt: w.operator}
	plan := Decide(&a.Account, w.over, w.reason, p.sights.look(&a.Account, p.clock.Elapsed()), rules)
	if w.join && plan.Step != StepDone && plan.Step != StepWait {
		p.l1.update(key, func(e *l1Entry) { e.busy = time.Time{} })
		return false, nil // what was to be waited for is over
	}
	switch plan.Step {
	case StepDone:
		p.adopt(&a)
		return false, nil
	case StepWait:
		return true, nil
	case StepRefuse:
		return false, p.refuse(ctx, &a, plan.Err, rules.Now)
	}
	if held && plan.Step != StepInDoubt {
		return true, nil // the lease's owner is about to do it
	}
	if a.Rotation != nil {
		// What was answered already must be saved before anything is sent.
		switch found, err := p.replayAccount(ctx, key, a.Rotation.ID); {
		case err != nil:
			return false, p.blocked(&a, err)
		case found:
			return true, nil
		}
	}
	if plan.Step == StepInDoubt {
		return false, p.doubt(ctx, &a, plan.At)
	}
	if !known {
		hold := unavailable(time.Minute, "%s: no provider %q is defined; add it to the file of --providers", key, key.Platform())
		p.holdOff(&a, rules.Now.Add(time.Minute), hold)
		return false, hold
	}
	return p.begin(ctx, &a, w, policy)
}

// deciding reads the document that decides; what goes wrong is said to those
// who wait.
func (p *Provider) deciding(ctx context.Context, key account.Key) (reading, error) {
	a, err := p.read(ctx, key)
	switch {
	case errors.Is(err, ErrNotFound):
		return a, noAccount(key)
	case err != nil:
		p.log.Warn("read store", "account", key.String(), "error", err)
		e := unavailable(retrySoon, "%s: the account store does not answer; nothing is sent that could not be saved", key)
		p.l1.update(key, func(entry *l1Entry) { entry.hold = &hold{p.clock.Now().Add(retrySoon), e} })
		return a, e
	case a.unreadable != nil:
		e := unreadable(key)
		p.holdOff(&a, p.clock.Now().Add(p.timing.LeaseTTL), e)
		p.log.Error("credentials can't be opened", "account", key.String(), "error", a.unreadable)
		return a, e
	}
	return a, nil
}

// adopt takes over what somebody else brought.
func (p *Provider) adopt(a *reading) {
	v := p.learn(a)
	doc := *a
	doc.Account = a.Clone() // the caller goes on with its own
	p.background(func(ctx context.Context) {
		if doc.AnnouncePending {
			p.announce(ctx, &doc)
		} else {
			p.shareView(ctx, v)
		}
	})
}

// refuse passes on why there is no refresh now, and remembers it for as long
// as it is sure to last.
func (p *Provider) refuse(ctx context.Context, a *reading, e *events.Error, now time.Time) error {
	v := p.learn(a)
	if !v.hasRefresh && v.status == account.Active && v.left(now) <= 0 && e.Code == events.CodeReauthRequired {
		p.noteEnd(ctx, a)
	}
	if a.CooldownUntil.After(now) && e.Code == events.CodeCoolingDown {
		p.holdOff(a, a.CooldownUntil, e)
	}
	return e
}

// noteEnd records that an account without a refresh token is at its end.
func (p *Provider) noteEnd(ctx context.Context, a *reading) {
	const text = "the token has ended and the account has no refresh token"
	now := p.now()
	doc, err := p.write(ctx, a, account.Guard{Version: a.Version, Rev: a.Rev}, account.Change{
		Fields: account.FieldStatus | account.FieldFailure | account.FieldRefreshAt | account.FieldAnnounce, BumpRev: true, At: now,
		To: account.Account{Status: account.ReauthRequired, LastError: &account.LastError{Code: events.StatusNoRefreshToken, Message: text, At: now}, AnnouncePending: true, Reason: pendingReason(&a.Account)},
	})
	if err != nil {
		p.log.Debug("record the end of an account", "account", a.Key.String(), "error", err)
		return // the next look finds it again
	}
	p.adopt(&doc)
	p.tell(&doc.Account, events.StatusNoRefreshToken, text, time.Time{})
}

// doubt leaves a rotation whose worker is gone until a second send is allowed,
// and says so once.
func (p *Provider) doubt(ctx context.Context, a *reading, until time.Time) error {
	r := *a.Rotation
	text := fmt.Sprintf("worker %s on host %s began to refresh %s and is gone; if the answer reached it, it lies in that host's spool; the refresh token is not sent again before %s",
		r.Worker, r.Host, a.Key, until.UTC().Format(time.RFC3339))
	if r.State != account.RotationInDoubt {
		r.State = account.RotationInDoubt
		now := p.now()
		doc, err := p.write(ctx, a, account.Guard{Rotation: &a.Rotation.ID, Heartbeat: &a.Rotation.Heartbeat}, account.Change{
			Fields: account.FieldRotation | account.FieldRefreshAt, At: now,
			To: account.Account{Rotation: &r, RefreshAt: millis(later(until, now.Add(time.Second)))},
		})
		if err == nil {
			p.log.Warn("rotation in doubt", "account", a.Key.String(), "version", a.Version, "holder", r.Worker, "host", r.Host, "until", until)
			p.tell(&doc.Account, events.StatusInDoubt, text, time.Time{})
		}
	}
	// Not for long: an operator, a login or the lost worker may end it.
	wait := min(until.Sub(p.clock.Now()), p.timing.LeaseTTL)
	hold := unavailable(wait, "%s", text)
	p.holdOff(a, p.clock.Now().Add(wait), hold)
	return hold
}

// blocked reports a journal that can't be read: nothing may be sent then.
func (p *Provider) blocked(a *reading, cause error) error {
	p.log.Error("journal blocks the exchange", "account", a.Key.String(), "error", cause)
	p.tell(&a.Account, events.StatusJournalBlocked, "an answer of the token endpoint may wait in a journal that can't be read: "+cause.Error(), time.Time{})
	hold := unavailable(p.timing.LeaseTTL, "%s: a journal record can't be read; nothing is sent before it can", a.Key)
	p.holdOff(a, p.clock.Now().Add(p.timing.LeaseTTL), hold)
	return hold
}

// begin writes the rotation's record and, if it won, makes the exchange.
func (p *Provider) begin(ctx context.Context, a *reading, w want, policy Policy) (again bool, err error) {
	release, err := p.slot(ctx, a, policy, w.reason != events.ReasonExpiry)
	if err != nil {
		return false, err
	}
	sent := false
	defer func() {
		if !sent {
			p.spare(a.Key, policy)
		}
		release()
	}()
	select {
	case <-p.stopping:
		return false, errStopping()
	default:
	}
	from := a.Version
	switch announced, err := p.storeBehind(ctx, a); {
	case err != nil && !w.force:
		return false, err
	case err != nil:
		from = announced // what comes of it counts on from there
	}
	r := &account.Rotation{
		ID: rand.Text(), Worker: p.worker, Host: p.host, State: account.RotationBegun,
		FromVersion: a.Version, StartedAt: p.now(), LeaseTTL: p.timing.LeaseTTL, Attempts: 1,
	}
	guard := account.Guard{Version: a.Version, Rotation: account.NoRotation()}
	if a.Rotation != nil {
		guard.Rotation, guard.Heartbeat = &a.Rotation.ID, &a.Rotation.Heartbeat
		r.Attempts = a.Rotation.Attempts + 1
		if r.FirstStartedAt = a.Rotation.FirstStartedAt; r.FirstStartedAt.IsZero() {
			r.FirstStartedAt = a.Rotation.StartedAt
		}
		p.log.Warn("rotation taken over; the refresh token may be sent a second time", "account", a.Key.String(),
			"version", a.Version, "holder", a.Rotation.Worker, "attempt", r.Attempts)
	}
	started := p.clock.Elapsed()
	doc, err := p.write(ctx, a, guard, account.Change{
		Fields: account.FieldRotation | account.FieldRefreshAt, At: p.now(),
		// Due again if nobody ends the rotation.
		To: account.Account{Rotation: r, RefreshAt: millis(p.clock.Now().Add(p.patience(a.Key.Platform())))},
	})
	switch {
	case errors.Is(err, ErrConflict):
		return true, nil
	case err != nil:
		doc, err = p.read(ctx, a.Key) // done, or not done?
		if err != nil || doc.Rotation == nil || doc.Rotation.ID != r.ID {
			return false, unavailable(retrySoon, "%s: the account store does not answer; nothing is sent that could not be saved", a.Key)
		}
	}
	crashAt("begun")
	sent = true
	return false, p.exchange(ctx, &doc, w, policy, from, started, release)
}

// storeBehind refuses to exchange for a document that is older than what peers
// have been told: a restored backup holds a refresh token that is spent. The
// error comes with the announced version. An operator may force it all the
// same.
func (p *Provider) storeBehind(ctx context.Context, a *reading) (announced account.Version, err error) {
	ctx, cancel := context.WithTimeout(ctx, cacheTimeout)
	defer cancel()
	bump, err := p.publisher.LastBump(ctx, a.Key)
	if err != nil || bump.Version <= a.Version {
		return 0, nil // also without an answer: a stream that is down must not end all refreshes
	}
	text := fmt.Sprintf("the account store has version %d and the fleet has announced version %d; is the store a restored backup? nothing is sent for it before a new login or a forced accounts.refresh", a.Version, bump.Version)
	p.log.Error("store is behind", "account", a.Key.String(), "version", a.Version, "announced", bump.Version)
	p.tell(&a.Account, events.StatusStoreBehind, text, time.Time{})
	hold := unavailable(p.timing.LeaseTTL, "%s: %s", a.Key, text)
	p.holdOff(a, p.clock.Now().Add(p.timing.LeaseTTL), hold)
	return bump.Version, hold
}
