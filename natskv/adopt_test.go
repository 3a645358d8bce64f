package natskv_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/natskv"
)

// made returns the configuration of the bucket's stream as we would create it. It
// is that of another bucket: a server that has lost its last stream removes the
// folder of streams a moment later, and creates none meanwhile.
func made(t *testing.T, js jetstream.JetStream, c natskv.Config, name string) jetstream.StreamConfig {
	t.Helper()
	like := c
	like.Prefix = config(js).Prefix
	must(t, constructors[name](t.Context(), like))
	stream, err := js.Stream(t.Context(), "KV_"+like.Prefix+"_"+name)
	must(t, err)
	config := stream.CachedInfo().Config
	config.Metadata = nil // the server's own
	config.Name = "KV_" + c.Prefix + "_" + name
	config.Subjects = []string{"$KV." + c.Prefix + "_" + name + ".>"}
	return config
}

// TestAdopt: a bucket that is there is used as it is, what differs is told, and
// nothing is changed or lost.
func TestAdopt(t *testing.T) {
	js := single(t)
	for _, c := range []struct {
		bucket, setting string
		change          func(*jetstream.StreamConfig)
		found, wanted   string
	}{
		{"LEASES", "max_age", func(s *jetstream.StreamConfig) { s.MaxAge, s.Duplicates = 7*time.Second, time.Second }, "7s", "1s"},
		{"LEASES", "storage", func(s *jetstream.StreamConfig) { s.Storage = jetstream.MemoryStorage }, "Memory", "File"},
		{"LEASES", "allow_direct", func(s *jetstream.StreamConfig) { s.AllowDirect = true }, "true", "false"},
		{"CACHE", "max_age", func(s *jetstream.StreamConfig) { s.MaxAge = time.Hour }, "1h0m0s", "0s"},
		{"CACHE", "discard", func(s *jetstream.StreamConfig) { s.Discard, s.MaxBytes = jetstream.DiscardOld, 1<<20 }, "DiscardOld", "DiscardNew"},
		{"CACHE", "storage", func(s *jetstream.StreamConfig) { s.Storage = jetstream.MemoryStorage }, "Memory", "File"},
		{"CACHE", "allow_msg_ttl", func(s *jetstream.StreamConfig) { s.AllowMsgTTL = false }, "false", "true"},
		{"CACHE", "allow_direct", func(s *jetstream.StreamConfig) { s.AllowDirect = false }, "false", "true"},
		{"ACCOUNTS", "max_bytes", func(s *jetstream.StreamConfig) { s.MaxBytes = 1 << 20 }, "1048576", "-1"},
		{"ACCOUNTS", "max_msgs", func(s *jetstream.StreamConfig) { s.MaxMsgs = 1000 }, "1000", "-1"},
		{"ACCOUNTS", "max_msg_size", func(s *jetstream.StreamConfig) { s.MaxMsgSize = 1 << 20 }, "1048576", "-1"},
		{"ACCOUNTS", "max_consumers", func(s *jetstream.StreamConfig) { s.MaxConsumers = 10 }, "10", "-1"},
		{"JOURNAL", "max_msgs_per_subject", func(s *jetstream.StreamConfig) { s.MaxMsgsPerSubject = 5 }, "5", "1"},
		{"JOURNAL", "max_bytes", func(s *jetstream.StreamConfig) { s.MaxBytes = 1 << 20 }, "1048576", "-1"},
		{"META", "allow_direct", func(s *jetstream.StreamConfig) { s.AllowDirect = true }, "true", "false"},
	} {
		t.Run(c.bucket+"/"+c.setting, func(t *testing.T) {
			var logs syncBuffer
			cfg := config(js)
			theirs := made(t, js, cfg, c.bucket)
			c.change(&theirs)
			stream, err := js.CreateStream(t.Context(), theirs)
			must(t, err)
			before := stream.CachedInfo().Config
			_, err = js.Publish(t.Context(), "$KV."+cfg.Prefix+"_"+c.bucket+".x.y.z", []byte("theirs"))
			must(t, err)

			cfg.Logger = logTo(&logs)
			must(t, constructors[c.bucket](t.Context(), cfg))
			want := "setting=" + c.setting + " found=" + c.found + " wanted=" + c.wanted
			if !strings.Contains(logs.String(), want) {
				t.Errorf("the log doesn't say %q:\n%s", want, logs.String())
			}
			info, err := stream.Info(t.Context())
			must(t, err)
			if info.State.Msgs != 1 {
				t.Error("what was in the bucket is gone")
			}
			wantSame(t, info.Config, before)
		})
	}
	t.Run("LEASES/TTL", func(t *testing.T) {
		c := config(js)
		_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: c.Prefix + "_LEASES", TTL: 7 * time.Second})
		must(t, err)
		if got := newLeases(t, c).TTL(); got != 7*time.Second {
			t.Errorf("got TTL %v, want the bucket's own of 7s", got)
		}
	})
}

