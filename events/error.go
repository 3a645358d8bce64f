package events

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// Code is the code of an error reply.
type Code string

// The codes, with the HTTP status that each resembles.
const (
	CodeBadRequest     Code = "bad_request"     // 400
	CodeNotFound       Code = "not_found"       // 404
	CodeDisabled       Code = "disabled"        // 403
	CodeReauthRequired Code = "reauth_required" // 409
	CodeCoolingDown    Code = "cooling_down"    // 429
	CodeUnavailable    Code = "unavailable"     // 503
	CodeTimeout        Code = "timeout"         // 504
)

// HTTPStatus returns the HTTP status that resembles the code, 500 for an
// unknown one.
func (c Code) HTTPStatus() int {
	switch c {
	case CodeBadRequest:
		return 400
	case CodeNotFound:
		return 404
	case CodeDisabled:
		return 403
	case CodeReauthRequired:
		return 409
	case CodeCoolingDown:
		return 429
	case CodeUnavailable:
		return 503
	case CodeTimeout:
		return 504
	}
	return 500
}

// Names of NATS micro's error headers.
const (
	HeaderErrorCode = "Nats-Service-Error-Code"
	HeaderError     = "Nats-Service-Error"
)

// Error is an error reply, on both sides of the wire.
type Error struct {
	Code       Code
	Message    string
	RetryAfter time.Duration // 0: not said; always set with cooling_down and unavailable
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Is makes errors.Is(err, &Error{Code: c}) compare codes.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Message == ""
}

// BadRequest returns the error for input that is wrong.
func BadRequest(message string) *Error { return &Error{Code: CodeBadRequest, Message: message} }

// NotFound returns the error for an account that does not exist.
func NotFound(key account.Key) *Error {
	return &Error{Code: CodeNotFound, Message: fmt.Sprintf("no account %s", key)}
}

// Unavailable returns the error for something that is out of reach and worth
// another try after a while.
func Unavailable(after time.Duration, format string, args ...any) *Error {
	return &Error{Code: CodeUnavailable, Message: fmt.Sprintf(format, args...), RetryAfter: Soonest(after)}
}

// CoolingDown returns the error for an account that is left alone for a while.
func CoolingDown(after time.Duration, format string, args ...any) *Error {
	return &Error{Code: CodeCoolingDown, Message: fmt.Sprintf(format, args...), RetryAfter: Soonest(after)}
}

// ReauthRequired returns the error for a grant that is dead. why is a code and
// text a line for people.
func ReauthRequired(key account.Key, why, text string) *Error {
	return &Error{Code: CodeReauthRequired, Message: fmt.Sprintf("%s: a person must log in again (%s: %s)", key, why, text)}
}

// RetrySoon is the retry_after where nothing better is known.
const RetrySoon = time.Second

// Soonest makes a duration fit for retry_after: whole milliseconds, and never
// so short that callers spin.
func Soonest(d time.Duration) time.Duration {
	return max(d.Round(time.Millisecond), 100*time.Millisecond)
}

type errorJSON struct {
	Code       Code     `json:"code"`
	Message    string   `json:"message"`
	RetryAfter Duration `json:"retry_after,omitempty"`
}

// MarshalJSON implements [json.Marshaler].
func (e *Error) MarshalJSON() ([]byte, error) {
	return json.Marshal(errorJSON{e.Code, e.Message, Duration(e.RetryAfter)})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (e *Error) UnmarshalJSON(data []byte) error {
	var j errorJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	*e = Error{j.Code, j.Message, time.Duration(j.RetryAfter)}
	return nil
}

// Encode returns the body of the error reply.
func (e *Error) Encode() []byte {
	out, _ := json.Marshal(map[string]*Error{"error": e}) // strings and a number
	return out
}

// Header returns the headers of the error reply.
func (e *Error) Header() map[string][]string {
	return map[string][]string{
		HeaderErrorCode: {strconv.Itoa(e.Code.HTTPStatus())},
		HeaderError:     {string(e.Code) + ": " + e.Message},
	}
}
