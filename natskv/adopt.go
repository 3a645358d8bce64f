package natskv

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/streams"
)

// A bucket that exists is never changed and never removed: what it holds may
// be the only copy of an account. Where its settings differ from ours that is
// told; where they would lose what we rely on, or answer what isn't so, it is
// not used at all.

// adopt checks the bucket against the one that we would have created.
func (b *bucket) adopt(s settings, want jetstream.StreamConfig) error {
	if err := s.misfits(b.config, want).Err("save what it holds, if you need it, and remove it"); err != nil {
		return fmt.Errorf("bucket %s %w", b.name, err)
	}
	want.Duplicates = 0 // whatever it is: no write has a message id
	streams.Warn(b.log, "bucket", b.js, b.config, want)
	return nil
}

// misfits returns the settings of got with which a bucket of this kind would
// lose what it is for.
func (s settings) misfits(got, want jetstream.StreamConfig) *streams.Misfits {
	m := streams.Unfit(got, want)
	m.Unless(len(got.Subjects) == 1 && got.Subjects[0] == want.Subjects[0] || got.Mirror != nil, "subjects", got.Subjects, want.Subjects, "--subjects="+want.Subjects[0])
	// Without a limit every write stays for ever. With more than one message
	// and times to live, an older one comes back when the newest ends: a
	// deleted account, say.
	history := got.MaxMsgsPerSubject
	m.Unless(history >= 1 && (history == 1 || !s.msgTTL), "max_msgs_per_subject", history, 1, "--max-msgs-per-subject=1")

	evicts := got.Discard == jetstream.DiscardOld && (got.MaxMsgs > 0 || got.MaxBytes > 0)
	m.Unless(!evicts || s.keeps == nothing, "discard", "old with a limit", "new (a full bucket refuses, and drops nothing)", "--discard=new")
	switch s.keeps {
	case everything:
		m.Unless(got.MaxAge == 0, "max_age", got.MaxAge, "0s", "--max-age=0s")
		m.Unless(got.Storage == want.Storage || got.Storage == jetstream.FileStorage, "storage", got.Storage, want.Storage, "")
		m.Unless(got.PersistMode == want.PersistMode, "persist_mode", got.PersistMode, want.PersistMode, "")
		m.Unless(!s.purges || !got.DenyPurge, "deny_purge", got.DenyPurge, false, "")
	case untilAge:
		// Too long, and nobody refreshes what a crashed worker held; too
		// short, and a lease ends under a worker that renews it.
		m.Unless(got.MaxAge >= minLeaseTTL && got.MaxAge <= maxLeaseTTL, "max_age", got.MaxAge, fmt.Sprintf("%v to %v", minLeaseTTL, maxLeaseTTL), "--max-age="+want.MaxAge.String())
	}
	return m
}

// explain names the stream too, for a bucket's errors name the bucket.
func explain(stream string, err error) error { return streams.Explain(stream, "stream "+stream, err) }

// The range of times to live that leases may have.
const (
	minLeaseTTL = 100 * time.Millisecond
	maxLeaseTTL = 10 * time.Minute
)
