package natskv

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A bucket that exists is never changed and never removed: what it holds may
// be the only copy of an account. Where its settings differ from ours that is
// told; where they would lose what we rely on, or answer what isn't so, it is
// not used at all.

// misfit is a setting with which a bucket can't be used.
type misfit struct {
	setting       string // as JetStream's stream configuration calls it
	found, needed any
	flag          string // of `nats stream edit`; "": it can't be changed
}

func (m misfit) String() string {
	return fmt.Sprintf("%s is %v, needed %v", m.setting, m.found, m.needed)
}

// unusableError names each misfit of a bucket, with the remedy, in one line.
type unusableError struct {
	bucket, stream string
	misfits        []misfit
}

func (e *unusableError) Error() string {
	var what, flags []string
	remedy := ""
	for _, m := range e.misfits {
		what = append(what, m.String())
		if m.flag == "" {
			remedy = "; that can't be changed: save what it holds, if you need it, and remove it (nats stream rm " + e.stream + "); a new one is made"
		}
		flags = append(flags, m.flag)
	}
	if remedy == "" {
		remedy = "; nats stream edit " + e.stream + " " + strings.Join(flags, " ")
	}
	return "bucket " + e.bucket + " can't be used with its settings: " + strings.Join(what, "; ") + remedy
}

// adopt checks the bucket against the one that we would have created.
func (b *bucket) adopt(s settings, want jetstream.StreamConfig) error {
	if misfits := s.misfits(b.config, want); len(misfits) > 0 {
		return &unusableError{b.name, b.config.Name, misfits}
	}
	for _, d := range differences(b.config, want) {
		b.log.Warn("bucket exists with another setting, which is left as it is", "setting", d.setting, "found", d.found, "wanted", d.needed)
	}
	return nil
}

// misfits returns the settings of got with which a bucket of this kind would
// lose what it is for.
func (s settings) misfits(got, want jetstream.StreamConfig) (out []misfit) {
	unless := func(ok bool, setting string, found, needed any, flag string) {
		if !ok {
			out = append(out, misfit{setting, found, needed, flag})
		}
	}
	// Writes would not arrive, not be acknowledged, or not be the last word.
	unless(got.Mirror == nil, "mirror", "set", "none", "")
	unless(len(got.Sources) == 0, "sources", len(got.Sources), "none", "")
	unless(!got.Sealed, "sealed", got.Sealed, false, "")
	unless(len(got.Subjects) == 1 && got.Subjects[0] == want.Subjects[0] || got.Mirror != nil, "subjects", got.Subjects, want.Subjects, "--subjects="+want.Subjects[0])
	unless(got.SubjectTransform == nil, "subject_transform", "set", "none", "--no-transform")
	unless(!got.NoAck, "no_ack", got.NoAck, false, "--ack")
	unless(!got.AllowMsgCounter, "allow_msg_counter", got.AllowMsgCounter, false, "")
	unless(!got.DiscardNewPerSubject, "discard_new_per_subject", got.DiscardNewPerSubject, false, "--no-discard-per-subject")
	unless(got.Retention != jetstream.InterestPolicy, "retention", got.Retention, want.Retention, "--retention=limits")
	unless(got.Retention != jetstream.WorkQueuePolicy, "retention", got.Retention, want.Retention, "")
	// Without a limit every write stays for ever. With more than one message
	// and times to live, an older one comes back when the newest ends: a
	// deleted account, say.
	history := got.MaxMsgsPerSubject
	unless(history >= 1 && (history == 1 || !s.msgTTL), "max_msgs_per_subject", history, 1, "--max-msgs-per-subject=1")

	evicts := got.Discard == jetstream.DiscardOld && (got.MaxMsgs > 0 || got.MaxBytes > 0)
	unless(!evicts || s.keeps == nothing, "discard", "old with a limit", "new (a full bucket refuses, and drops nothing)", "--discard=new")
	switch s.keeps {
	case everything:
		unless(got.MaxAge == 0, "max_age", got.MaxAge, "0s", "--max-age=0s")
		unless(got.Storage == want.Storage || got.Storage == jetstream.FileStorage, "storage", got.Storage, want.Storage, "")
		unless(got.PersistMode == want.PersistMode, "persist_mode", got.PersistMode, want.PersistMode, "")
		unless(!s.purges || !got.DenyPurge, "deny_purge", got.DenyPurge, false, "")
	case untilAge:
		// Too long, and nobody refreshes what a crashed worker held; too
		// short, and a lease ends under a worker that renews it.
		unless(got.MaxAge >= minLeaseTTL && got.MaxAge <= maxLeaseTTL, "max_age", got.MaxAge, fmt.Sprintf("%v to %v", minLeaseTTL, maxLeaseTTL), "--max-age="+want.MaxAge.String())
	}
	return out
}

// differences returns the settings that matter and differ. Those that an
// operator left to us don't.
func differences(got, want jetstream.StreamConfig) (out []misfit) {
	differ := func(setting string, found, wanted any) {
		if found != wanted {
			out = append(out, misfit{setting: setting, found: found, needed: wanted})
		}
	}
	unlimited := func(n int64) int64 { // JetStream takes 0 for no limit, too
		if n <= 0 {
			return -1
		}
		return n
	}
	differ("max_age", got.MaxAge, want.MaxAge)
	differ("max_msgs_per_subject", got.MaxMsgsPerSubject, want.MaxMsgsPerSubject)
	differ("max_msgs", unlimited(got.MaxMsgs), want.MaxMsgs)
	differ("max_bytes", unlimited(got.MaxBytes), want.MaxBytes)
	differ("max_msg_size", unlimited(int64(got.MaxMsgSize)), int64(want.MaxMsgSize))
	differ("max_consumers", unlimited(int64(got.MaxConsumers)), int64(want.MaxConsumers))
	differ("discard", got.Discard, want.Discard)
	differ("storage", got.Storage, want.Storage)
	differ("persist_mode", got.PersistMode, want.PersistMode)
	differ("allow_direct", got.AllowDirect, want.AllowDirect)
	if want.AllowMsgTTL { // without, what is past its use stays
		differ("allow_msg_ttl", got.AllowMsgTTL, true)
	}
	if want.Replicas != 0 {
		differ("num_replicas", got.Replicas, want.Replicas)
	}
	if want.Placement != nil {
		differ("placement.tags", tagsOf(got), tagsOf(want))
	}
	return out
}

func tagsOf(c jetstream.StreamConfig) string {
	if c.Placement == nil {
		return ""
	}
	return strings.Join(c.Placement.Tags, ",")
}

// The range of times to live that leases may have.
const (
	minLeaseTTL = 100 * time.Millisecond
	maxLeaseTTL = 10 * time.Minute
)
