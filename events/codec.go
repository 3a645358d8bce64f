package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
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
		return errors.New(`want a duration such as "30s"`)
	}
	*d = Duration(v)
	return nil
}

// UnmarshalJSON implements [json.Unmarshaler]. Its error is a
// [*json.UnmarshalTypeError], to which the decoder adds the field's name.
func (d *Duration) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var s string
	if json.Unmarshal(data, &s) != nil || d.UnmarshalText([]byte(s)) != nil {
		return wrongType[Duration]()
	}
	return nil
}

// timestamp is a point in time on the wire: RFC 3339, in UTC when written.
// Like [Duration] it reports through the decoder, and it never holds a time
// that can't be written again.
type timestamp struct{ time.Time }

func newTimestamp(t time.Time) timestamp {
	if t.IsZero() {
		return timestamp{}
	}
	return timestamp{t.UTC()}
}

// UnmarshalJSON implements [json.Unmarshaler].
func (t *timestamp) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var s string
	if json.Unmarshal(data, &s) != nil {
		return wrongType[timestamp]()
	}
	v, err := time.Parse(time.RFC3339, s)
	if year := v.UTC().Year(); err != nil || year < 0 || year > 9999 {
		return wrongType[timestamp]()
	}
	t.Time = v.UTC()
	return nil
}

func wrongType[T any]() error {
	return &json.UnmarshalTypeError{Value: "value", Type: reflect.TypeFor[T]()}
}

// decode reads a request's JSON and turns what is wrong into a bad_request
// that names the field and never quotes a value.
func decode(body []byte, into any) error {
	if err := unmarshal(body, into); err != nil {
		return BadRequest(err.Error())
	}
	return nil
}

// unmarshal reads a JSON object. Its error names the field and never quotes a
// value.
func unmarshal(body []byte, into any) error {
	err := json.Unmarshal(body, into)
	if err == nil {
		if bytes.Equal(bytes.TrimSpace(body), []byte("null")) {
			return errors.New("body: want a JSON object")
		}
		return nil
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if e.Field == "" {
			return errors.New("body: want a JSON object")
		}
		return errors.New(e.Field + ": want " + kind(e.Type))
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return errors.New("body: not JSON at byte " + strconv.FormatInt(e.Offset, 10))
	}
	return errors.New("body: not of the expected form")
}

// kind says in the words of JSON what a field wants.
func kind(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Duration]():
		return `a duration such as "30s"`
	case reflect.TypeFor[timestamp]():
		return "an RFC 3339 time"
	}
	switch t.Kind() {
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Bool:
		return "true or false"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Slice:
		return "a list"
	}
	return "a string"
}

// formatTime writes an expiry: UTC, whole seconds, rounded down; "" for none.
// RFC 3339 ends with the year 9999, and so does every token.
func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	if t.UTC().Year() > 9999 {
		return "9999-12-31T23:59:59Z"
	}
	return t.UTC().Truncate(time.Second).Format(time.RFC3339)
}

func quote(s string) json.RawMessage { out, _ := json.Marshal(s); return out }
