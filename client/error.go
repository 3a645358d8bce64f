package client

import (
	"errors"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// What can be wrong with a request for a token, for errors.Is.
var (
	ErrBadRequest     = errors.New("bad request")                          // the request can never succeed as it is
	ErrNotFound       = errors.New("no such account")                      //
	ErrDisabled       = errors.New("account is disabled")                  // by an operator
	ErrReauthRequired = errors.New("account needs a new login")            // its grant is dead
	ErrCoolingDown    = errors.New("account is cooling down")              // a refresh failed; see RetryAfter
	ErrUnavailable    = errors.New("tokens are unavailable")               // no worker, or a dependency of it is down; see RetryAfter
	ErrTimeout        = errors.New("no token in time")                     // a refresh that runs goes on, its result is kept
	ErrCredentials    = errors.New("the NATS server refuses our identity") // from New only
	ErrClosed         = errors.New("client is closed")                     //
	// ErrBadReply is behind an ErrUnavailable: a worker's reply broke the
	// contract, was of another account or of a version that was had before.
	ErrBadReply = errors.New("a worker's reply makes no sense")
)

// Error is why there is no token. It holds no secret.
type Error struct {
	Key     account.Key
	Code    events.Code
	Message string
	// RetryAfter is how long to wait before asking again; 0 where nothing is
	// said. It is always set with ErrCoolingDown and ErrUnavailable.
	RetryAfter time.Duration
	cause      error
}

func (e *Error) Error() string {
	text := "token of " + e.Key.String() + ": " + string(e.Code) + ": " + e.Message
	if e.cause != nil {
		text += " (" + e.cause.Error() + ")"
	}
	return text
}

// Unwrap returns what is behind the error on this side of the wire, if
// anything: a context's or NATS's error.
func (e *Error) Unwrap() error { return e.cause }

// Is makes errors.Is(err, ErrNotFound) and so on work.
func (e *Error) Is(target error) bool { return target != nil && target == sentinel(e.Code) }

func sentinel(c events.Code) error {
	switch c {
	case events.CodeBadRequest:
		return ErrBadRequest
	case events.CodeNotFound:
		return ErrNotFound
	case events.CodeDisabled:
		return ErrDisabled
	case events.CodeReauthRequired:
		return ErrReauthRequired
	case events.CodeCoolingDown:
		return ErrCoolingDown
	case events.CodeUnavailable:
		return ErrUnavailable
	case events.CodeTimeout:
		return ErrTimeout
	}
	return nil
}

// retryAfter is what an error says that this side made.
const retryAfter = time.Second

func unavailable(key account.Key, message string, cause error) *Error {
	return &Error{Key: key, Code: events.CodeUnavailable, Message: message, RetryAfter: retryAfter, cause: cause}
}
