package streams

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Error codes of nats-server that nats.go has no names for.
const (
	codeAccountResources     jetstream.ErrorCode = 10002
	codeNoPeers              jetstream.ErrorCode = 10005
	codeNotAvailable         jetstream.ErrorCode = 10008
	codeInsufficient         jetstream.ErrorCode = 10023
	codeMaximumStreams       jetstream.ErrorCode = 10027
	codeMemoryExceeded       jetstream.ErrorCode = 10028
	codeStorageExceeded      jetstream.ErrorCode = 10047
	codeReplicasNotSupported jetstream.ErrorCode = 10074
	codeStoreFailed          jetstream.ErrorCode = 10077
)

// Explain says what is wrong with JetStream or a stream and what ends it, where
// an operator can do something about it. The result wraps err, or is err. It is
// what the line calls the stream: "it" where the caller names it anyway.
func Explain(stream, it string, err error) error {
	if text := plainly(stream, it, err); text != "" {
		return fmt.Errorf("%s: %w", text, err)
	}
	return err
}

func plainly(stream, it string, err error) string {
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return "JetStream is not enabled on the NATS server: start nats-server with -js"
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return "JetStream is not enabled for our NATS account: give the account JetStream limits"
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse):
		return "no server answers for " + it + ": too few of those that hold it are up, or their JetStream is off (as after a full disk), or the stream was removed; start or restart the servers"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return "no answer from JetStream in time; if that lasts, see the log of nats-server (after a full disk it takes no writes until it is restarted)"
	case errors.Is(err, nats.ErrMaxPayload):
		return "it is larger than the NATS servers allow: raise their max_payload"
	}
	e, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return ""
	}
	switch e.ErrorCode {
	case codeNotAvailable:
		return "JetStream has no leader: too few servers of the cluster are up, or they are electing one; start those that are down"
	case codeAccountResources:
		return "JetStream has no room: our NATS account has used up its limits; raise them, or remove streams"
	case codeInsufficient, codeMemoryExceeded, codeStorageExceeded:
		return "JetStream has no room: the server's storage is used up; raise max_file_store (max_memory_store), or remove streams"
	case codeMaximumStreams:
		return "our NATS account has as many streams as it may; raise its limit"
	case codeStoreFailed:
		return full(stream, e.Description)
	case jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return "it is larger than the stream allows; nats stream edit " + stream + " --max-msg-size=-1"
	case codeNoPeers:
		return "the NATS cluster can't place the stream: too few of its servers are up, have room, or have the placement tags"
	case codeReplicasNotSupported:
		return "a NATS server that is not in a cluster holds one replica alone"
	}
	return ""
}

// full tells which limit stopped a write, from what the server says.
func full(stream, description string) string {
	switch {
	case strings.Contains(description, "maximum bytes"):
		return "JetStream has no room: the stream's max_bytes is reached; nats stream edit " + stream + " --max-bytes=-1"
	case strings.Contains(description, "maximum messages"):
		return "JetStream has no room: the stream's max_msgs is reached; nats stream edit " + stream + " --max-msgs=-1"
	case strings.Contains(description, "no space left"):
		return "JetStream has no room: the server's disk is full; make room and restart nats-server"
	}
	return "the NATS server could not store the message; its log says why"
}

// hasCode reports whether err is an answer of JetStream with that code.
func hasCode(err error, code jetstream.ErrorCode) bool {
	e, ok := errors.AsType[*jetstream.APIError](err)
	return ok && e.ErrorCode == code
}

// WrongSequence reports whether err is JetStream's certain no to a message
// that names its subject's last sequence. A replicated stream has an error code
// of its own for a race with a message that isn't stored yet.
func WrongSequence(err error) bool {
	e, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
