package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/events"
)

// ErrNoJetStream means that the NATS server has no JetStream for us.
var ErrNoJetStream = errors.New("JetStream is not enabled on the NATS server, or not for this account: start nats-server with -js, or allow JetStream in the account")

// StreamsConfig says how the streams are made.
type StreamsConfig struct {
	Subjects events.Subjects
	// Replicas of streams that are made; 0 means three in a cluster that has
	// room for them, else one.
	Replicas int
	// MaxAge is how long events are kept; 0 means 72 h. Bumps are kept for ever:
	// there is one for each account.
	MaxAge time.Duration
	// Logger is told where an existing stream differs; nil discards it.
	Logger *slog.Logger
}

// duplicates is for how long an event that is published again is dropped.
const duplicates = 10 * time.Minute

// EnsureStreams makes the two streams that don't exist and adopts those that
// do as they are: settings that differ are warned of and left alone. A stream
// that can't do its job, because it doesn't take our subjects, is an error.
func EnsureStreams(ctx context.Context, js jetstream.JetStream, cfg StreamsConfig) error {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if _, err := js.AccountInfo(ctx); err != nil {
		if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
			return ErrNoJetStream
		}
		return fmt.Errorf("look for JetStream: %w", err)
	}
	replicas := []int{cfg.Replicas}
	if cfg.Replicas == 0 {
		replicas = []int{1}
		if js.Conn().ConnectedClusterName() != "" {
			replicas = []int{3, 1}
		}
	}
	for _, want := range cfg.streams() {
		if err := ensureStream(ctx, js, want, replicas, cfg.Logger); err != nil {
			return fmt.Errorf("stream %s: %w", want.Name, err)
		}
	}
	return nil
}

func (c StreamsConfig) streams() []jetstream.StreamConfig {
	age := cmp.Or(c.MaxAge, 72*time.Hour)
	return []jetstream.StreamConfig{{
		Name:        events.StreamEvents,
		Description: "tokenbus: changed credentials and news about accounts",
		Subjects:    []string{c.Subjects.AllRefreshed(), c.Subjects.AllStatus()},
		Storage:     jetstream.FileStorage,
		Discard:     jetstream.DiscardOld,
		MaxAge:      age,
		Duplicates:  min(duplicates, age),
		AllowDirect: true,
	}, {
		Name:              events.StreamBumps,
		Description:       "tokenbus: the last bump of each account",
		Subjects:          []string{c.Subjects.AllBumps()},
		Storage:           jetstream.FileStorage,
		Discard:           jetstream.DiscardOld,
		MaxMsgsPerSubject: 1,
		AllowDirect:       true,
	}}
}

// ensureStream makes or adopts one stream. A new one gets the first number of
// replicas that there is room for.
func ensureStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, replicas []int, log *slog.Logger) error {
	stream, err := js.Stream(ctx, want.Name)
	for i := 0; i < len(replicas) && (errors.Is(err, jetstream.ErrStreamNotFound) || noRoom(err)); i++ {
		want.Replicas = replicas[i]
		stream, err = js.CreateStream(ctx, want)
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		stream, err = js.Stream(ctx, want.Name) // another worker was faster
	}
	if err != nil {
		return err
	}
	want.Replicas = replicas[0]
	have := stream.CachedInfo().Config
	for _, subject := range want.Subjects {
		if !slices.Contains(have.Subjects, subject) {
			return fmt.Errorf("it exists and takes %q, not %s: it belongs to another fleet or subject prefix", have.Subjects, subject)
		}
	}
	for _, d := range differences(have, want) {
		log.Warn("stream exists with another setting, which is left as it is",
			"stream", want.Name, "setting", d.name, "is", d.have, "want", d.want)
	}
	return nil
}

// noRoom reports whether a stream was not made for want of servers.
func noRoom(err error) bool {
	const noSuitablePeers, insufficientResources, replicasNotSupported = 10005, 10023, 10074
	e, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (e.ErrorCode == noSuitablePeers || e.ErrorCode == insufficientResources || e.ErrorCode == replicasNotSupported)
}

type difference struct {
	name       string
	have, want any
}

// differences returns the settings that matter and differ.
func differences(have, want jetstream.StreamConfig) []difference {
	all := []difference{
		{"storage", have.Storage.String(), want.Storage.String()},
		{"retention", have.Retention.String(), want.Retention.String()},
		{"discard", have.Discard.String(), want.Discard.String()},
		{"max_age", have.MaxAge.String(), want.MaxAge.String()},
		{"duplicate_window", max(have.Duplicates, 0).String(), want.Duplicates.String()},
		{"max_msgs_per_subject", max(have.MaxMsgsPerSubject, 0), max(want.MaxMsgsPerSubject, 0)},
		{"num_replicas", have.Replicas, want.Replicas},
		{"allow_direct", have.AllowDirect, want.AllowDirect},
		{"max_msgs", max(have.MaxMsgs, 0), max(want.MaxMsgs, 0)},
		{"max_bytes", max(have.MaxBytes, 0), max(want.MaxBytes, 0)},
		{"subjects", fmt.Sprintf("%q", have.Subjects), fmt.Sprintf("%q", want.Subjects)},
	}
	return slices.DeleteFunc(all, func(d difference) bool {
		// A window that we leave to the server is whatever it chose.
		return d.have == d.want || d.name == "duplicate_window" && want.Duplicates == 0
	})
}
