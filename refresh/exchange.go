package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/failpoint"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/rotation"
)

// exchange sends the refresh token of a begun rotation, once, and sees to it
// that the outcome is written. It runs to its end whatever becomes of those
// who wait. started is when the record's write was begun, place is for the
// answer, seen what peers have been told of or the document's version is.
func (f *flying) exchange(ctx context.Context, d *ledger.Document, p *pass, place Place, seen events.Bump, started time.Duration) error {
	failpoint.At("begun")
	if !f.policy.ServeWhileRefreshing {
		until := f.clock.Now().Add(f.policy.Timeout)
		f.ledger.SetBusy(f.key, until)
		f.ledger.TellNow(ctx, &d.Account, events.StatusRefreshing, "the endpoint ends the old access token during a refresh", until)
	}
	beat := f.startHeartbeat(ctx, d, started)
	raw, sendErr := f.cfg.Endpoint.Send(ctx, SendRequest{Platform: f.key.Platform(), Credentials: d.Opened, BeforeFirstByte: beat.allow})
	failpoint.At("answered")
	// Whatever ends from here on, the outcome is kept.
	ctx = context.WithoutCancel(ctx)
	rec := rotation.Record{
		Key: f.key, RotationID: d.Rotation.ID, FromVersion: seen.Version, Announced: seen.Rev, Worker: f.cfg.WorkerID, Host: f.cfg.Host, At: f.ledger.Now(),
		From: account.Fingerprints{Access: d.Fingerprints.Access, Refresh: d.Fingerprints.Refresh}, Reason: f.want.Reason, Operator: f.want.Operator,
	}
	verdict := unanswered(sendErr)
	if sendErr == nil {
		rec.At = rotation.Millis(raw.SentAt)
		if err := f.stash(place, &rec, raw); err != nil {
			f.log.Error("answer has not its place in the spool; it goes to the store at once", "account", f.key.String(), "error", err)
		}
		failpoint.At("stashed")
		verdict = f.cfg.Endpoint.Judge(f.key.Platform(), raw)
	}
	beat.stop()
	f.stats.exchanged(f.key.Platform(), verdict.Outcome)
	f.log.Info("exchange", "account", f.key.String(), "version", d.Version, "outcome", verdict.Outcome, "code", verdict.Code, "attempt", d.Rotation.Attempts)
	p.report(d, verdict)
	p.leave()
	if d.Rotation.Attempts > 1 || f.clock.Elapsed()-started >= f.cfg.Timing.LeaseTTL/3 {
		d = nil // heartbeats, or another's doubt, may be in the record by now
	}
	return f.settleUntilDone(ctx, rec, verdict, d)
}

// unanswered is the verdict on a request that brought no answer.
func unanswered(err error) rotation.Verdict {
	if err == nil {
		return rotation.Verdict{}
	}
	switch {
	case errors.Is(err, errFenced):
		return rotation.Verdict{Outcome: rotation.Fenced, Code: "fenced", Message: err.Error()}
	case errors.Is(err, ErrMisconfigured):
		return rotation.Verdict{Outcome: rotation.Misconfigured, Code: "not_sent", Message: err.Error()}
	}
	if e, ok := errors.AsType[*SendError](err); ok && e.Sent {
		return rotation.Verdict{Outcome: rotation.Unknown, Code: "no_answer", Message: "the request was sent and no answer came: " + err.Error()}
	}
	return rotation.Verdict{Outcome: rotation.NotSent, Code: "not_sent", Message: "the request could not be sent: " + err.Error()}
}

// FieldAnswer names the sealed part of a journal record.
const FieldAnswer = "answer"

// stash seals the answer and puts it into its place in the spool before anything
// else is done with it.
func (r *Refresher) stash(place Place, rec *rotation.Record, raw RawAnswer) error {
	plain, err := json.Marshal(raw)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	if rec.Answer, err = r.cfg.Sealer.Seal(plain, ledger.Associated(rec.Key, FieldAnswer)); err != nil {
		return fmt.Errorf("seal answer: %w", err)
	}
	return place.Stash(*rec)
}
