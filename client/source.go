package client

import (
	"context"
	"sync/atomic"

	"golang.org/x/oauth2"

	"github.com/tokenbus/tokenbus/account"
)

// TokenSource returns a source of the account's tokens for whatever takes one of
// golang.org/x/oauth2. Don't wrap it in [oauth2.ReuseTokenSource]: it costs no
// more by itself, and knows when a token was replaced. The context is used for
// every call, each of which waits as Token does.
func (c *Client) TokenSource(ctx context.Context, key account.Key, opts ...Option) oauth2.TokenSource {
	return &source{ctx: ctx, client: c, key: key, opts: opts}
}

type source struct {
	ctx    context.Context //nolint:containedctx // as in every oauth2.TokenSource
	client *Client
	key    account.Key
	opts   []Option
	last   atomic.Pointer[issued]
}

// issued is a token in both forms.
type issued struct {
	token  Token
	oauth2 *oauth2.Token
}

// Token implements [oauth2.TokenSource]. The same version is the same pointer.
func (s *source) Token() (*oauth2.Token, error) {
	t, err := s.client.Token(s.ctx, s.key, s.opts...)
	if err != nil {
		return nil, err
	}
	if i := s.last.Load(); i != nil && i.token.Version == t.Version && i.token.ExpiresAt.Equal(t.ExpiresAt) {
		return i.oauth2, nil
	}
	i := &issued{t, t.OAuth2()}
	s.last.Store(i)
	return i.oauth2, nil
}
