package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// exchange sends the refresh token of a begun rotation, once, and sees to it
// that the outcome is written. It runs to its end whatever becomes of those
// who wait. started is when the record's write was begun.
func (p *Provider) exchange(ctx context.Context, a *reading, w want, policy Policy, from account.Version, started time.Duration, release func()) error {
	if !policy.ServeWhileRefreshing {
		p.l1.update(a.Key, func(e *l1Entry) { e.busy = p.clock.Now().Add(policy.Timeout) })
		p.tellNow(ctx, &a.Account, events.StatusRefreshing, "the endpoint ends the old access token during a refresh", p.clock.Now().Add(policy.Timeout))
	}
	beat := p.startHeartbeat(ctx, a, started)
	raw, sendErr := p.endpoint.Send(ctx, SendRequest{Platform: a.Key.Platform(), Credentials: a.credentials, BeforeFirstByte: beat.allow})
	crashAt("answered")
	// Whatever ends from here on, the outcome is kept.
	ctx = context.WithoutCancel(ctx)
	rec := Record{
		Key: a.Key, RotationID: a.Rotation.ID, FromVersion: from, Worker: p.worker, Host: p.host, At: p.now(),
		From: account.Fingerprints{Access: a.Fingerprints.Access, Refresh: a.Fingerprints.Refresh}, Reason: w.reason, Operator: w.operator,
	}
	verdict := unanswered(sendErr)
	if sendErr == nil {
		rec.At = millis(raw.SentAt)
		if err := p.stash(ctx, &rec, raw); err != nil {
			p.log.Error("answer is not in the spool; it goes to the store at once", "account", a.Key.String(), "error", err)
		}
		crashAt("stashed")
		verdict = p.endpoint.Judge(a.Key.Platform(), raw)
	}
	beat.stop()
	p.stats.exchanged(a.Key.Platform(), verdict.Outcome)
	p.log.Info("exchange", "account", a.Key.String(), "version", a.Version, "outcome", verdict.Outcome, "code", verdict.Code, "attempt", a.Rotation.Attempts)
	p.judgeProvider(a, verdict)
	release()
	return p.settleUntilDone(ctx, rec, verdict)
}

// Outcomes of an exchange that never left this machine. They never come from
// an endpoint.
const (
	notSent Outcome = "not_sent" // no way to the endpoint
	fenced  Outcome = "fenced"   // this worker was too slow to be sure of its record; nobody's failure
)

// unanswered is the verdict on a request that brought no answer.
func unanswered(err error) Verdict {
	if err == nil {
		return Verdict{}
	}
	switch {
	case errors.Is(err, errFenced):
		return Verdict{Outcome: fenced, Code: "fenced", Message: err.Error()}
	case errors.Is(err, ErrMisconfigured):
		return Verdict{Outcome: Misconfigured, Code: "not_sent", Message: err.Error()}
	}
	if e, ok := errors.AsType[*SendError](err); ok && e.Sent {
		return Verdict{Outcome: Unknown, Code: "no_answer", Message: "the request was sent and no answer came: " + err.Error()}
	}
	return Verdict{Outcome: notSent, Code: "not_sent", Message: "the request could not be sent: " + err.Error()}
}

// stash seals the answer and puts it into the spool before anything else is
// done with it.
func (p *Provider) stash(ctx context.Context, rec *Record, raw RawAnswer) error {
	plain, err := json.Marshal(raw)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	if rec.Answer, err = p.sealer.Seal(plain, associated(rec.Key, fieldAnswer)); err != nil {
		return fmt.Errorf("seal answer: %w", err)
	}
	return p.spool.Stash(ctx, *rec)
}

