package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/events"
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
	if err := checkJetStream(ctx, js); err != nil {
		return err
	}
	for _, want := range cfg.streams() {
		if err := ensureStream(ctx, js, want, cfg.Logger); err != nil {
			return fmt.Errorf("stream %s: %w", want.Name, explain(want.Name, err))
		}
	}
	return nil
}

// apiLevel is the level of the JetStream API that tokenbus needs: buckets want
// messages with a time to live of their own.
const (
	apiLevel        = 1
	apiLevelVersion = "2.11" // of nats-server, which brought it
)

func checkJetStream(ctx context.Context, js jetstream.JetStream) error {
	info, err := js.AccountInfo(ctx)
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return ErrNoJetStream
	case err != nil:
		return fmt.Errorf("look for JetStream: %w", explain("", err))
	case info.API.Level < apiLevel:
		return fmt.Errorf("the NATS servers are too old: found JetStream API level %d (connected to nats-server %s), needed %d (nats-server %s or later); upgrade every server that runs JetStream",
			info.API.Level, js.Conn().ConnectedServerVersion(), apiLevel, apiLevelVersion)
	}
	return nil
}

func (c StreamsConfig) streams() []jetstream.StreamConfig {
	age := cmp.Or(c.MaxAge, 72*time.Hour)
	var placement *jetstream.Placement
	if len(c.PlacementTags) > 0 {
		placement = &jetstream.Placement{Tags: c.PlacementTags}
	}
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
	stream, err := js.Stream(ctx, want.Name)
	switch {
	case !errors.Is(err, jetstream.ErrStreamNotFound):
	case want.Replicas != 0:
		stream, err = js.CreateStream(ctx, want)
	default:
		stream, err = createBySize(ctx, js, want)
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		stream, err = js.Stream(ctx, want.Name) // another worker was faster, with other settings
	}
	if err != nil {
		return err
	}
	have := stream.CachedInfo().Config
	if err := usable(have, want); err != nil {
		return err
	}
	for _, d := range differences(have, want) {
		log.Warn("stream exists with another setting, which is left as it is",
			"stream", want.Name, "setting", d.setting, "found", d.found, "wanted", d.needed)
	}
	if want.Replicas == 0 && have.Replicas == 1 && js.Conn().ConnectedClusterName() != "" {
		log.Warn("stream has one replica in a cluster: if the cluster has three servers, raise it; if one is what you want, ask for one",
			"stream", want.Name, "raise", "nats stream edit "+want.Name+" --replicas=3")
	}
	return nil
}

const (
	// most is how many replicas a stream gets by itself.
	most = 3
	// forming is how long a cluster that has no three servers is given to
	// find its third before it counts as a small one.
	forming     = 2 * time.Second
	formingPoll = 100 * time.Millisecond
)

// createBySize makes a stream with three replicas, or one where the servers
// are certainly fewer: they alone know how many they are. A choice for good
// must not rest on what passes, so while a server is known and out of reach
// there may be an error and no stream.
func createBySize(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	want.Replicas = most
	tick := time.NewTicker(formingPoll)
	defer tick.Stop()
	for end := time.Now().Add(forming); ; {
		stream, err := js.CreateStream(ctx, want)
		switch {
		case hasCode(err, codeReplicasNotSupported): // no cluster
		case hasCode(err, codeNoPeers) && strings.Contains(err.Error(), "peer offline"):
			return nil, fmt.Errorf("three replicas can't be placed while servers of the cluster are down; start them, or ask for fewer replicas: %w", err)
		case hasCode(err, codeNoPeers) && time.Now().Before(end):
			select {
			case <-tick.C:
				continue
			case <-ctx.Done():
				return nil, err
			}
		case hasCode(err, codeNoPeers): // too small a cluster, and it stays so
		default:
			return stream, err
		}
		want.Replicas = 1
		return js.CreateStream(ctx, want)
	}
}
