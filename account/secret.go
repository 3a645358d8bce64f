package account

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
)

// Secret holds a token or password that must not leave the process by
// accident. It is a closure, so that nothing that walks values (fmt, slog,
// encoding/json, a debugger's printer) finds the text; [Secret.Reveal] is the
// only way to it and easy to search for.
//
// The zero Secret is the empty secret. Secrets are immutable and may be
// shared between goroutines.
type Secret struct {
	reveal func() string
}

// ErrSecret is what marshalling a [Secret] returns.
var ErrSecret = errors.New("a secret refuses to be marshalled")

// NewSecret returns a Secret that holds s.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{func() string { return s }}
}

// Reveal returns the text.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.reveal == nil }

// Equal compares in constant time.
func (s Secret) Equal(t Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(t.Reveal())) == 1
}

const redacted = "[secret]"

func (s Secret) String() string { return redacted }

// Format implements [fmt.Formatter]: every verb prints the same placeholder.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON returns [ErrSecret].
func (s Secret) MarshalJSON() ([]byte, error) { return nil, ErrSecret }

// MarshalText returns [ErrSecret].
func (s Secret) MarshalText() ([]byte, error) { return nil, ErrSecret }

// MarshalBinary returns [ErrSecret].
func (s Secret) MarshalBinary() ([]byte, error) { return nil, ErrSecret }

// MarshalYAML returns [ErrSecret].
func (s Secret) MarshalYAML() (any, error) { return nil, ErrSecret }
