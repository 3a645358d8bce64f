package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/streams"
)

// PublisherConfig configures a [Publisher]. All fields but Logger are needed.
type PublisherConfig struct {
	Conn     *nats.Conn
	Subjects events.Subjects
	// Source is the worker that the events' headers name.
	Source string
	// Logger is told of a bump in the stream that can't be read; nil discards it.
	Logger *slog.Logger
}

// Publisher publishes events to their streams. It implements
// [ledger.Publisher] and is safe for concurrent use.
type Publisher struct {
	cfg PublisherConfig
	js  jetstream.JetStream
	log *slog.Logger
	// bumps are the last ones that this process has read or published: a refresh
	// asks for one before it publishes the next.
	bumps *streams.Recent[account.Key, seenBump]
}

// seenBump is the account's newest bump in the stream.
type seenBump struct {
	rev account.Rev // 0: there is none
	seq uint64      // what the next one must name
}

// bumpsKept is of how many accounts the last bump is remembered.
const bumpsKept = 4096

var _ ledger.Publisher = (*Publisher)(nil)

// publishTimeout is the patience with a stream where the caller's context sets
// no end.
const publishTimeout = 5 * time.Second

// NewPublisher returns a publisher. It sends nothing.
func NewPublisher(cfg PublisherConfig) (*Publisher, error) {
	if cfg.Conn == nil || cfg.Source == "" || cfg.Subjects == (events.Subjects{}) {
		return nil, errors.New("make publisher: want a connection, subjects and a source")
	}
	js, err := jetstream.New(cfg.Conn, jetstream.WithDefaultTimeout(publishTimeout))
	if err != nil {
		return nil, fmt.Errorf("make publisher: %w", err)
	}
	p := &Publisher{cfg: cfg, js: js, log: cfg.Logger, bumps: streams.NewRecent[account.Key, seenBump](bumpsKept)}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	return p, nil
}

// Refreshed implements [ledger.Publisher]. An event of the same account and
// version within the stream's duplicate window is stored once.
func (p *Publisher) Refreshed(ctx context.Context, e events.Refreshed) error {
	msg := &nats.Msg{Subject: p.cfg.Subjects.Refreshed(e.Key), Header: e.Header(), Data: e.Encode()}
	if _, err := p.publish(ctx, msg, events.StreamEvents, jetstream.WithMsgID(e.MsgID())); err != nil {
		return fmt.Errorf("publish refreshed event of %s: %w", e.Key, err)
	}
	return nil
}

// Status implements [ledger.Publisher]. The same event is stored once
// within the stream's duplicate window.
func (p *Publisher) Status(ctx context.Context, e events.Status) error {
	header := nats.Header(e.Header(p.cfg.Source))
	msg := &nats.Msg{Subject: p.cfg.Subjects.Status(e.Key), Header: header, Data: e.Encode()}
	if _, err := p.publish(ctx, msg, events.StreamEvents, jetstream.WithMsgID(header["ce-id"][0])); err != nil {
		return fmt.Errorf("publish status event of %s: %w", e.Key, err)
	}
	return nil
}

// Bump implements [ledger.Publisher]. It is a compare-and-set on the last
// bump of the account: what arrives late can't replace what is newer.
func (p *Publisher) Bump(ctx context.Context, e events.Bump) error {
	last, ok := p.bumps.Get(e.Key)
	for rest := ok && last.rev < e.Rev; ; rest = false {
		if !rest {
			b, seq, err := p.lastBump(ctx, e.Key)
			switch {
			case errors.Is(err, errUnreadable):
				p.log.Warn("the stream's last bump can't be read and is replaced", "account", e.Key.String(), "sequence", seq)
			case err != nil && !errors.Is(err, ledger.ErrNotFound):
				return fmt.Errorf("publish bump of %s: %w", e.Key, err)
			case err == nil && b.Rev >= e.Rev:
				return nil
			}
			last.seq = seq
		}
		err := p.bump(ctx, e, last.seq)
		if err == nil {
			return nil
		}
		if !streams.WrongSequence(err) {
			return fmt.Errorf("publish bump of %s: %w", e.Key, err)
		}
		// Somebody else published; look again. Each round some rev has risen, so
		// this ends.
		if ctx.Err() != nil {
			return fmt.Errorf("publish bump of %s: %w", e.Key, ctx.Err())
		}
	}
}

// bump publishes e in the place of the bump with sequence after.
func (p *Publisher) bump(ctx context.Context, e events.Bump, after uint64) error {
	// No message id: the duplicate window would swallow a bump that is published
	// again after it was purged.
	msg := &nats.Msg{Subject: p.cfg.Subjects.Bump(e.Key), Header: e.Header(p.cfg.Source), Data: e.Encode()}
	seq, err := p.publish(ctx, msg, events.StreamBumps, jetstream.WithExpectLastSequencePerSubject(after))
	if err == nil {
		p.bumps.Saw(e.Key, seenBump{e.Rev, seq})
	}
	return err
}

// LastBump implements [ledger.Publisher]. It asks the stream's leader.
func (p *Publisher) LastBump(ctx context.Context, key account.Key) (events.Bump, error) {
	b, _, err := p.lastBump(ctx, key)
	if err != nil {
		return events.Bump{}, fmt.Errorf("read last bump of %s: %w", key, err)
	}
	return b, nil
}

func (p *Publisher) publish(ctx context.Context, msg *nats.Msg, stream string, opt jetstream.PublishOpt) (sequence uint64, err error) {
	ack, err := p.js.PublishMsg(ctx, msg, opt, jetstream.WithExpectStream(stream))
	if err != nil {
		return 0, explain(stream, err)
	}
	return ack.Sequence, nil
}

var errUnreadable = errors.New("it can't be read")

// lastBump returns the last bump and its sequence. A bump that is there and
// can't be read is errUnreadable, with its sequence.
//
// The library reads from whichever replica answers as soon as the stream
// allows direct gets, which ours does for those who catch up; this asks the
// leader. One that was deposed and hasn't noticed may answer with an older
// bump. Bump then publishes with a sequence that the others refuse. LastBump
// alone has no write behind it: for those seconds a store that was restored
// from a backup may pass for current.
func (p *Publisher) lastBump(ctx context.Context, key account.Key) (events.Bump, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	subject := p.cfg.Subjects.Bump(key)
	body, _ := json.Marshal(map[string]string{"last_by_subj": subject})
	reply, err := p.cfg.Conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+events.StreamBumps, body)
	if err != nil {
		return events.Bump{}, 0, explain(events.StreamBumps, err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Seq  uint64 `json:"seq"`
			Data []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return events.Bump{}, 0, fmt.Errorf("answer of the JetStream API: %w", err)
	}
	if e := answer.Error; e != nil {
		if e.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			p.bumps.Saw(key, seenBump{})
			return events.Bump{}, 0, ledger.ErrNotFound
		}
		return events.Bump{}, 0, explain(events.StreamBumps, e)
	}
	b, err := events.DecodeBump(answer.Message.Data)
	if err != nil {
		return events.Bump{}, answer.Message.Seq, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if b.Key != key {
		return events.Bump{}, answer.Message.Seq, fmt.Errorf("%w: it is of %s", errUnreadable, b.Key)
	}
	p.bumps.Saw(key, seenBump{b.Rev, answer.Message.Seq})
	return b, answer.Message.Seq, nil
}
