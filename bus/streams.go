package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/streams"
)

// ErrNoJetStream means that the NATS server has no JetStream for us.
var ErrNoJetStream = errors.New("JetStream is not enabled on the NATS server, or not for this account: start nats-server with -js, or allow JetStream in the account")

// StreamsConfig says how the streams are made.
type StreamsConfig struct {
	Subjects events.Subjects
	// Replicas of streams that are made, at most 5; 0 means three in a cluster
	// of three or more servers, else one.
	Replicas int
	// PlacementTags are the tags of servers that streams are made on; none
	// means any server.
	PlacementTags []string
	// MaxAge is how long events are kept; 0 means 72 h. Bumps are kept for ever:
	// there is one for each account.
	MaxAge time.Duration
	// Logger is told where an existing stream differs; nil discards it.
	Logger *slog.Logger
}

// duplicates is for how long an event that is published again is dropped.
const duplicates = 10 * time.Minute

// EnsureStreams makes the two streams that don't exist and adopts those that
// do as they are, and changes nothing: settings that differ are warned of,
// those with which a stream can't do its job are an error that names them. So
// is a NATS server that is too old.
func EnsureStreams(ctx context.Context, js jetstream.JetStream, cfg StreamsConfig) error {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Replicas < 0 || cfg.Replicas > 5 {
		return fmt.Errorf("streams with %d replicas: want 1 to 5, or 0 for as many as the cluster's size asks for", cfg.Replicas)
	}
	if err := checkServer(ctx, js); err != nil {
		return err
	}
	for _, want := range cfg.streams() {
		if err := ensureStream(ctx, js, want, cfg.Logger); err != nil {
			return fmt.Errorf("stream %s: %w", want.Name, explain(want.Name, err))
		}
	}
	return nil
}

func checkServer(ctx context.Context, js jetstream.JetStream) error {
	err := streams.CheckServer(ctx, js)
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return ErrNoJetStream
	}
	return explain("", err)
}

func (c StreamsConfig) streams() []jetstream.StreamConfig {
	age := cmp.Or(c.MaxAge, 72*time.Hour)
	placement := streams.Placement(c.PlacementTags)
	return []jetstream.StreamConfig{{
		Name:        events.StreamEvents,
		Description: "tokenbus: changed credentials and news about accounts",
		Subjects:    []string{c.Subjects.AllRefreshed(), c.Subjects.AllStatus()},
		Storage:     jetstream.FileStorage,
		Replicas:    c.Replicas,
		Placement:   placement,
		Discard:     jetstream.DiscardOld,
		MaxAge:      age,
		Duplicates:  min(duplicates, age),
		AllowDirect: true,
	}, {
		Name:              events.StreamBumps,
		Description:       "tokenbus: the last bump of each account",
		Subjects:          []string{c.Subjects.AllBumps()},
		Storage:           jetstream.FileStorage,
		Replicas:          c.Replicas,
		Placement:         placement,
		Discard:           jetstream.DiscardOld,
		MaxMsgsPerSubject: 1,
		AllowDirect:       true,
	}}
}

// ensureStream makes or adopts one stream.
func ensureStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, log *slog.Logger) error {
	stream, err := streams.Ensure(ctx, js, want)
	if err != nil {
		return err
	}
	have := stream.CachedInfo().Config
	if err := usable(have, want); err != nil {
		return err
	}
	streams.Warn(log.With("stream", want.Name), "stream", js, have, want)
	return nil
}

func explain(stream string, err error) error { return streams.Explain(stream, "it", err) }
