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
	// Token returns a token or an [*events.Error]. It ends with its context;
	// what it began on the way may go on.
	Token(ctx context.Context, key account.Key, req events.TokenRequest) (events.TokenReply, error)
}

// tokenEndpoint answers the token requests of every account.
func tokenEndpoint(subjects events.Subjects, tokens Tokens) endpoint {
	return endpoint{
		name:    "token",
		subject: subjects.AllRequests(),
		prepare: func(m *nats.Msg) ([]byte, work, error) {
			key, err := subjects.ParseRequest(m.Subject)
			if err != nil {
				return nil, nil, events.BadRequest(err.Error())
			}
			req, err := events.DecodeTokenRequest(m.Data)
			if err != nil {
				return nil, nil, err
			}
			if reply, ok := tokens.Cached(key, req); ok {
				return reply, nil, nil
			}
			return nil, func(ctx context.Context) ([]byte, error) {
				ctx, cancel := context.WithTimeout(ctx, req.Timeout)
				defer cancel()
				reply, err := tokens.Token(ctx, key, req)
				if err != nil {
					return nil, err
				}
				return reply.Encode(), nil
			}, nil
		},
	}
}
