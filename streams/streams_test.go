package streams_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/internal/rig"
	"github.com/tokenbus/tokenbus/streams"
)

// What servers answer, alone and in clusters, is tested where streams are used:
// in packages bus and natskv.

// TestEnsure: a stream is made once and left as it is, and what the server
// chose for it is no difference.
func TestEnsure(t *testing.T) {
	js, err := jetstream.New(rig.Connect(t, rig.NATS(t)))
	check(t, err)
	check(t, streams.CheckServer(t.Context(), js))
	want := jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}
	made, err := streams.Ensure(t.Context(), js, want)
	check(t, err)
	var log strings.Builder
	streams.Warn(logTo(&log), "stream", js, made.CachedInfo().Config, want)
	if log.String() != "" {
		t.Errorf("what was made differs from what was wanted:\n%s", log.String())
	}

	want.MaxAge, want.MaxMsgs, want.Duplicates, want.AllowMsgTTL, want.Replicas = time.Hour, 5, time.Minute, true, 3
	want.Placement = streams.Placement([]string{"ssd", "near"})
	found, err := streams.Ensure(t.Context(), js, want)
	check(t, err)
	have := found.CachedInfo().Config
	if have.MaxAge != 0 || !found.CachedInfo().Created.Equal(made.CachedInfo().Created) {
		t.Errorf("the stream was changed: got %+v", found.CachedInfo())
	}
	streams.Warn(logTo(&log), "stream", js, have, want)
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	told := []string{
		"max_age found=0s wanted=1h0m0s", "duplicate_window found=2m0s wanted=1m0s", "max_msgs found=-1 wanted=5",
		"num_replicas found=1 wanted=3", `placement.tags found="" wanted=ssd,near`, "allow_msg_ttl found=false wanted=true",
	}
	if len(lines) != len(told) {
		t.Errorf("got %d warnings, want %d:\n%s", len(lines), len(told), log.String())
	}
	for _, s := range told {
		if !strings.Contains(log.String(), `msg="stream exists with another setting, which is left as it is" setting=`+s+"\n") {
			t.Errorf("the log doesn't say %q:\n%s", s, log.String())
		}
	}
}

func TestMisfits(t *testing.T) {
	want := jetstream.StreamConfig{Name: "S"}
	if err := streams.Unfit(want, want).Err("remove it"); err != nil {
		t.Error(err)
	}
	m := streams.Unfit(jetstream.StreamConfig{NoAck: true}, want)
	m.Unless(true, "max_msgs", 0, 0, "")
	m.Unless(false, "max_age", time.Hour, "0s", "--max-age=0s")
	const settings = "can't be used with its settings: no_ack is true, needed false; max_age is 1h0m0s, needed 0s; "
	wantText(t, m.Err("remove it"), settings+"nats stream edit S --ack --max-age=0s")
	m.Unless(false, "storage", jetstream.MemoryStorage, jetstream.FileStorage, "")
	wantText(t, m.Err("empty and remove it"), strings.TrimSuffix(settings, "; ")+"; storage is Memory, needed File; that can't be changed: empty and remove it (nats stream rm S); a new one is made")
}

func TestExplain(t *testing.T) {
	answer := func(code jetstream.ErrorCode, description string) error {
		return fmt.Errorf("publish: %w", &jetstream.APIError{Code: 503, ErrorCode: code, Description: description})
	}
	for _, c := range []struct {
		err  error
		want string // what the line begins with; "": nothing is added
	}{
		{errors.New("something else"), ""},
		{answer(jetstream.JSErrCodeStreamWrongLastSequence, "wrong last sequence"), ""},
		{jetstream.ErrJetStreamNotEnabled, "JetStream is not enabled on the NATS server: start nats-server with -js: "},
		{jetstream.ErrJetStreamNotEnabledForAccount, "JetStream is not enabled for our NATS account: "},
		{nats.ErrNoResponders, "no server answers for it: "},
		{jetstream.ErrNoStreamResponse, "no server answers for it: "},
		{context.DeadlineExceeded, "no answer from JetStream in time; "},
		{nats.ErrTimeout, "no answer from JetStream in time; "},
		{nats.ErrMaxPayload, "it is larger than the NATS servers allow: raise their max_payload: "},
		{answer(10008, ""), "JetStream has no leader: "},
		{answer(10002, ""), "JetStream has no room: our NATS account has used up its limits; "},
		{answer(10023, ""), "JetStream has no room: the server's storage is used up; "},
		{answer(10028, ""), "JetStream has no room: the server's storage is used up; "},
		{answer(10047, ""), "JetStream has no room: the server's storage is used up; "},
		{answer(10027, ""), "our NATS account has as many streams as it may; "},
		{answer(10077, "maximum bytes exceeded"), "JetStream has no room: the stream's max_bytes is reached; nats stream edit S --max-bytes=-1: "},
		{answer(10077, "maximum messages exceeded"), "JetStream has no room: the stream's max_msgs is reached; nats stream edit S --max-msgs=-1: "},
		{answer(10077, "write: no space left on device"), "JetStream has no room: the server's disk is full; "},
		{answer(10077, "?"), "the NATS server could not store the message; its log says why: "},
		{answer(10054, ""), "it is larger than the stream allows; nats stream edit S --max-msg-size=-1: "},
		{answer(10005, ""), "the NATS cluster can't place the stream: "},
		{answer(10074, ""), "a NATS server that is not in a cluster holds one replica alone: "},
	} {
		got := streams.Explain("S", "it", c.err)
		if !errors.Is(got, c.err) || !strings.HasPrefix(got.Error(), c.want) || !strings.HasSuffix(got.Error(), c.err.Error()) || (c.want == "") != (got.Error() == c.err.Error()) {
			t.Errorf("%v: got %q, want it to begin with %q", c.err, got, c.want)
		}
	}
	if err := streams.Explain("S", "it", nil); err != nil {
		t.Error(err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantText(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
}

func logTo(b *strings.Builder) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }
