package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/tokenbus/tokenbus/account"
)

// Transport is an [http.RoundTripper] that authorizes requests with an
// account's token. When the API answers 401 it says so to the fleet, waits for a
// newer version and repeats the request, once, if its body can be had again
// ([http.Request.GetBody], which http.NewRequest sets for the usual bodies).
//
// Where the API redirects to another host, or from https to http, the request goes
// on without a token, as net/http leaves out a header that the caller has set.
//
// Client is needed, and Key or KeyOf. It is safe for concurrent use.
type Transport struct {
	Client *Client
	// Key is the account; KeyOf, if not nil, says which by the request.
	Key   account.Key
	KeyOf func(*http.Request) (account.Key, error)
	// Base makes the requests; nil means [http.DefaultTransport].
	Base http.RoundTripper
	// Headers says by platform how a token is sent. Elsewhere it is sent as
	// "Authorization: Bearer …", or with the token's own type.
	Headers map[string]Header
	// Prepare, if not nil, is given each request with its token before it is
	// sent, such as to set a header from the token's extra fields. The request
	// is a copy.
	Prepare func(*http.Request, Token)
	// Options are those of each look-up.
	Options []Option
}

// Header says how a platform wants its token: in which header, and after which
// word, which may be none.
type Header struct{ Name, Scheme string }

var errTransport = errors.New("tokenbus transport: want a Client, and a Key or KeyOf")

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if ledAway(r) {
		return t.base().RoundTrip(r)
	}
	key, err := t.key(r)
	if err != nil {
		closeBody(r)
		return nil, err
	}
	token, err := t.Client.Token(r.Context(), key, t.Options...)
	if err != nil {
		closeBody(r)
		return nil, err
	}
	resp, err := t.base().RoundTrip(t.authorize(r, r.Body, token))
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	repeatable := r.Body == nil || r.Body == http.NoBody || r.GetBody != nil
	if !repeatable {
		t.Client.report(key, token.Version)
		return resp, nil
	}
	newer, err := t.Client.Token(r.Context(), key, append(t.Options[:len(t.Options):len(t.Options)], WithRejectedVersion(token.Version))...)
	if err != nil {
		return resp, nil //nolint:nilerr // what the API said says more
	}
	body := r.Body
	if r.GetBody != nil {
		if body, err = r.GetBody(); err != nil {
			return resp, nil //nolint:nilerr // as above
		}
	}
	discard(resp)
	return t.base().RoundTrip(t.authorize(r, body, newer))
}

// ledAway reports whether a redirect on the way to this request has left the host
// that the caller named, or https. Who was led back is still led.
func ledAway(r *http.Request) bool {
	for r.Response != nil && r.Response.Request != nil {
		before := r.Response.Request
		if !strings.EqualFold(before.URL.Host, r.URL.Host) || before.URL.Scheme == "https" && r.URL.Scheme != "https" {
			return true
		}
		r = before
	}
	return false
}

func (t *Transport) key(r *http.Request) (account.Key, error) {
	switch {
	case t.Client == nil, t.Key.IsZero() && t.KeyOf == nil:
		return account.Key{}, errTransport
	case t.KeyOf != nil:
		return t.KeyOf(r)
	}
	return t.Key, nil
}

func (t *Transport) base() http.RoundTripper {
	if t.Base != nil {
		return t.Base
	}
	return http.DefaultTransport
}

// authorize returns a copy of the request with the token.
func (t *Transport) authorize(r *http.Request, body io.ReadCloser, token Token) *http.Request {
	r = r.Clone(r.Context())
	r.Body = body
	if h, ok := t.Headers[token.Key.Platform()]; ok {
		value := token.AccessToken()
		if h.Scheme != "" {
			value = h.Scheme + " " + value
		}
		r.Header.Set(h.Name, value)
	} else {
		token.SetAuthHeader(r)
	}
	if t.Prepare != nil {
		t.Prepare(r, token)
	}
	return r
}

// closeBody does what a RoundTripper must also where it sends nothing.
func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// discard gives a response's connection back.
func discard(resp *http.Response) {
	const most = 64 << 10
	_, _ = io.CopyN(io.Discard, resp.Body, most) // else a new connection is made
	_ = resp.Body.Close()
}

// report tells the fleet that the API refused a version, without waiting.
func (c *Client) report(key account.Key, v account.Version) {
	e := c.memory.lock(key)
	defer e.mu.Unlock()
	if e.seen > v {
		return // it is replaced already
	}
	c.join(e, want{rejected: v}, context.Background(), nil)
}
