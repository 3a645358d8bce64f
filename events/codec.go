package events

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Duration is a duration as the contract writes it: a Go string ("30s").
type Duration time.Duration

// MarshalText implements [encoding.TextMarshaler].
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return errDuration
	}
	*d = Duration(v)
	return nil
}

var errDuration = errors.New(`want a duration such as "30s"`)

// decode reads a request's JSON and turns what is wrong into a bad_request
// that names the field and never quotes a value.
func decode(body []byte, into any) error {
	err := json.Unmarshal(body, into)
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if e.Field == "" {
			return BadRequest("body: want a JSON object")
		}
		return BadRequest(e.Field + ": want " + kind(e.Type.String()))
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return BadRequest("body: not JSON at byte " + strconv.FormatInt(e.Offset, 10))
	}
	if errors.Is(err, errDuration) {
		return BadRequest("min_ttl or timeout: " + errDuration.Error())
	}
	return BadRequest("body: " + err.Error())
}

func kind(goType string) string {
	switch {
	case strings.HasSuffix(goType, "Duration"):
		return `a duration such as "30s"`
	case strings.Contains(goType, "int"), strings.HasSuffix(goType, "Version"):
		return "a whole number"
	case strings.Contains(goType, "bool"):
		return "true or false"
	case strings.HasPrefix(goType, "map"), strings.Contains(goType, "struct"):
		return "an object"
	}
	return "a string"
}

// formatTime writes an expiry: UTC, whole seconds, rounded down; "" for none.
func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Truncate(time.Second).Format(time.RFC3339)
}

func quote(s string) json.RawMessage { out, _ := json.Marshal(s); return out }
