package streams

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Misfits are the settings with which a stream can't do its job.
type Misfits struct {
	stream string
	list   []misfit
}

type misfit struct {
	setting       string // as JetStream's stream configuration calls it
	found, needed any
	flag          string // of `nats stream edit`; "": it can't be changed
}

// Unfit returns the settings of have that make any stream useless: messages
// would not arrive, not be acknowledged, or go when nobody listens. The caller
// adds what its own stream must be.
func Unfit(have, want jetstream.StreamConfig) *Misfits {
	m := &Misfits{stream: want.Name}
	m.Unless(have.Mirror == nil, "mirror", "set", "none", "")
	m.Unless(len(have.Sources) == 0, "sources", len(have.Sources), "none", "")
	m.Unless(!have.Sealed, "sealed", have.Sealed, false, "")
	m.Unless(have.SubjectTransform == nil, "subject_transform", "set", "none", "--no-transform")
	m.Unless(!have.NoAck, "no_ack", have.NoAck, false, "--ack")
	m.Unless(!have.AllowMsgCounter, "allow_msg_counter", have.AllowMsgCounter, false, "")
	m.Unless(!have.DiscardNewPerSubject, "discard_new_per_subject", have.DiscardNewPerSubject, false, "--no-discard-per-subject")
	m.Unless(have.Retention != jetstream.InterestPolicy, "retention", have.Retention, want.Retention, "--retention=limits")
	m.Unless(have.Retention != jetstream.WorkQueuePolicy, "retention", have.Retention, want.Retention, "")
	return m
}

// Unless adds a setting, unless it is as it should be. The flag is that of
// `nats stream edit` which mends it, "" where it can't be changed.
func (m *Misfits) Unless(ok bool, setting string, found, needed any, flag string) {
	if !ok {
		m.list = append(m.list, misfit{setting, found, needed, flag})
	}
}

// Err returns nil if there are none, else an error that goes on from the name
// of the stream: it names each setting, and the remedy, in one line. Where that
// is to remove the stream, removal says so: "remove it".
func (m *Misfits) Err(removal string) error {
	if len(m.list) == 0 {
		return nil
	}
	var what, flags []string
	remedy := ""
	for _, s := range m.list {
		what = append(what, fmt.Sprintf("%s is %v, needed %v", s.setting, s.found, s.needed))
		if s.flag == "" {
			remedy = "that can't be changed: " + removal + " (nats stream rm " + m.stream + "); a new one is made"
		}
		flags = append(flags, s.flag)
	}
	if remedy == "" {
		remedy = "nats stream edit " + m.stream + " " + strings.Join(flags, " ")
	}
	return errors.New("can't be used with its settings: " + strings.Join(what, "; ") + "; " + remedy)
}
