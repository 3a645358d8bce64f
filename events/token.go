package events

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// Bounds and defaults of a token request's timeout.
const (
	DefaultTimeout = 10 * time.Second
	MaxTimeout     = 60 * time.Second
)

// TokenRequest asks for a token. The zero value means all defaults.
type TokenRequest struct {
	MinVersion      account.Version // never answer below this version
	MinTTL          time.Duration   // the token must live this much longer; 0: the worker's default, below a millisecond: any life will do
	RejectedVersion account.Version // the API answered 401 to this version
	KnownVersion    account.Version // answer "not modified" if this one is current
	Timeout         time.Duration   // how long the asker waits; 0: DefaultTimeout
}

type tokenRequestJSON struct {
	MinVersion      account.Version `json:"min_version,omitempty"`
	MinTTL          *Duration       `json:"min_ttl,omitempty"`
	RejectedVersion account.Version `json:"rejected_version,omitempty"`
	KnownVersion    account.Version `json:"known_version,omitempty"`
	Timeout         Duration        `json:"timeout,omitempty"`
}

// MaxTokenRequest is the longest body of a token request, in bytes.
const MaxTokenRequest = 4096

// DecodeTokenRequest reads a request's body. An error is an [*Error] with
// [CodeBadRequest] that names the field. A timeout above [MaxTimeout] counts
// as MaxTimeout.
func DecodeTokenRequest(body []byte) (TokenRequest, error) {
	switch n := len(body); {
	case n == 0:
		return TokenRequest{Timeout: DefaultTimeout}, nil
	case n > MaxTokenRequest: // all others would wait until it is read
		return TokenRequest{}, BadRequest(fmt.Sprintf("body: %d bytes, at most %d are taken", n, MaxTokenRequest))
	}
	var j tokenRequestJSON
	if err := decode(body, &j); err != nil {
		return TokenRequest{}, err
	}
	var minTTL time.Duration
	if j.MinTTL != nil { // "0s" is not the default: it asks for any token that lives
		minTTL = cmp.Or(time.Duration(*j.MinTTL), time.Nanosecond)
	}
	for _, f := range []struct {
		name string
		n    int64
	}{
		{"min_version", int64(j.MinVersion)}, {"min_ttl", int64(minTTL)}, {"rejected_version", int64(j.RejectedVersion)},
		{"known_version", int64(j.KnownVersion)}, {"timeout", int64(j.Timeout)},
	} {
		if f.n < 0 {
			return TokenRequest{}, BadRequest(f.name + ": must not be negative")
		}
	}
	r := TokenRequest{j.MinVersion, minTTL, j.RejectedVersion, j.KnownVersion, time.Duration(j.Timeout)}
	if r.Timeout == 0 {
		r.Timeout = DefaultTimeout
	}
	r.Timeout = min(r.Timeout, MaxTimeout)
	return r, nil
}

// Encode returns the request's body: nil if all is default.
func (r TokenRequest) Encode() []byte {
	if r == (TokenRequest{}) || r == (TokenRequest{Timeout: DefaultTimeout}) {
		return nil
	}
	var minTTL *Duration
	if r.MinTTL != 0 {
		minTTL = new(Duration(r.MinTTL))
	}
	out, _ := json.Marshal(tokenRequestJSON{r.MinVersion, minTTL, r.RejectedVersion, r.KnownVersion, Duration(r.Timeout)})
	return out
}

// Source says where a reply's token was found.
type Source string

// The sources of a token.
const (
	SourceL1      Source = "l1"
	SourceShared  Source = "shared"
	SourceStore   Source = "store"
	SourceRefresh Source = "refresh"
)

// TokenReply is a living token. It is the only message with a secret.
type TokenReply struct {
	Key         account.Key
	Version     account.Version
	AccessToken account.Secret
	TokenType   string
	ExpiresAt   time.Time // zero where unknown
	Source      Source
	Extra       account.Extra
	NotModified bool // known_version is current: no token inside
}

type tokenReplyJSON struct {
	Platform    string                     `json:"platform,omitempty"`
	ID          string                     `json:"id,omitempty"`
	Version     account.Version            `json:"version"`
	NotModified bool                       `json:"not_modified,omitempty"`
	AccessToken string                     `json:"access_token,omitempty"`
	TokenType   string                     `json:"token_type,omitempty"`
	ExpiresAt   string                     `json:"expires_at,omitempty"`
	Source      Source                     `json:"source,omitempty"`
	Extra       map[string]json.RawMessage `json:"extra,omitempty"`
	Error       *Error                     `json:"error,omitempty"`
}

// Encode returns the reply's body, a secret in the clear.
func (r TokenReply) Encode() []byte {
	j := tokenReplyJSON{Version: r.Version, ExpiresAt: formatTime(r.ExpiresAt), NotModified: r.NotModified}
	if !r.NotModified {
		j.Platform, j.ID, j.Source, j.Extra = r.Key.Platform(), r.Key.ID(), r.Source, r.Extra
		j.AccessToken, j.TokenType = r.AccessToken.Reveal(), r.TokenType
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(j); err != nil {
		panic(fmt.Sprintf("events: encode reply: %v", err)) // only an Extra that isn't JSON can do this
	}
	return bytes.TrimRight(buf.Bytes(), "\n")
}

// DecodeTokenReply reads a reply to a request for key. An error reply comes
// back as its [*Error]; a reply that is no reply, lacks its token or speaks of
// another account is an error too.
func DecodeTokenReply(key account.Key, body []byte) (TokenReply, error) {
	var j tokenReplyJSON
	if err := unmarshal(body, &j); err != nil {
		return TokenReply{}, fmt.Errorf("token reply for %s: %w", key, err)
	}
	if j.Error != nil {
		return TokenReply{}, j.Error
	}
	expires, err := account.ParseTime(quote(j.ExpiresAt))
	if err != nil {
		return TokenReply{}, fmt.Errorf("token reply for %s: expires_at: %w", key, err)
	}
	r := TokenReply{Key: key, Version: j.Version, ExpiresAt: expires, NotModified: j.NotModified}
	if r.NotModified {
		return r, nil
	}
	if j.Platform != key.Platform() || j.ID != key.ID() {
		return TokenReply{}, fmt.Errorf("token reply for %s: it is for another account", key)
	}
	if j.AccessToken == "" || j.Version < 1 {
		return TokenReply{}, fmt.Errorf("token reply for %s: access_token or version is missing", key)
	}
	r.AccessToken, r.TokenType, r.Source, r.Extra = account.NewSecret(j.AccessToken), j.TokenType, j.Source, j.Extra
	return r, nil
}
