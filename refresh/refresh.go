package refresh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/rotation"
)

// How a flight waits for another worker's rotation.
const (
	pollFirst = 100 * time.Millisecond
	pollMax   = time.Second
)

// flying is a flight from the inside: one account, from the first look at its
// document to its end.
type flying struct {
	*Refresher
	key    account.Key
	want   Want
	policy rotation.Policy
	known  bool            // the platform is defined
	doc    ledger.Document // as last read
	place  *gate           // where there is a place for us already; nil: nowhere
	lease  Lease           // ours; nil: none
	held   bool            // another worker has the lease
	begun  bool            // a rotation's record was written
	// atLeast is how long a due refresh is put off that can't be had.
	atLeast time.Duration
	doubted bool // a doubt was written, and its due time with it
}

// fly brings the account over w.Over, by whoever does it. It returns nil once
// something newer is in the store and in L1.
func (r *Refresher) fly(key account.Key, w Want, news <-chan struct{}) (err error) {
	f := &flying{Refresher: r, key: key, want: w, place: w.place}
	f.policy, f.known = r.cfg.Endpoint.Policy(key.Platform())
	f.takeLease()
	defer func() {
		f.yield()
		f.leaveLease()
		if w.due && !f.full() { // else others can do it
			f.postpone(err)
		}
	}()
	deadline := r.clock.Elapsed() + r.patience(key.Platform())
	for poll := pollFirst; ; poll = min(2*poll, pollMax) {
		if f.held && w.Reason == events.ReasonExpiry {
			return nil // ahead of need, and another worker is at it
		}
		if again, err := f.advance(r.base); !again {
			return err
		}
		f.yield() // others can use it meanwhile
		if r.clock.Elapsed() > deadline {
			return events.Unavailable(events.RetrySoon, "%s: another worker's refresh takes long", key)
		}
		select {
		case <-news:
			poll = pollFirst
		case <-r.clock.After(poll):
		case <-r.stopping:
			return errStopping()
		}
		if f.lease == nil {
			f.takeLease()
		}
	}
}

// takeLease takes the lease, or notes that another worker has it. A backend
// that is out of reach holds nobody up.
func (f *flying) takeLease() {
	ctx, cancel := context.WithTimeout(f.base, ledger.CacheTimeout)
	defer cancel()
	var err error
	f.lease, err = f.cfg.Locker.Acquire(ctx, f.key)
	now := f.clock.Elapsed()
	f.held = false
	f.flights.with(f.key, func(s *state) {
		switch {
		case !errors.Is(err, ErrHeld):
			s.heldSince = 0
		case s.heldSince == 0, now-s.looked > f.cfg.Timing.LeaseTTL: // or it was another one, some time ago
			s.heldSince, f.held = now, true
		default:
			// One that outlives the time in which its owner must have shown a
			// heartbeat was left behind, and holds nobody up.
			f.held = now-s.heldSince < f.cfg.Timing.LeaseTTL
		}
		s.looked = now
	})
	if err == nil || errors.Is(err, ErrHeld) {
		return
	}
	f.lease = nil
	f.log.Debug("lease backend is out of reach; going on without", "account", f.key.String(), "error", err)
}

// leaveLease gives the lease up; nobody waits for that.
func (f *flying) leaveLease() {
	if f.lease == nil {
		return
	}
	f.flights.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(f.base), ledger.CacheTimeout)
		defer cancel()
		f.lease.Release(ctx)
	})
}

// advance reads the document, decides, and takes one step. again says that
// another worker is at it: look again later.
func (f *flying) advance(ctx context.Context) (again bool, err error) {
	if err := f.read(ctx); err != nil {
		return false, err
	}
	if f.want.due {
		if f.doc.RefreshAt.IsZero() || f.doc.RefreshAt.After(f.clock.Now()) {
			return false, nil // it is due no longer
		}
		f.want.due, f.want.Over = false, f.doc.Version
		if err := f.heldOff(f.key); err != nil {
			return false, err
		}
	}
	rules := f.ledger.Rules(f.key)
	rules.Force, rules.Exempt = f.want.Force, f.want.Operator
	plan := rotation.Decide(&f.doc.Account, f.want.Over, f.want.Reason, f.look(), rules)
	if f.want.Join && plan.Step != rotation.StepDone && plan.Step != rotation.StepWait {
		f.ledger.SetBusy(f.key, time.Time{})
		return false, nil // what was to be waited for is over
	}
	switch plan.Step {
	case rotation.StepDone:
		f.ledger.Adopt(&f.doc)
		return false, nil
	case rotation.StepWait:
		return true, nil
	case rotation.StepRefuse:
		return false, f.refuse(ctx, plan.Err)
	}
	if f.held && plan.Step != rotation.StepInDoubt {
		return true, nil // the lease's owner is about to do it
	}
	switch again, err := f.settleFirst(ctx); {
	case again, err != nil:
		return again, err
	case plan.Step == rotation.StepInDoubt:
		return false, f.doubt(ctx, plan.At)
	case !f.known:
		return false, f.hold(time.Minute, "no provider %q is defined; add it to the file of --providers", f.key.Platform())
	}
	return f.begin(ctx)
}