// settleUntilDone writes the outcome, again and again until the store has it.
// Before the second attempt the answer is made durable beside the store. A
// stop ends the attempts, not the one that is under way.
func (p *Provider) settleUntilDone(ctx context.Context, rec Record, v Verdict) error {
	answered := len(rec.Answer) > 0
	var disk, shared bool
	for attempt := 1; ; attempt++ {
		result, err := p.settle(ctx, rec, v)
		if err == nil {
			crashAt("settled")
			p.forget(ctx, rec, attempt > 1)
			return result
		}
		p.log.Warn("outcome of an exchange is not saved yet", "account", rec.Key.String(), "attempt", attempt, "error", err)
		if answered && !(disk && shared) {
			disk, shared = p.secure(ctx, rec, disk, shared)
			crashAt("journaled")
		}
		if errors.Is(err, ErrNotFound) && attempt >= goneAfter && (disk || shared) {
			return noAccount(rec.Key) // its answer stays in the journal, should the store come back
		}
		select {
		case <-p.clock.After(p.infra.Delay(attempt, p.random())):
		case <-p.base.Done():
			p.leave(rec, disk || shared)
			return unavailable(retrySoon, "%s: the account store does not take the new credentials; they wait in the journal", rec.Key)
		}
	}
}

// goneAfter is how many looks it takes to believe that an account is gone.
const goneAfter = 3

func noAccount(key account.Key) *events.Error {
	return &events.Error{Code: events.CodeNotFound, Message: fmt.Sprintf("no account %s", key)}
}

// leave counts what a stop leaves undone.
func (p *Provider) leave(rec Record, kept bool) {
	if kept {
		p.stats.undone.Add(1)
		return
	}
	p.stats.doubtful.Add(1)
	p.log.Error("the outcome of an exchange is not saved anywhere", "account", rec.Key.String(), "version", rec.FromVersion)
}

// heartbeat keeps the rotation's record alive while its worker waits for the
// endpoint, and forbids the first byte once it can't be sure of that.
type heartbeat struct {
	p        *Provider
	key      account.Key
	ctx      context.Context // of the goroutine; ends with stop
	cancel   context.CancelFunc
	done     chan struct{}
	turn     chan struct{}    // capacity 1: held by whoever writes a beat
	rotation account.Rotation // the record as last written; guarded by turn
	takeover bool             // another worker may hold an answer to the same token

	mu        sync.Mutex    // guards what follows
	deadline  time.Duration // on the Elapsed clock: nothing is sent from here on
	lost      bool          // the record is another's
	confirmed bool          // the record was ours at the last beat
	sent      bool
}

var errFenced = errors.New("the rotation's heartbeat is too old to send anything")

func (p *Provider) startHeartbeat(ctx context.Context, a *reading, started time.Duration) *heartbeat {
	ctx, cancel := context.WithCancel(ctx)
	h := &heartbeat{
		p: p, key: a.Key, ctx: ctx, cancel: cancel, done: make(chan struct{}), turn: make(chan struct{}, 1),
		rotation: *a.Rotation, takeover: a.Rotation.Attempts > 1, deadline: started + a.Rotation.LeaseTTL,
	}
	go h.run()
	return h
}

// allow is asked right before the first byte of the request leaves. After a
// takeover it makes sure that the record still stands: the worker that was
// given up may have come back with its answer since. What is left: a process
// that is frozen between this check and the write.
func (h *heartbeat) allow() error {
	if h.takeover {
		h.beat()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost || h.takeover && !h.confirmed || h.p.clock.Elapsed() >= h.deadline {
		return errFenced
	}
	h.sent = true
	crashAt("sending")
	return nil
}

func (h *heartbeat) stop() {
	h.cancel()
	<-h.done
}

func (h *heartbeat) run() {
	defer close(h.done)
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-h.p.clock.After(h.p.timing.LeaseTTL / 3):
		}
		if !h.beat() {
			return
		}
	}
}

// beat writes one heartbeat and reports whether to go on.
func (h *heartbeat) beat() bool {
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-h.ctx.Done():
		return false
	}
	started := h.p.clock.Elapsed()
	h.rotation.Heartbeat++
	h.mu.Lock()
	if h.sent {
		h.rotation.State = account.RotationSent
	}
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(h.ctx, storeTimeout)
	defer cancel()
	_, err := h.p.store.Update(ctx, h.key, account.Guard{Rotation: &h.rotation.ID}, account.Change{
		Fields: account.FieldRotation, At: h.p.now(), To: account.Account{Rotation: &h.rotation},
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.confirmed = err == nil
	switch {
	case err == nil:
		h.deadline = started + h.rotation.LeaseTTL
	case errors.Is(err, ErrConflict), errors.Is(err, ErrNotFound):
		h.lost = true
	}
	return !h.lost
}
