package streams

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Warn tells how a stream that can be used differs from the one that was
// wanted. Noun is what the log calls it.
func Warn(log *slog.Logger, noun string, js jetstream.JetStream, have, want jetstream.StreamConfig) {
	for _, d := range differences(have, want) {
		log.Warn(noun+" exists with another setting, which is left as it is", "setting", d.setting, "found", d.found, "wanted", d.wanted)
	}
	if want.Replicas == 0 && have.Replicas == 1 && js.Conn().ConnectedClusterName() != "" {
		log.Warn(noun+" has one replica in a cluster: if the cluster has three servers, raise it; if one is what you want, ask for one",
			"raise", "nats stream edit "+want.Name+" --replicas=3")
	}
}

type difference struct {
	setting       string // as JetStream's stream configuration calls it
	found, wanted any
}

// differences returns the settings that matter and differ. Those that an
// operator left to us don't.
func differences(have, want jetstream.StreamConfig) []difference {
	all := []difference{
		{"storage", have.Storage.String(), want.Storage.String()},
		{"persist_mode", have.PersistMode.String(), want.PersistMode.String()},
		{"discard", have.Discard.String(), want.Discard.String()},
		{"max_age", have.MaxAge.String(), want.MaxAge.String()},
		{"duplicate_window", have.Duplicates.String(), want.Duplicates.String()},
		{"max_msgs_per_subject", limit(have.MaxMsgsPerSubject), limit(want.MaxMsgsPerSubject)},
		{"max_msg_size", limit(have.MaxMsgSize), limit(want.MaxMsgSize)},
		{"max_consumers", limit(have.MaxConsumers), limit(want.MaxConsumers)},
		{"max_msgs", limit(have.MaxMsgs), limit(want.MaxMsgs)},
		{"max_bytes", limit(have.MaxBytes), limit(want.MaxBytes)},
		{"num_replicas", have.Replicas, want.Replicas},
		{"placement.tags", tags(have), tags(want)},
		{"allow_direct", have.AllowDirect, want.AllowDirect},
		{"allow_msg_ttl", have.AllowMsgTTL, want.AllowMsgTTL},
		{"subjects", fmt.Sprintf("%q", have.Subjects), fmt.Sprintf("%q", want.Subjects)},
	}
	leftToUs := map[string]bool{
		"duplicate_window": want.Duplicates == 0, // it is whatever the server chose
		"num_replicas":     want.Replicas == 0,
		"placement.tags":   want.Placement == nil,
		"allow_msg_ttl":    !want.AllowMsgTTL, // nobody asks for it
	}
	return slices.DeleteFunc(all, func(d difference) bool { return d.found == d.wanted || leftToUs[d.setting] })
}

// limit returns what JetStream calls no limit in one way: it takes 0, too.
func limit[N int | int32 | int64](n N) N {
	if n <= 0 {
		return -1
	}
	return n
}

func tags(c jetstream.StreamConfig) string {
	if c.Placement == nil {
		return ""
	}
	return strings.Join(c.Placement.Tags, ",")
}
