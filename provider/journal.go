package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// secure makes the answer durable beside the store, where it isn't yet: on this
// disk and in the journal that all workers share.
func (p *Provider) secure(ctx context.Context, rec Record, disk, shared bool) (onDisk, inShared bool) {
	if !disk && !shared {
		p.stats.journaled.Add(1)
		p.log.Warn("answer has to wait in the journal", "account", rec.Key.String(), "version", rec.FromVersion, "rotation", rec.RotationID)
	}
	if !disk {
		err := p.spool.Put(ctx, rec)
		if disk = err == nil; !disk {
			p.log.Error("answer is not on the disk", "account", rec.Key.String(), "error", err)
		}
	}
	if !shared {
		shared = p.share(ctx, rec)
	}
	return disk, shared
}

// share puts a record where every worker finds it.
func (p *Provider) share(ctx context.Context, rec Record) bool {
	err := p.withTimeout(ctx, func(ctx context.Context) error { return p.journal.Put(ctx, rec) })
	if err != nil {
		p.log.Error("answer is not in the shared journal", "account", rec.Key.String(), "error", err)
	}
	return err == nil
}

// forget removes a settled record.
func (p *Provider) forget(ctx context.Context, rec Record, journaled bool) {
	ctx = context.WithoutCancel(ctx)
	if len(rec.Answer) > 0 {
		if err := p.spool.Delete(ctx, rec.Key, rec.RotationID); err != nil {
			p.log.Warn("spool record stays; it will be found settled", "account", rec.Key.String(), "error", err)
		}
	}
	if !journaled {
		return
	}
	if err := p.withTimeout(ctx, func(ctx context.Context) error { return p.journal.Delete(ctx, rec.Key, rec.RotationID) }); err != nil {
		p.log.Warn("journal record stays; it will be found settled", "account", rec.Key.String(), "error", err)
	}
}

// withTimeout bounds a call that nobody waits for longer than for the store.
func (p *Provider) withTimeout(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return f(ctx)
}

// waiting returns what waits in both journals for the account, or for all.
// The error tells what could not be read.
func (p *Provider) waiting(ctx context.Context, key account.Key) ([]Record, error) {
	records, disk := p.spool.Records(ctx, key)
	shared := p.withTimeout(ctx, func(ctx context.Context) error {
		more, err := p.journal.Records(ctx, key)
		records = append(records, more...)
		return err
	})
	return records, errors.Join(disk, shared)
}

// replayAccount settles what waits for the account, and reports whether an
// answer to the given rotation was among it. An error means that something may
// wait and can't be read or saved: nothing may be sent then. The caller is the
// account's flight.
func (p *Provider) replayAccount(ctx context.Context, key account.Key, rotationID string) (found bool, err error) {
	records, err := p.waiting(ctx, key)
	for _, rec := range records {
		if rec.Key != key {
			continue
		}
		found = found || rec.RotationID == rotationID
		if e := p.replay(ctx, rec); e != nil {
			p.share(ctx, rec) // perhaps others can
			err = errors.Join(err, e)
		}
	}
	return found, err
}

// replay judges the record's answer anew and settles it.
func (p *Provider) replay(ctx context.Context, rec Record) error {
	plain, err := p.sealer.Open(rec.Answer, associated(rec.Key, fieldAnswer))
	if err != nil {
		return fmt.Errorf("open journal record of %s from worker %s: %w", rec.Key, rec.Worker, err)
	}
	var raw RawAnswer
	if err := json.Unmarshal(plain, &raw); err != nil {
		return fmt.Errorf("decode journal record of %s: not of the expected form", rec.Key)
	}
	if _, err := p.settle(ctx, rec, p.endpoint.Judge(rec.Key.Platform(), raw)); err != nil {
		return err
	}
	p.stats.replayed.Add(1)
	p.log.Info("replayed from the journal", "account", rec.Key.String(), "from_version", rec.FromVersion, "holder", rec.Worker)
	p.forget(ctx, rec, true)
	return nil
}

// replayAll settles everything that waits anywhere, each account in its own
// flight so that it can't meet an exchange that runs.
func (p *Provider) replayAll(ctx context.Context) {
	records, err := p.waiting(ctx, account.Key{})
	if err != nil {
		p.log.Warn("journal is not readable in full", "error", err)
	}
	p.stats.waiting.Store(int64(len(records)))
	for _, rec := range records {
		p.flights.start(rec.Key, func() error {
			_, err := p.replayAccount(p.base, rec.Key, "")
			if err != nil {
				p.log.Warn("replay from the journal", "account", rec.Key.String(), "error", err)
			}
			return err
		})
	}
}

// JournalList lists what waits in the shared journal and in this worker's own
// spool, and what can't be read there. It shows no answer, not even sealed.
func (p *Provider) JournalList(ctx context.Context) (events.JournalReply, error) {
	records, err := p.spool.Records(ctx, account.Key{})
	list := p.listed(events.JournalSpool, records, err)
	_ = p.withTimeout(ctx, func(ctx context.Context) error {
		records, err = p.journal.Records(ctx, account.Key{})
		return nil
	})
	list = append(list, p.listed(events.JournalShared, records, err)...)
	if ctx.Err() != nil {
		return events.JournalReply{}, unavailable(retrySoon, "list the journal: %v", ctx.Err())
	}
	return events.NewJournalReply(p.worker, list), nil
}

func (p *Provider) listed(where events.JournalPlace, records []Record, err error) (list []events.JournalRecord) {
	for _, r := range records {
		e := events.JournalRecord{
			Platform: r.Key.Platform(), ID: r.Key.ID(), RotationID: r.RotationID, FromVersion: r.FromVersion,
			Worker: r.Worker, Host: r.Host, At: r.At.UTC(), Where: where, Readable: true,
		}
		if _, err := p.sealer.Open(r.Answer, associated(r.Key, fieldAnswer)); err != nil {
			e.Readable, e.Problem = false, err.Error()
		}
		list = append(list, e)
	}
	for _, err := range split(err) {
		e := events.JournalRecord{Where: where, Problem: err.Error()}
		if torn, ok := errors.AsType[*TornError](err); ok {
			e.Platform, e.ID = torn.Key.Platform(), torn.Key.ID()
		}
		list = append(list, e)
	}
	return list
}

// split returns the errors that were joined into err.
func split(err error) (all []error) {
	joined, ok := err.(interface{ Unwrap() []error })
	switch {
	case err == nil:
		return nil
	case !ok:
		return []error{err}
	}
	for _, e := range joined.Unwrap() {
		all = append(all, split(e)...)
	}
	return all
}
