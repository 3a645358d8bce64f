// Package account is the domain of tokenbus: what an OAuth account is, the
// words for its parts, and the rules about it that need no I/O.
//
// It imports the standard library alone and everything else imports it.
package account

import (
	"fmt"
	"strings"
)

const (
	maxPlatform = 64
	maxID       = 128
)

// Key names one account as "<platform>.<id>". The platform is one to 64
// characters of [a-z0-9_-], the id one to 128 of [A-Za-z0-9_-], so that a key
// is safe as two NATS subject tokens, as a KV key and as a file name.
//
// Keys are comparable. The zero Key names no account.
type Key struct {
	platform, id string
}

// KeyError reports text that is no account key. Errors of this type come from
// [NewKey] and [ParseKey] alone.
type KeyError struct {
	Text   string // what was given
	Reason string // what is wrong with it
}

func (e *KeyError) Error() string {
	return fmt.Sprintf("account key %q: %s", clip(e.Text, 80), e.Reason)
}

// NewKey returns the key of the account id on platform, or a [*KeyError].
func NewKey(platform, id string) (Key, error) {
	switch {
	case platform == "":
		return wrongKey(platform, id, "the platform is empty")
	case len(platform) > maxPlatform:
		return wrongKey(platform, id, fmt.Sprintf("the platform has %d characters, at most %d are allowed", len(platform), maxPlatform))
	case !all(platform, platformChar):
		return wrongKey(platform, id, "the platform may contain only a-z, 0-9, _ and -")
	case id == "":
		return wrongKey(platform, id, "the id is empty")
	case len(id) > maxID:
		return wrongKey(platform, id, fmt.Sprintf("the id has %d characters, at most %d are allowed", len(id), maxID))
	case !all(id, idChar):
		return wrongKey(platform, id, "the id may contain only A-Z, a-z, 0-9, _ and -")
	}
	return Key{platform, id}, nil
}

func wrongKey(platform, id, reason string) (Key, error) {
	return Key{}, &KeyError{platform + "." + id, reason}
}

// ParseKey parses "<platform>.<id>", or returns a [*KeyError].
func ParseKey(s string) (Key, error) {
	platform, id, ok := strings.Cut(s, ".")
	if !ok {
		return Key{}, &KeyError{s, "want <platform>.<id>"}
	}
	return NewKey(platform, id)
}

// Platform returns the part before the dot.
func (k Key) Platform() string { return k.platform }

// ID returns the part after the dot.
func (k Key) ID() string { return k.id }

// IsZero reports whether k names no account.
func (k Key) IsZero() bool { return k == Key{} }

func (k Key) String() string { return k.platform + "." + k.id }

// MarshalText implements [encoding.TextMarshaler].
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (k *Key) UnmarshalText(text []byte) (err error) {
	*k, err = ParseKey(string(text))
	return err
}

func platformChar(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

func idChar(c byte) bool { return platformChar(c) || 'A' <= c && c <= 'Z' }

func all(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
