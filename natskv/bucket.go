package natskv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/streams"
)

// bucket is one KV bucket, with the operations that decisions may rest on.
type bucket struct {
	js       jetstream.JetStream
	stream   jetstream.Stream
	config   jetstream.StreamConfig // as it was when the bucket was opened
	name     string
	subjects string // of the keys, ends in a dot
	publish  string // where keys are written, ends in a dot
	api      string // of JetStream's own requests, ends in a dot
	timeout  time.Duration
	log      *slog.Logger
	seen     *streams.Recent[string, message] // what writes may rest on; nil: on reads alone
}

// message is the newest message of a key.
type message struct {
	data []byte
	// account is the document in data, decoded, where it was at hand: then data is
	// nil. It is not changed.
	account *account.Account
	// seq is what the next write must name; 0 if there is no message.
	seq uint64
	// live is false for a key that was never written, or was deleted.
	live bool
}

// seenKeys is of how many keys a bucket remembers what it has seen: a few MiB.
const seenKeys = 1024

func (b *bucket) saw(key string, m message) message {
	b.seen.Saw(key, m)
	return m
}

// errRaced: another write came first. Nothing was written, for certain.
var errRaced = errors.New("another write came first")

// bound limits a call, whose context may end sooner.
func (b *bucket) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, b.timeout)
}

// read asks the stream's leader, also in a bucket that allows direct reads. No
// other server answers; the package comment says what that is worth.
func (b *bucket) read(ctx context.Context, key string) (message, error) {
	if err := ctx.Err(); err != nil {
		return message{}, err
	}
	request, err := json.Marshal(map[string]string{"last_by_subj": b.subjects + key})
	if err != nil {
		return message{}, err
	}
	reply, err := b.js.Conn().RequestWithContext(ctx, b.api+"STREAM.MSG.GET.KV_"+b.name, request)
	if err != nil {
		return message{}, err
	}
	var r struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Seq    uint64 `json:"seq"`
			Header []byte `json:"hdrs"`
			Data   []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &r); err != nil {
		return message{}, fmt.Errorf("read JetStream's answer: %w", err)
	}
	switch {
	case r.Error != nil && r.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return b.saw(key, message{}), nil
	case r.Error != nil:
		return message{}, r.Error
	case r.Message == nil:
		return message{}, jetstream.ErrInvalidJetStreamResponse
	}
	m := message{data: r.Message.Data, seq: r.Message.Seq, live: true}
	if len(r.Message.Header) > 0 {
		header, err := nats.DecodeHeadersMsg(r.Message.Header)
		if err != nil {
			return message{}, fmt.Errorf("read JetStream's answer: %w", err)
		}
		m.live = !deleted(header)
	}
	return b.saw(key, m), nil
}

// write replaces the message with sequence after (0: there must be none) and
// returns the new sequence, or errRaced. A ttl above 0 makes the message end
// by itself, where the bucket allows it.
func (b *bucket) write(ctx context.Context, key string, header nats.Header, data []byte, after uint64, ttl time.Duration) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if header == nil {
		header = nats.Header{}
	}
	opts := []jetstream.PublishOpt{jetstream.WithExpectLastSequencePerSubject(after)}
	if ttl > 0 && b.config.AllowMsgTTL {
		opts = append(opts, jetstream.WithMsgTTL(ttl.Truncate(time.Second)+time.Second))
	}
	ack, err := b.js.PublishMsg(ctx, &nats.Msg{Subject: b.publish + key, Header: header, Data: data}, opts...)
	if err != nil {
		b.seen.Forget(key)
	}
	if streams.WrongSequence(err) {
		return 0, errRaced
	}
	if err != nil {
		return 0, err
	}
	b.saw(key, message{data: data, seq: ack.Sequence, live: true})
	return ack.Sequence, nil
}

// pause comes before another attempt at a write that lost a race: a replicated
// stream refuses a write also while another is on its way to the replicas, and
// a read doesn't show that one yet. It returns an error when ctx ends.
func pause(ctx context.Context, attempt int) error {
	ceiling := time.Millisecond << min(attempt, 5)
	timer := time.NewTimer(time.Millisecond/2 + rand.N(ceiling))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("other writes came first, %d times: %w", attempt+1, ctx.Err())
	}
}

// Headers of JetStream KV.
const (
	headerOperation = "KV-Operation"
	operationDelete = "DEL"
	operationPurge  = "PURGE"
)

func deleted(h nats.Header) bool {
	op := h.Get(headerOperation)
	return op == operationDelete || op == operationPurge || h.Get(jetstream.MarkerReasonHeader) != ""
}

// failed wraps what went wrong with a key.
func (b *bucket) failed(verb, key string, err error) error {
	return fmt.Errorf("%s %s in bucket %s: %w", verb, key, b.name, explain(b.config.Name, err))
}

// key returns the key of a subject of the bucket, in memory of its own.
func (b *bucket) key(subject string) (string, bool) {
	key, ok := strings.CutPrefix(subject, b.subjects)
	return strings.Clone(key), ok
}
