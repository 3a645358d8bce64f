package bus

import (
	"context"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// Tokens answers token requests.
type Tokens interface {
	// Cached returns the encoded reply if it can be given from memory at once;
	// it must not block. The bytes are not changed afterwards by either side.
	Cached(key account.Key, req events.TokenRequest) (reply []byte, ok bool)
	// Ask is asked where Cached has no answer. It must not block, and calls answer
	// once, from any goroutine: with an encoded reply, which is not changed
	// afterwards, or an [*events.Error]; at the latest when the request's timeout
	// has passed, and soon when ctx ends, which is of all requests.
	Ask(ctx context.Context, key account.Key, req events.TokenRequest, answer func(reply []byte, err error))
}

// seen are bodies of requests and what they say: most of them come again and
// again, and a look costs a small part of reading them anew. It is for one
// goroutine.
type seen map[string]events.TokenRequest

// Bounds of what is remembered: some hundred KiB at most.
const (
	maxSeen     = 2048
	maxSeenBody = 160
)

func (s seen) decode(body []byte) (events.TokenRequest, error) {
	if len(body) > maxSeenBody {
		return events.DecodeTokenRequest(body)
	}
	if req, ok := s[string(body)]; ok {
		return req, nil
	}
	req, err := events.DecodeTokenRequest(body)
	if err == nil {
		if len(s) >= maxSeen {
			clear(s)
		}
		s[string(body)] = req
	}
	return req, err
}

// tokenEndpoint answers the token requests of every account.
func tokenEndpoint(subjects events.Subjects, tokens Tokens) endpoint {
	bodies := seen{} // of the subscription's goroutine
	return endpoint{
		name:    "token",
		subject: subjects.AllRequests(),
		prepare: func(m *nats.Msg) ([]byte, work, error) {
			key, err := subjects.ParseRequest(m.Subject)
			if err != nil {
				return nil, nil, events.BadRequest(err.Error())
			}
			req, err := bodies.decode(m.Data)
			if err != nil {
				return nil, nil, err
			}
			if reply, ok := tokens.Cached(key, req); ok {
				return reply, nil, nil
			}
			return nil, func(ctx context.Context, done func([]byte, error)) { tokens.Ask(ctx, key, req, done) }, nil
		},
	}
}