// TestUnusable: a bucket that would lose what it is for is refused, in a line
// that says which setting, what it is, what it must be and what to do; and it
// stays as it is.
func TestUnusable(t *testing.T) {
	js := single(t)
	const cantChange = "that can't be changed: save what it holds, if you need it, and remove it (nats stream rm KV_"
	all := []string{"ACCOUNTS", "CACHE", "LEASES", "JOURNAL", "META"}
	kept := []string{"ACCOUNTS", "JOURNAL", "META"}
	for _, c := range []struct {
		buckets []string
		name    string
		change  func(*jetstream.StreamConfig)
		want    string
		remedy  string
	}{
		{all, "subjects", func(s *jetstream.StreamConfig) { s.Subjects = []string{"elsewhere." + s.Name} }, "subjects is [elsewhere.KV_", "--subjects=$KV."},
		{all, "no ack", func(s *jetstream.StreamConfig) { s.NoAck = true }, "no_ack is true, needed false", "--ack"},
		{all, "history", func(s *jetstream.StreamConfig) { s.MaxMsgsPerSubject = -1 }, "max_msgs_per_subject is -1, needed 1", "--max-msgs-per-subject=1"},
		{[]string{"ACCOUNTS", "CACHE"}, "history with TTL", func(s *jetstream.StreamConfig) { s.MaxMsgsPerSubject = 2 }, "max_msgs_per_subject is 2, needed 1", "--max-msgs-per-subject=1"},
		{all, "discard per subject", func(s *jetstream.StreamConfig) { s.DiscardNewPerSubject = true }, "discard_new_per_subject is true, needed false", "--no-discard-per-subject"},
		{all, "interest", func(s *jetstream.StreamConfig) { s.Retention = jetstream.InterestPolicy }, "retention is Interest, needed Limits", "--retention=limits"},
		{all, "work queue", func(s *jetstream.StreamConfig) { s.Retention = jetstream.WorkQueuePolicy }, "retention is WorkQueue, needed Limits", cantChange},
		{all, "transform", func(s *jetstream.StreamConfig) {
			s.SubjectTransform = &jetstream.SubjectTransformConfig{Source: s.Subjects[0], Destination: "x.>"}
		}, "subject_transform is set, needed none", "--no-transform"},
		{all, "counter", func(s *jetstream.StreamConfig) {
			s.AllowMsgCounter, s.AllowMsgTTL, s.Discard = true, false, jetstream.DiscardOld
		}, "allow_msg_counter is true, needed false", cantChange},
		{append(kept, "LEASES"), "discard old, messages", func(s *jetstream.StreamConfig) { s.Discard, s.MaxMsgs = jetstream.DiscardOld, 9 }, "discard is old with a limit, needed new", "--discard=new"},
		{append(kept, "LEASES"), "discard old, bytes", func(s *jetstream.StreamConfig) { s.Discard, s.MaxBytes = jetstream.DiscardOld, 1<<20 }, "discard is old with a limit, needed new", "--discard=new"},
		{kept, "age", func(s *jetstream.StreamConfig) { s.MaxAge = 24 * time.Hour }, "max_age is 24h0m0s, needed 0s", "--max-age=0s"},
		{kept, "memory", func(s *jetstream.StreamConfig) { s.Storage = jetstream.MemoryStorage }, "storage is Memory, needed File", cantChange},
		{kept, "async", func(s *jetstream.StreamConfig) { s.PersistMode = jetstream.AsyncPersistMode }, "persist_mode is Async, needed Default", cantChange},
		{[]string{"LEASES"}, "no TTL", func(s *jetstream.StreamConfig) { s.MaxAge = 0 }, "max_age is 0s, needed 100ms to 10m0s", "--max-age=1s"},
		{[]string{"LEASES"}, "long TTL", func(s *jetstream.StreamConfig) { s.MaxAge = time.Hour }, "max_age is 1h0m0s, needed 100ms to 10m0s", "--max-age=1s"},
		{[]string{"JOURNAL"}, "deny purge", func(s *jetstream.StreamConfig) { s.DenyPurge, s.AllowRollup = true, false }, "deny_purge is true, needed false", cantChange},
		{all, "two at once", func(s *jetstream.StreamConfig) { s.NoAck, s.MaxMsgsPerSubject = true, -1 }, "no_ack is true, needed false; max_msgs_per_subject is -1, needed 1", "--ack --max-msgs-per-subject=1"},
	} {
		for _, bucket := range c.buckets {
			t.Run(c.name+"/"+bucket, func(t *testing.T) {
				cfg := config(js)
				ours := made(t, js, cfg, bucket)
				theirs := ours
				c.change(&theirs)
				stream, err := js.CreateStream(t.Context(), theirs)
				must(t, err)
				before := stream.CachedInfo().Config
				err = constructors[bucket](t.Context(), cfg)
				wantLine(t, err, "bucket "+cfg.Prefix+"_"+bucket, c.want, c.remedy, theirs.Name)
				info, err := stream.Info(t.Context())
				must(t, err)
				wantSame(t, info.Config, before)

				// What the line says about a change is true.
				_, err = js.UpdateStream(t.Context(), ours)
				if can := c.remedy != cantChange; can != (err == nil) {
					t.Errorf("changed as the line says: %v", err)
				} else if can {
					must(t, constructors[bucket](t.Context(), cfg))
				}
			})
		}
	}
	t.Run("copies", func(t *testing.T) {
		origin, mirror, source := config(js), config(js), config(js)
		newJournal(t, origin)
		from := &jetstream.StreamSource{Name: "KV_" + origin.Prefix + "_JOURNAL"}
		stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KV_" + mirror.Prefix + "_JOURNAL", Mirror: from})
		must(t, err)
		_, err = natskv.NewJournal(t.Context(), mirror)
		wantLine(t, err, "mirror is set, needed none", cantChange)
		eventually(t, "the mirror runs, so that the server can end it", func() bool {
			info, err := stream.Info(t.Context())
			must(t, err)
			return info.Mirror != nil && info.Mirror.Active >= 0
		})
		theirs := made(t, js, source, "JOURNAL")
		theirs.Sources = []*jetstream.StreamSource{from}
		_, err = js.CreateStream(t.Context(), theirs)
		must(t, err)
		_, err = natskv.NewJournal(t.Context(), source)
		wantLine(t, err, "sources is 1, needed none", cantChange)
	})
	t.Run("sealed", func(t *testing.T) {
		c := config(js)
		theirs := made(t, js, c, "JOURNAL")
		_, err := js.CreateStream(t.Context(), theirs)
		must(t, err)
		theirs.Sealed = true
		_, err = js.UpdateStream(t.Context(), theirs)
		must(t, err)
		_, err = natskv.NewJournal(t.Context(), c)
		wantLine(t, err, "sealed is true, needed false", cantChange)
	})
}

func wantSame(t *testing.T, got, want jetstream.StreamConfig) {
	t.Helper()
	got.Metadata, want.Metadata = nil, nil // the server's own
	if g, w := asJSON(t, got), asJSON(t, want); g != w {
		t.Errorf("the bucket was changed: got %s, want %s", g, w)
	}
}

// wantLine checks that an error is one line that has all the parts.
func wantLine(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("got no error, want one that says %q", parts)
		return
	}
	for _, part := range append(parts, "") {
		if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got error %v, want one line that says %q", err, part)
		}
	}
}
