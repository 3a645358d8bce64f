package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tokenbus/tokenbus/account"
)

// secure makes the answer durable beside the store: on this disk and in the
// journal that all workers share. It reports whether one of them has it.
func (p *Provider) secure(ctx context.Context, rec Record) bool {
	disk := p.spool.Put(ctx, rec)
	if disk != nil {
		p.log.Error("answer is not on the disk", "account", rec.Key.String(), "error", disk)
	}
	shared := p.withTimeout(ctx, func(ctx context.Context) error { return p.journal.Put(ctx, rec) })
	if shared != nil {
		p.log.Error("answer is not in the shared journal", "account", rec.Key.String(), "error", shared)
	}
	if disk == nil || shared == nil {
		p.stats.journaled.Add(1)
		p.log.Warn("answer waits in the journal", "account", rec.Key.String(), "version", rec.FromVersion, "rotation", rec.RotationID)
		return true
	}
	return false
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

// withTimeout bounds a call of the shared journal.
func (p *Provider) withTimeout(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return f(ctx)
}

// waiting returns what waits in both journals for the account, or for all.
// The error tells what could not be read.
func (p *Provider) waiting(ctx context.Context, key account.Key) ([]Record, error) {
	records, disk := p.spool.Records(ctx, key)
	var shared error
	_ = p.withTimeout(ctx, func(ctx context.Context) error {
		var more []Record
		more, shared = p.journal.Records(ctx, key)
		records = append(records, more...)
		return nil
	})
	return records, errors.Join(disk, shared)
}

// replayAccount settles what waits for the account, and reports whether there
// was anything. An error means that something may wait and can't be read or
// saved: nothing may be sent then. The caller is the account's flight.
func (p *Provider) replayAccount(ctx context.Context, key account.Key) (found bool, err error) {
	records, err := p.waiting(ctx, key)
	for _, rec := range records {
		if rec.Key != key {
			continue
		}
		found = true
		if e := p.replay(ctx, rec); e != nil {
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
			_, err := p.replayAccount(p.base, rec.Key)
			if err != nil {
				p.log.Warn("replay from the journal", "account", rec.Key.String(), "error", err)
			}
			return err
		})
	}
}
