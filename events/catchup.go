package events

import (
	"fmt"

	"github.com/tokenbus/tokenbus/account"
)

// Bounds of a request to catch up.
const (
	MaxCatchUp        = 1024     // accounts
	MaxCatchUpRequest = 64 << 10 // bytes of its body
)

// CatchUpRequest asks for the last bumps of accounts of one platform, which the
// subject names.
type CatchUpRequest struct {
	IDs []string `json:"ids,omitempty"`
}

// CatchUpReply has the last bumps, in any order. An account that it lacks has
// none, or none that could be read: nothing is known of what was missed.
type CatchUpReply struct{ Bumps []Bump }

type catchUpReplyJSON struct {
	Bumps []bumpJSON `json:"bumps"`
	Error *Error     `json:"error,omitempty"`
}

// Encode returns the request's body.
func (r CatchUpRequest) Encode() []byte { return encode(r) }

// DecodeCatchUpRequest reads the body of a request for accounts of the platform.
// An error is an [*Error] with [CodeBadRequest].
func DecodeCatchUpRequest(platform string, body []byte) ([]account.Key, error) {
	var r CatchUpRequest
	if n := len(body); n > MaxCatchUpRequest {
		return nil, BadRequest(fmt.Sprintf("body: %d bytes, at most %d are taken", n, MaxCatchUpRequest))
	} else if n > 0 {
		if err := decode(body, &r); err != nil {
			return nil, err
		}
	}
	if n := len(r.IDs); n > MaxCatchUp {
		return nil, BadRequest(fmt.Sprintf("ids: %d accounts, at most %d are taken", n, MaxCatchUp))
	}
	keys := make([]account.Key, len(r.IDs))
	for i, id := range r.IDs {
		var err error
		if keys[i], err = account.NewKey(platform, id); err != nil {
			return nil, BadRequest("ids: " + err.Error())
		}
	}
	return keys, nil
}

// Encode returns the reply's body.
func (r CatchUpReply) Encode() []byte {
	j := catchUpReplyJSON{Bumps: make([]bumpJSON, len(r.Bumps))}
	for i, b := range r.Bumps {
		j.Bumps[i] = b.json()
	}
	return encode(j)
}

// DecodeCatchUpReply reads the reply. An error reply comes back as its [*Error].
func DecodeCatchUpReply(body []byte) (CatchUpReply, error) {
	var j catchUpReplyJSON
	if err := unmarshal(body, &j); err != nil {
		return CatchUpReply{}, fmt.Errorf("reply with last bumps: %w", err)
	}
	if j.Error != nil {
		return CatchUpReply{}, j.Error
	}
	r := CatchUpReply{Bumps: make([]Bump, len(j.Bumps))}
	for i, b := range j.Bumps {
		var err error
		if r.Bumps[i], err = b.bump(); err != nil {
			return CatchUpReply{}, fmt.Errorf("reply with last bumps: %w", err)
		}
	}
	return r, nil
}
