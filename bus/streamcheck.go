package bus

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/events"
)

// A stream that exists is never changed and never removed. Where its settings
// differ from ours that is told; where events or bumps would get lost it is not
// used at all.

// mismatch is a setting with which a stream is not what we would have made.
type mismatch struct {
	setting       string // as JetStream's stream configuration calls it
	found, needed any
	flag          string // of `nats stream edit`, where it can't be used; "": it can't be changed
}

// usable returns an error that names each setting with which the stream can't
// do its job, with the remedy, in one line.
func usable(have, want jetstream.StreamConfig) error {
	for _, subject := range want.Subjects {
		if !slices.Contains(have.Subjects, subject) && have.Mirror == nil {
			return fmt.Errorf("it exists and takes %q, not %s: it belongs to another fleet or subject prefix", have.Subjects, subject)
		}
	}
	bad := misfits(have, want)
	if len(bad) == 0 {
		return nil
	}
	var what, flags []string
	remedy := ""
	for _, m := range bad {
		what = append(what, fmt.Sprintf("%s is %v, needed %v", m.setting, m.found, m.needed))
		if m.flag == "" {
			remedy = "that can't be changed: remove it (nats stream rm " + want.Name + "); a new one is made"
		}
		flags = append(flags, m.flag)
	}
	if remedy == "" {
		remedy = "nats stream edit " + want.Name + " " + strings.Join(flags, " ")
	}
	return fmt.Errorf("it can't be used with its settings: %s; %s", strings.Join(what, "; "), remedy)
}

// misfits returns the settings of have with which it can't stand in for want.
func misfits(have, want jetstream.StreamConfig) (out []mismatch) {
	unless := func(ok bool, name string, found, needed any, flag string) {
		if !ok {
			out = append(out, mismatch{name, found, needed, flag})
		}
	}
	// Messages would not arrive, not be acknowledged, or go when nobody listens.
	unless(have.Mirror == nil, "mirror", "set", "none", "")
	unless(len(have.Sources) == 0, "sources", len(have.Sources), "none", "")
	unless(!have.Sealed, "sealed", have.Sealed, false, "")
	unless(have.SubjectTransform == nil, "subject_transform", "set", "none", "--no-transform")
	unless(!have.NoAck, "no_ack", have.NoAck, false, "--ack")
	unless(!have.AllowMsgCounter, "allow_msg_counter", have.AllowMsgCounter, false, "")
	unless(!have.DiscardNewPerSubject, "discard_new_per_subject", have.DiscardNewPerSubject, false, "--no-discard-per-subject")
	unless(have.Retention != jetstream.InterestPolicy, "retention", have.Retention, want.Retention, "--retention=limits")
	unless(have.Retention != jetstream.WorkQueuePolicy, "retention", have.Retention, want.Retention, "")
	limited := have.MaxMsgs > 0 || have.MaxBytes > 0
	if want.Name == events.StreamEvents {
		// News may go when it is old, and must never stop the next.
		unless(!limited || have.Discard == jetstream.DiscardOld, "discard", "new with a limit", "old (a full stream takes no event)", "--discard=old")
		return out
	}
	// The last bump of each account tells which version was announced: workers
	// check the store against it, and clients catch up by it.
	unless(!limited || have.Discard == jetstream.DiscardNew, "discard", "old with a limit", "new (a full stream refuses, and drops nothing), or no limit", "--discard=new")
	unless(have.MaxMsgsPerSubject >= 1, "max_msgs_per_subject", have.MaxMsgsPerSubject, want.MaxMsgsPerSubject, "--max-msgs-per-subject=1")
	unless(have.MaxAge == 0, "max_age", have.MaxAge, "0s", "--max-age=0s")
	unless(have.Storage == want.Storage, "storage", have.Storage, want.Storage, "")
	unless(have.PersistMode == want.PersistMode, "persist_mode", have.PersistMode, want.PersistMode, "")
	unless(have.AllowDirect, "allow_direct", have.AllowDirect, true, "--allow-direct")
	return out
}

// differences returns the settings that matter and differ. Those that an
// operator left to us don't.
func differences(have, want jetstream.StreamConfig) []mismatch {
	all := []mismatch{
		{"storage", have.Storage.String(), want.Storage.String(), ""},
		{"persist_mode", have.PersistMode.String(), want.PersistMode.String(), ""},
		{"discard", have.Discard.String(), want.Discard.String(), ""},
		{"max_age", have.MaxAge.String(), want.MaxAge.String(), ""},
		{"duplicate_window", max(have.Duplicates, 0).String(), want.Duplicates.String(), ""},
		{"max_msgs_per_subject", max(have.MaxMsgsPerSubject, 0), max(want.MaxMsgsPerSubject, 0), ""},
		{"max_msg_size", max(have.MaxMsgSize, 0), max(want.MaxMsgSize, 0), ""},
		{"max_consumers", max(have.MaxConsumers, 0), max(want.MaxConsumers, 0), ""},
		{"num_replicas", have.Replicas, want.Replicas, ""},
		{"placement.tags", tags(have), tags(want), ""},
		{"allow_direct", have.AllowDirect, want.AllowDirect, ""},
		{"max_msgs", max(have.MaxMsgs, 0), max(want.MaxMsgs, 0), ""},
		{"max_bytes", max(have.MaxBytes, 0), max(want.MaxBytes, 0), ""},
		{"subjects", fmt.Sprintf("%q", have.Subjects), fmt.Sprintf("%q", want.Subjects), ""},
	}
	leftToUs := map[string]bool{
		"duplicate_window": want.Duplicates == 0, // it is whatever the server chose
		"num_replicas":     want.Replicas == 0,
		"placement.tags":   want.Placement == nil,
	}
	return slices.DeleteFunc(all, func(d mismatch) bool { return d.found == d.needed || leftToUs[d.setting] })
}

func tags(c jetstream.StreamConfig) string {
	if c.Placement == nil {
		return ""
	}
	return strings.Join(c.Placement.Tags, ",")
}