// settleFirst settles what was answered already: it must be saved before
// anything is sent. again says that the document is to be read again.
func (f *flying) settleFirst(ctx context.Context) (again bool, err error) {
	if gone := f.doc.Rotation; gone != nil {
		id := gone.ID
		if f.doc.LastRotationID == id {
			id = "" // its answer is settled, as a doubt that is left
		}
		found, err := f.replayAccount(ctx, f.key, id)
		if err != nil {
			return false, f.blocked(err)
		}
		return found, nil
	}
	waiting := f.waits(f.key)
	if len(waiting) == 0 {
		return false, nil
	}
	// The store has lost the record of it.
	_, failed := f.replayAccount(ctx, f.key, "")
	now, err := f.ledger.First(ctx, f.key) // f.doc stays: its guard says that nobody has begun since
	if err == nil && now.Version != f.doc.Version {
		return true, nil
	}
	for _, w := range waiting {
		// An answer to the very token that is to be sent, or from a time that the
		// store has lost.
		if failed != nil && (w.refresh == f.doc.Fingerprints.Refresh || w.version > f.doc.Version) {
			return false, f.blocked(failed)
		}
	}
	if failed != nil {
		f.log.Warn("replay from the journal", "account", f.key.String(), "error", failed)
	}
	return false, nil
}

// look notes the document's rotation and returns what this worker has seen of
// it.
func (f *flying) look() (s rotation.Sight) {
	now := f.clock.Elapsed()
	f.flights.with(f.key, func(st *state) { s, st.looked = st.sight.Look(&f.doc.Account, now), now })
	return s
}

// hold refuses, and keeps everybody off for as long as the reason is sure to
// last.
func (f *flying) hold(d time.Duration, format string, args ...any) error {
	err := events.Unavailable(d, "%s: %s", f.key, fmt.Sprintf(format, args...))
	return f.holdOff(f.key, f.doc.Rev, d, err)
}

// read reads the document that decides; what goes wrong is said to those who
// wait.
func (f *flying) read(ctx context.Context) (err error) {
	f.doc, err = f.ledger.First(ctx, f.key)
	switch {
	case errors.Is(err, ledger.ErrNotFound):
		return events.NotFound(f.key)
	case errors.Is(err, ledger.ErrUnreadable):
		f.log.Error("credentials can't be opened", "account", f.key.String(), "error", err)
		return f.holdOff(f.key, f.doc.Rev, f.cfg.Timing.LeaseTTL, ledger.Unreadable(f.key))
	case err != nil:
		f.log.Warn("read store", "account", f.key.String(), "error", err)
		return f.holdOff(f.key, f.ledger.Known(f.key).Rev(), events.RetrySoon, errNoStore(f.key))
	}
	return nil
}

func errNoStore(key account.Key) *events.Error {
	return events.Unavailable(events.RetrySoon, "%s: the account store does not answer; nothing is sent that could not be saved", key)
}

// refuse passes on why there is no refresh now, and remembers it for as long
// as it is sure to last.
func (f *flying) refuse(ctx context.Context, e *events.Error) error {
	v, now := f.ledger.Learn(&f.doc), f.clock.Now()
	if end, ok := rotation.NoteEnd(v, &f.doc.Account, now); ok && e.Code == events.CodeReauthRequired {
		f.write(ctx, end)
	}
	if left := f.doc.CooldownUntil.Sub(now); left > 0 && e.Code == events.CodeCoolingDown {
		f.holdOff(f.key, f.doc.Rev, left, e)
	}
	return e
}

// write writes what was found out about the document beside an exchange. If
// that fails, the next look finds it again.
func (f *flying) write(ctx context.Context, e rotation.Ending) {
	doc, err := f.ledger.Write(ctx, &f.doc, e.Guard, *e.Change)
	if err != nil {
		f.log.Debug("write what was found out", "account", f.key.String(), "code", e.Status, "error", err)
		return
	}
	f.log.Warn(e.Note, "account", f.key.String(), "version", doc.Version, "code", e.Status, "message", e.Message)
	if doc.Rev > f.doc.Rev {
		f.ledger.Adopt(&doc)
	}
	f.ledger.Tell(&doc.Account, e.Status, e.Message, e.Until)
}

// doubt leaves a rotation whose worker is gone until a second send is allowed,
// and says so once.
func (f *flying) doubt(ctx context.Context, until time.Time) error {
	e := rotation.Doubt(&f.doc.Account, until, f.clock.Now())
	if e.Change != nil {
		f.doubted = true
		f.write(ctx, e)
	}
	// Not for long: an operator, a login or the lost worker may end it.
	return f.hold(min(until.Sub(f.clock.Now()), f.cfg.Timing.LeaseTTL), "%s", e.Message)
}

