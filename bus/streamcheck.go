package bus

import (
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/streams"
)

// usable returns an error that names each setting with which the stream can't
// do its job, with the remedy, in one line.
func usable(have, want jetstream.StreamConfig) error {
	for _, subject := range want.Subjects {
		if !slices.Contains(have.Subjects, subject) && have.Mirror == nil {
			return fmt.Errorf("it exists and takes %q, not %s: it belongs to another fleet or subject prefix", have.Subjects, subject)
		}
	}
	if err := misfits(have, want).Err("remove it"); err != nil {
		return fmt.Errorf("it %w", err)
	}
	return nil
}

// misfits returns the settings of have with which it can't stand in for want.
func misfits(have, want jetstream.StreamConfig) *streams.Misfits {
	m := streams.Unfit(have, want)
	limited := have.MaxMsgs > 0 || have.MaxBytes > 0
	if want.Name == events.StreamEvents {
		// News may go when it is old, and must never stop the next.
		m.Unless(!limited || have.Discard == jetstream.DiscardOld, "discard", "new with a limit", "old (a full stream takes no event)", "--discard=old")
		return m
	}
	// The last bump of each account tells which version was announced: workers
	// check the store against it, and clients catch up by it.
	m.Unless(!limited || have.Discard == jetstream.DiscardNew, "discard", "old with a limit", "new (a full stream refuses, and drops nothing), or no limit", "--discard=new")
	m.Unless(have.MaxMsgsPerSubject >= 1, "max_msgs_per_subject", have.MaxMsgsPerSubject, want.MaxMsgsPerSubject, "--max-msgs-per-subject=1")
	m.Unless(have.MaxAge == 0, "max_age", have.MaxAge, "0s", "--max-age=0s")
	m.Unless(have.Storage == want.Storage, "storage", have.Storage, want.Storage, "")
	m.Unless(have.PersistMode == want.PersistMode, "persist_mode", have.PersistMode, want.PersistMode, "")
	m.Unless(have.AllowDirect, "allow_direct", have.AllowDirect, true, "--allow-direct")
	return m
}
