package accounts

import (
	"context"
	"errors"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

// JournalList lists what waits in the shared journal and in this worker's own
// spool, and what can't be read there. It shows no answer, not even sealed.
func (o *Admin) JournalList(ctx context.Context) (events.JournalReply, error) {
	records, err := o.cfg.Spool.Records(ctx, account.Key{})
	list := o.listed(events.JournalSpool, records, err)
	_ = ledger.Bounded(ctx, func(ctx context.Context) error {
		records, err = o.cfg.Journal.Records(ctx, account.Key{})
		return nil
	})
	list = append(list, o.listed(events.JournalShared, records, err)...)
	if ctx.Err() != nil {
		return events.JournalReply{}, events.Unavailable(events.RetrySoon, "list the journal: %v", ctx.Err())
	}
	return events.NewJournalReply(o.cfg.WorkerID, list), nil
}

func (o *Admin) listed(where events.JournalPlace, records []rotation.Record, err error) (list []events.JournalRecord) {
	for _, r := range records {
		e := events.JournalRecord{
			Platform: r.Key.Platform(), ID: r.Key.ID(), RotationID: r.RotationID, FromVersion: r.FromVersion,
			Worker: r.Worker, Host: r.Host, At: r.At.UTC(), Where: where, Readable: true,
		}
		if _, err := o.cfg.Sealer.Open(r.Answer, ledger.Associated(r.Key, refresh.FieldAnswer)); err != nil {
			e.Readable, e.Problem = false, err.Error()
		}
		list = append(list, e)
	}
	for _, err := range refresh.Problems(err) {
		e := events.JournalRecord{Where: where, Problem: err.Error()}
		if torn, ok := errors.AsType[*refresh.TornError](err); ok {
			e.Platform, e.ID = torn.Key.Platform(), torn.Key.ID()
		}
		list = append(list, e)
	}
	return list
}
