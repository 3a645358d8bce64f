package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/rotation"
)

// secure makes the answer durable beside the store, where it isn't yet: on this
// disk and in the journal that all workers share.
func (r *Refresher) secure(ctx context.Context, rec rotation.Record, disk, shared bool) (onDisk, inShared bool) {
	if !disk && !shared {
		r.stats.journaled.Add(1)
		r.log.Warn("answer has to wait in the journal", "account", rec.Key.String(), "version", rec.FromVersion, "rotation", rec.RotationID)
	}
	if !disk {
		err := r.cfg.Spool.Put(ctx, rec)
		if disk = err == nil; !disk {
			r.log.Error("answer is not on the disk", "account", rec.Key.String(), "error", err)
		}
	}
	if !shared {
		shared = r.share(ctx, rec)
	}
	return disk, shared
}

// share puts a record where every worker finds it.
func (r *Refresher) share(ctx context.Context, rec rotation.Record) bool {
	err := ledger.Bounded(ctx, func(ctx context.Context) error { return r.cfg.Journal.Put(ctx, rec) })
	if err != nil {
		r.log.Error("answer is not in the shared journal", "account", rec.Key.String(), "error", err)
	}
	return err == nil
}

// forget removes a settled record.
func (r *Refresher) forget(ctx context.Context, rec rotation.Record, journaled bool) {
	ctx = context.WithoutCancel(ctx)
	if len(rec.Answer) > 0 {
		if err := r.cfg.Spool.Delete(ctx, rec.Key, rec.RotationID); err != nil {
			r.log.Warn("spool record stays; it will be found settled", "account", rec.Key.String(), "error", err)
		}
	}
	if !journaled {
		return
	}
	if err := ledger.Bounded(ctx, func(ctx context.Context) error { return r.cfg.Journal.Delete(ctx, rec.Key, rec.RotationID) }); err != nil {
		r.log.Warn("journal record stays; it will be found settled", "account", rec.Key.String(), "error", err)
	}
}

// waiting returns what waits in both journals for the account, or for all: the
// first of them in this worker's own. The error tells what could not be read.
func (r *Refresher) waiting(ctx context.Context, key account.Key) (records []rotation.Record, own int, err error) {
	records, disk := r.cfg.Spool.Records(ctx, key)
	own = len(records)
	shared := ledger.Bounded(ctx, func(ctx context.Context) error {
		more, err := r.cfg.Journal.Records(ctx, key)
		records = append(records, more...)
		return err
	})
	return records, own, errors.Join(disk, shared)
}

// Problems returns the errors that were joined into err: one for each thing that
// a journal can't read.
func Problems(err error) (all []error) {
	joined, ok := err.(interface{ Unwrap() []error })
	switch {
	case err == nil:
		return nil
	case !ok:
		return []error{err}
	}
	for _, e := range joined.Unwrap() {
		all = append(all, Problems(e)...)
	}
	return all
}

// replayAccount settles what waits for the account, and reports whether an
// answer to the given rotation was among it. An error means that something may
// wait and can't be read or saved: nothing may be sent then. The caller is the
// account's flight.
func (r *Refresher) replayAccount(ctx context.Context, key account.Key, rotationID string) (found bool, err error) {
	records, own, err := r.waiting(ctx, key)
	for i, rec := range records {
		if rec.Key != key {
			continue
		}
		found = found || rec.RotationID == rotationID
		if e := r.replay(ctx, rec); e != nil {
			if i < own {
				r.share(ctx, rec) // perhaps others can
			}
			err = errors.Join(err, e)
		}
	}
	return found, err
}

// answered is what a record's answer was the answer to.
type answered struct {
	version account.Version
	refresh string // the refresh token's fingerprint
}

// waits returns the answers that waited for the account at the last look.
func (r *Refresher) waits(key account.Key) []answered {
	r.left.mu.Lock()
	defer r.left.mu.Unlock()
	return r.left.keys[key]
}

// replay judges the record's answer anew and settles it.
func (r *Refresher) replay(ctx context.Context, rec rotation.Record) error {
	plain, err := r.cfg.Sealer.Open(rec.Answer, ledger.Associated(rec.Key, FieldAnswer))
	if err != nil {
		return fmt.Errorf("open journal record of %s from worker %s: %w", rec.Key, rec.Worker, err)
	}
	var raw RawAnswer
	if err := json.Unmarshal(plain, &raw); err != nil {
		return fmt.Errorf("decode journal record of %s: not of the expected form", rec.Key)
	}
	if _, err := r.settle(ctx, rec, r.cfg.Endpoint.Judge(rec.Key.Platform(), raw), nil, new(rotation.Ending)); err != nil {
		return err
	}
	r.stats.replayed.Add(1)
	r.log.Info("replayed from the journal", "account", rec.Key.String(), "from_version", rec.FromVersion, "holder", rec.Worker)
	r.forget(ctx, rec, true)
	return nil
}

// replayAtOnce is how many records one look takes on.
const replayAtOnce = 512

// ReplayAll settles everything that waits anywhere, each account in its own
// flight so that it can't meet an exchange that runs.
func (r *Refresher) ReplayAll(ctx context.Context) {
	records, _, err := r.waiting(ctx, account.Key{})
	if err != nil {
		r.log.Warn("journal is not readable in full", "error", err)
	}
	r.stats.waiting.Store(int64(len(records)))
	r.stats.unreadable.Store(int64(len(Problems(err))))
	keys := map[account.Key][]answered{}
	for _, rec := range records {
		keys[rec.Key] = append(keys[rec.Key], answered{rec.FromVersion, rec.From.Refresh})
	}
	r.left.mu.Lock()
	if err != nil { // what couldn't be read may wait still
		for key, before := range r.left.keys {
			if keys[key] == nil {
				keys[key] = before
			}
		}
	}
	r.left.keys = keys
	r.left.mu.Unlock()
	if len(records) > replayAtOnce { // the rest another time, in no order that lets one stand before others for ever
		rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
		records = records[:replayAtOnce]
	}
	for _, rec := range records {
		r.flights.start(rec.Key, func(<-chan struct{}) error {
			_, err := r.replayAccount(r.base, rec.Key, "")
			if err != nil {
				r.log.Warn("replay from the journal", "account", rec.Key.String(), "error", err)
			}
			return nil // who waits for this flight looks for itself
		})
	}
}
