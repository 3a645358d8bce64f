// Package streams makes the JetStream streams that package bus keeps events in
// and package natskv makes buckets of, or adopts those that are there.
//
// [CheckServer], then [Ensure]; then what is there is held against what is
// wanted. It is never changed and never removed, for it may hold the only copy
// of something: settings with which it can't do its job are an error
// ([Unfit]), all others that differ are told ([Warn]). [Explain] says in a line
// what JetStream's errors mean to an operator.
package streams

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// apiLevel is the level of the JetStream API that is needed: that of messages
// with a time to live of their own, for buckets.
const (
	apiLevel        = 1
	apiLevelVersion = "2.11" // of nats-server, which brought it
)

// CheckServer asks whether there is a JetStream that knows what is needed. An
// older server would not refuse: it ignores what it doesn't know, and keeps for
// ever what should end.
func CheckServer(ctx context.Context, js jetstream.JetStream) error {
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

// Placement returns where a stream is made: on servers that have all the tags.
// No tags are nil: on any server.
func Placement(tags []string) *jetstream.Placement {
	if len(tags) == 0 {
		return nil
	}
	return &jetstream.Placement{Tags: tags}
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

// Ensure returns the stream, and creates it if there is none. With Replicas 0
// it gets three, or one where the servers are certainly fewer. What it returns
// may have been there before, with other settings.
func Ensure(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
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
// known and out of reach there may be an error and no stream.
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
