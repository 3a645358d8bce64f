package loginfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// object is a JSON object that is read field by field. What is wrong is noted
// once, by the field's path, and never with its value.
type object struct {
	path   string // of this object, with a dot at the end; "" at the top
	fields map[string]json.RawMessage
	first  *string // what was wrong first, shared with the objects inside
}

// parse reads data, which must be one JSON object.
func parse(data []byte) (object, error) {
	o := object{first: new(string)}
	if len(bytes.TrimSpace(data)) == 0 {
		return o, errors.New("it is empty")
	}
	err := json.Unmarshal(data, &o.fields)
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return o, fmt.Errorf("not JSON at byte %d", e.Offset)
	}
	if err != nil || o.fields == nil {
		return o, errors.New("want a JSON object")
	}
	return o, nil
}

func (o object) problem() string { return *o.first }

func (o object) wrong(name, reason string) {
	if *o.first == "" {
		*o.first = o.path + name + ": " + reason
	}
}

// has reports whether the field is there and not null.
func (o object) has(name string) bool {
	raw, ok := o.fields[name]
	return ok && !bytes.Equal(raw, []byte("null"))
}

// isObject reports whether the field is there and an object.
func (o object) isObject(name string) bool { return o.starts(name, '{') }

// isArray reports whether the field is there and an array.
func (o object) isArray(name string) bool { return o.starts(name, '[') }

func (o object) starts(name string, c byte) bool {
	raw := o.fields[name]
	return len(raw) > 0 && raw[0] == c
}

// peek returns a text without noting what is wrong.
func (o object) peek(name string) string { return account.Extra(o.fields).Text(name) }

// text returns a text; "" where it is absent.
func (o object) text(name string) string {
	if !o.has(name) {
		return ""
	}
	var s string
	if json.Unmarshal(o.fields[name], &s) != nil {
		o.wrong(name, "want a string")
	}
	return s
}

func (o object) secret(name string) account.Secret { return account.NewSecret(o.text(name)) }

// time returns a point in time; zero where it is absent.
func (o object) time(name string) time.Time {
	t, err := account.ParseTime(o.fields[name])
	if err != nil {
		o.wrong(name, err.Error())
	}
	return t
}

// flag returns a truth value; false where it is absent.
func (o object) flag(name string) bool {
	var b bool
	if o.has(name) && json.Unmarshal(o.fields[name], &b) != nil {
		o.wrong(name, "want true or false")
	}
	return b
}

// object returns the object in a field, an empty one where it is absent.
func (o object) object(name string) object {
	inner := object{o.path + name + ".", nil, o.first}
	if o.has(name) && json.Unmarshal(o.fields[name], &inner.fields) != nil {
		o.wrong(name, "want an object")
	}
	return inner
}

// each calls f with the elements of an array in a field, none where it is
// absent.
func (o object) each(name string, f func(i int, raw json.RawMessage)) {
	if o.has(name) && !elements(o.fields[name], f) {
		o.wrong(name, "want an array")
	}
}

// elements calls f with each element of a JSON array, and reports whether data
// is one. raw is f's until it returns: a file of very many logins is never there
// a second time in pieces.
func elements(data []byte, f func(i int, raw json.RawMessage)) bool {
	if !json.Valid(data) { // nothing of a file that is cut
		return false
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if start, err := d.Token(); err != nil || start != json.Delim('[') {
		return false
	}
	var raw json.RawMessage
	for i := 0; d.More(); i++ {
		if d.Decode(&raw) != nil {
			return false // not after Valid
		}
		f(i, raw)
	}
	return true
}

// copyTo copies texts that are there into an Extra.
func (o object) copyTo(c *account.Credentials, names ...string) {
	for _, name := range names {
		setExtra(c, name, o.text(name))
	}
}

func setExtra(c *account.Credentials, name, value string) {
	if value == "" {
		return
	}
	if c.Extra == nil {
		c.Extra = account.Extra{}
	}
	c.Extra.SetText(name, value)
}
