package refresh

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/failpoint"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/rotation"
)

// goneAfter is how many looks it takes to believe that an account is gone.
const goneAfter = 3

// settleUntilDone writes the outcome, again and again until the store has it.
// Before the second attempt the answer is made durable beside the store. A
// stop ends the attempts, not the one that is under way. begun is the document
// with this rotation's record, as this worker has just written it; nil: unknown.
func (r *Refresher) settleUntilDone(ctx context.Context, rec rotation.Record, v rotation.Verdict, begun *ledger.Document) error {
	answered := len(rec.Answer) > 0
	var disk, shared bool
	var tried rotation.Ending
	for attempt := 1; ; attempt++ {
		result, err := r.settle(ctx, rec, v, begun, &tried)
		begun = nil // whatever that attempt did to it
		if err == nil {
			failpoint.At("settled")
			r.forget(ctx, rec, attempt > 1)
			return result
		}
		r.log.Warn("outcome of an exchange is not saved yet", "account", rec.Key.String(), "attempt", attempt, "error", err)
		if answered && !(disk && shared) {
			disk, shared = r.secure(ctx, rec, disk, shared)
			failpoint.At("journaled")
		}
		if errors.Is(err, ledger.ErrNotFound) && attempt >= goneAfter && (disk || shared) {
			return events.NotFound(rec.Key) // its answer stays in the journal, should the store come back
		}
		select {
		case <-r.clock.After(saving.Delay(attempt, r.cfg.Random())):
		case <-r.base.Done():
			r.leave(rec, disk || shared)
			return events.Unavailable(events.RetrySoon, "%s: the account store does not take the new credentials; they wait in the journal", rec.Key)
		}
	}
}

// leave counts what a stop leaves undone.
func (r *Refresher) leave(rec rotation.Record, kept bool) {
	if kept {
		r.stats.undone.Add(1)
		return
	}
	r.stats.doubtful.Add(1)
	r.log.Error("the outcome of an exchange is not saved anywhere", "account", rec.Key.String(), "version", rec.FromVersion)
}

// settle writes the outcome, once. result is what those who wait get. err means
// that the outcome is not, or not certainly, in the store: call again with the
// same tried, which is what was written then.
//
// As a rule nobody has touched the document since the rotation's record was
// written: then begun is the newest, and no read is needed. The store refuses the
// write where version, rev, rotation or credentials are others by now.
func (r *Refresher) settle(ctx context.Context, rec rotation.Record, v rotation.Verdict, begun *ledger.Document, tried *rotation.Ending) (result, err error) {
	if begun != nil {
		unchanged := ledger.GuardOf(&begun.Account)
		unchanged.Credentials = begun.Account.Credentials
		result, err = r.apply(ctx, begun, rec, v, &unchanged, tried)
		if !errors.Is(err, ledger.ErrConflict) && !errors.Is(err, ledger.ErrNotFound) {
			return result, err
		}
	}
	d, err := r.ledger.ReadOpened(ctx, rec.Key)
	switch {
	case errors.Is(err, ledger.ErrNotFound) && !v.Brought():
		return events.NotFound(rec.Key), nil
	case err != nil: // also where there is no such account: a read alone drops no answer
		return nil, err
	}
	return r.apply(ctx, &d, rec, v, nil, tried)
}

// apply asks [rotation.Settle] what the outcome does to the document, and writes
// that, under its guard or, if not nil, a stricter one.
func (r *Refresher) apply(ctx context.Context, d *ledger.Document, rec rotation.Record, v rotation.Verdict, stricter *account.Guard, tried *rotation.Ending) (result, err error) {
	e := rotation.Settle(&d.Account, rec, v, r.merged(d, v), r.settleRules(d, v))
	note := func(d *ledger.Document) {
		if e.Note != "" {
			level := slog.LevelInfo
			if v.Outcome == rotation.Rejected {
				level = slog.LevelWarn // a person is needed
			}
			r.log.Log(ctx, level, e.Note, "account", rec.Key.String(), "from_version", rec.FromVersion, "version", d.Version, "reason", rec.Reason, "code", v.Code)
		}
	}
	if e.Change == nil {
		if d.LastRotationID == rec.RotationID { // the write whose reply was lost has done it
			e = *tried
		}
		note(d)
		r.ledger.Adopt(d)
		return r.end(d, e)
	}
	guard, change := *cmp.Or(stricter, &e.Guard), *e.Change
	if e.Credentials != nil {
		if err := r.ledger.Seal(&change.To, *e.Credentials); err != nil {
			return nil, err
		}
	}
	if e.Above {
		if err := r.ledger.Lift(ctx, d, &guard, &change); err != nil {
			return nil, err
		}
	}
	doc, err := r.ledger.Write(ctx, d, guard, change)
	if err != nil {
		if !errors.Is(err, ledger.ErrConflict) {
			*tried = e
		}
		return nil, err
	}
	if e.Credentials != nil {
		failpoint.At("committed")
	}
	note(&doc)
	r.ledger.SetBusy(rec.Key, time.Time{})
	if doc.Rev > d.Rev {
		r.ledger.Adopt(&doc)
	} else { // nothing that peers need to know
		r.ledger.Learn(&doc)
	}
	return r.end(&doc, e)
}

// end tells of an outcome that is in the store, and returns what those who wait
// get.
func (r *Refresher) end(d *ledger.Document, e rotation.Ending) (result, err error) {
	if left := e.Hold.Sub(r.clock.Now()); left > 0 {
		r.holdOff(d.Key, d.Rev, left, e.Reply)
	}
	if e.Status != "" {
		r.ledger.Tell(&d.Account, e.Status, e.Message, e.Until)
	}
	if e.Reply != nil {
		return e.Reply, nil
	}
	return nil, nil
}

// merged are the document's credentials with those of the answer over them.
func (r *Refresher) merged(d *ledger.Document, v rotation.Verdict) rotation.Merged {
	c := r.cfg.Endpoint.Describe(d.Key.Platform(), d.Opened.Merge(v.Credentials))
	return rotation.Merged{Credentials: c, Access: r.cfg.Sealer.Fingerprint(c.AccessToken), Refresh: r.cfg.Sealer.Fingerprint(c.RefreshToken)}
}

// settleRules are the rules by which an outcome is judged.
func (r *Refresher) settleRules(d *ledger.Document, v rotation.Verdict) rotation.Rules {
	rules := r.ledger.Rules(d.Key)
	rules.Backoff, rules.Own = r.cfg.Backoff, ownClient(d)
	if v.Outcome == rotation.Misconfigured {
		rules.Circuit = cmp.Or(r.gate(d.Key.Platform()).breaker.OpenFor(rules.Now), events.RetrySoon)
	}
	return rules
}
