package natskv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// apiLevel is the level of the JetStream API that buckets need: that of
// messages with a time to live of their own.
const (
	apiLevel        = 1
	apiLevelVersion = "2.11" // of nats-server, which brought it
)

// checkServer asks whether there is a JetStream that knows what buckets need.
// An older server would not refuse: it ignores what it doesn't know, and keeps
// for ever what should end.
func checkServer(ctx context.Context, js jetstream.JetStream) error {
	info, err := js.AccountInfo(ctx)
	if err != nil {
		return fmt.Errorf("ask for JetStream: %w", err)
	}
	if info.API.Level < apiLevel {
		return fmt.Errorf("the NATS servers are too old: found JetStream API level %d (connected to nats-server %s), needed %d (nats-server %s or later); upgrade every server that runs JetStream",
			info.API.Level, js.Conn().ConnectedServerVersion(), apiLevel, apiLevelVersion)
	}
	return nil
}

const (
	// most is how many replicas a stream gets by itself.
	most = 3
	// forming is how long a cluster that has no three servers is given to
	// find its third before it counts as a small one.
	forming = 2 * time.Second
	// formingPoll is how often it is asked meanwhile.
	formingPoll = 100 * time.Millisecond
)

// ensure returns the stream, and creates it if there is none. With Replicas 0
// it gets three, or one where the servers are certainly fewer.
func ensure(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, want.Name)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return stream, err
	}
	if want.Replicas != 0 {
		stream, err = js.CreateStream(ctx, want)
	} else {
		stream, err = createBySize(ctx, js, want)
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return js.Stream(ctx, want.Name) // another worker was faster, with other settings
	}
	return stream, err
}

// createBySize lets the servers say how many they are, for they alone know. A
// choice for good must not rest on what passes: while one of the servers is
// known and out of reach there is an error and no stream.
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

// alone reports whether a stream whose replicas were left to us has only one
// though it is in a cluster.
func alone(js jetstream.JetStream, want, got jetstream.StreamConfig) bool {
	return want.Replicas == 0 && got.Replicas == 1 && js.Conn().ConnectedClusterName() != ""
}