// blocked reports a journal that can't be read: nothing may be sent then.
func (f *flying) blocked(cause error) error {
	f.log.Error("journal blocks the exchange", "account", f.key.String(), "error", cause)
	f.ledger.Tell(&f.doc.Account, events.StatusJournalBlocked, "an answer of the token endpoint may wait in a journal that can't be read: "+cause.Error(), time.Time{})
	return f.hold(f.cfg.Timing.LeaseTTL, "a journal record can't be read; nothing is sent before it can")
}

// journalFull is how long a refresh is held off that met a full journal.
const journalFull = time.Second

// spoolFull is how long a refresh is held off that met a spool that can't keep
// an answer; another worker may do it meanwhile.
const spoolFull = time.Second

// begin writes the rotation's record and, if it won, makes the exchange.
func (f *flying) begin(ctx context.Context) (again bool, err error) {
	if f.stats.waiting.Load() > int64(f.cfg.MaxJournal) {
		return false, f.hold(journalFull, "more answers wait in the journal than it is good for; nothing more is exchanged before the account store takes them")
	}
	pass, err := f.enter(ctx)
	if err != nil {
		return false, err
	}
	defer pass.leave()
	select {
	case <-f.stopping:
		return false, errStopping()
	default:
	}
	seen, err := f.StoreBehind(ctx, &f.doc)
	switch {
	case errors.Is(err, ledger.ErrConflict):
		return true, nil
	case err != nil && !f.want.Force:
		f.atLeast = maxPostpone
		return false, err
	}
	seen.Version = max(seen.Version, f.doc.Version) // what comes of it counts on from there
	record, guard := rotation.Begin(&f.doc.Account, f.cfg.WorkerID, f.cfg.Host, f.look(), f.ledger.Rules(f.key))
	place, err := f.cfg.Spool.Reserve(f.key, record.ID)
	if err != nil { // what came of it might be kept nowhere
		f.fullUntil.Store(int64(f.clock.Elapsed() + 2*spoolFull)) // longer than it is held off
		f.log.Error("spool can't keep an answer; nothing is sent", "account", f.key.String(), "error", err)
		return false, f.hold(spoolFull, "this worker's disk can't keep the answer; nothing is sent")
	}
	defer place.Release()
	if record.Attempts > 1 {
		f.log.Warn("rotation taken over; the refresh token may be sent a second time", "account", f.key.String(),
			"version", f.doc.Version, "holder", f.doc.Rotation.Worker, "attempt", record.Attempts)
	}
	started := f.clock.Elapsed()
	doc, err := f.ledger.Write(ctx, &f.doc, guard, account.Change{
		Fields: account.FieldRotation | account.FieldRefreshAt,
		// Due again if nobody ends the rotation.
		To: account.Account{Rotation: record, RefreshAt: rotation.Millis(f.clock.Now().Add(f.patience(f.key.Platform())))},
	})
	switch {
	case errors.Is(err, ledger.ErrConflict):
		return true, nil
	case err != nil: // done, or not done?
		if doc, err = f.ledger.ReadOpened(ctx, f.key); err != nil || doc.Rotation == nil || doc.Rotation.ID != record.ID {
			return false, errNoStore(f.key)
		}
	}
	f.begun = true
	return false, f.exchange(ctx, &doc, pass, place, seen, started)
}

// StoreBehind refuses to build on a document that is older than what peers
// have been told: a restored backup holds a refresh token that is spent. It returns
// the highest version and rev that they have been told of; a nil error: the store
// has that version. The error is [ledger.ErrConflict] where another worker was
// quicker, and the document is to be read again.
func (r *Refresher) StoreBehind(ctx context.Context, d *ledger.Document) (seen events.Bump, err error) {
	seen, behind := r.ledger.Behind(ctx, d)
	if !behind {
		return seen, nil
	}
	if now, err := r.ledger.Read(ctx, d.Key); err == nil && now.Version >= seen.Version {
		return seen, ledger.ErrConflict
	}
	text := fmt.Sprintf("the account store has version %d and the fleet has announced version %d; is the store a restored backup? nothing is sent for it before a new login or a forced accounts.refresh", d.Version, seen.Version)
	r.log.Error("store is behind", "account", d.Key.String(), "version", d.Version, "announced", seen.Version)
	r.ledger.Tell(&d.Account, events.StatusStoreBehind, text, time.Time{})
	e := events.Unavailable(r.cfg.Timing.LeaseTTL, "%s: %s", d.Key, text)
	return seen, r.holdOff(d.Key, d.Rev, r.cfg.Timing.LeaseTTL, e)
}
