package seal

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	"github.com/tink-crypto/tink-go/v2/tink"
	"github.com/tokenbus/tokenbus/account"
)

// Errors of [Sealer.Open] and [Sealer.Check].
var (
	// ErrDamaged: the bytes are no sealed value, were altered, or belong
	// elsewhere (other associated data).
	ErrDamaged = errors.New("sealed value is damaged or belongs elsewhere")
	// ErrUnknownKey: the bytes were sealed with a key that the keyset lacks.
	ErrUnknownKey = errors.New("sealed with a key that this keyset lacks")
	// ErrOtherKeyset: the check value was made with another fleet's keyset.
	ErrOtherKeyset = errors.New("the keyset is not the one that this store was written with")
)

// Sealer seals and opens with one keyset. It is immutable and safe for
// concurrent use. Printing a Sealer shows ids of keys, never a key.
type Sealer struct {
	handle      *keyset.Handle // of the AEAD keys
	fingerprint *keyset.Handle // of the PRF key
	aead        tink.AEAD
	prf         *prf.Set
	primary     uint32
	known       map[uint32]bool // ids of the keys that can open
}

// New returns a Sealer with a fresh keyset that exists in memory only.
func New() (*Sealer, error) {
	keys, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("generate sealing key: %w", err)
	}
	fingerprint, err := keyset.NewHandle(prf.HMACSHA256PRFKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("generate fingerprint key: %w", err)
	}
	return fromHandles(keys, fingerprint)
}

// Seal encrypts plaintext; only [Sealer.Open] with the same associated data
// reads it.
func (s *Sealer) Seal(plaintext, associated []byte) ([]byte, error) {
	out, err := s.aead.Encrypt(plaintext, associated)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return out, nil
}

// Open decrypts what [Sealer.Seal] made with the same associated data, here or
// on another worker of the fleet. The error is or wraps [ErrUnknownKey] or
// [ErrDamaged].
func (s *Sealer) Open(sealed, associated []byte) ([]byte, error) {
	id, ok := KeyID(sealed)
	if !ok {
		return nil, fmt.Errorf("open: %w", ErrDamaged)
	}
	if !s.known[id] {
		return nil, fmt.Errorf("open: %w: key %d", ErrUnknownKey, id)
	}
	out, err := s.aead.Decrypt(sealed, associated)
	if err != nil {
		return nil, fmt.Errorf("open: %w", ErrDamaged)
	}
	return out, nil
}

// fingerprintSize is the size of a fingerprint before encoding: 128 bits keep
// accidental collisions out of any fleet.
const fingerprintSize = 16

// Fingerprint returns HMAC-SHA256 of the secret under the fleet's fingerprint
// key, cut to 128 bits, in unpadded base64url; "" for the empty secret. It is
// the same on every worker and through every rotation of the sealing keys.
func (s *Sealer) Fingerprint(secret account.Secret) string {
	if secret.IsZero() {
		return ""
	}
	return s.hash(secret.Reveal())
}

func (s *Sealer) hash(text string) string {
	sum, err := s.prf.ComputePrimaryPRF([]byte(text), fingerprintSize)
	if err != nil {
		panic("seal: fingerprint: " + err.Error()) // only a length above the hash's can do this
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

// Tink puts 0x01 and the key's id, big-endian, before a ciphertext.
const (
	tinkPrefix     = 0x01
	tinkPrefixSize = 5
)

// KeyID returns the id of the key that sealed was made with; false if it is no
// sealed value.
func KeyID(sealed []byte) (id uint32, ok bool) {
	if len(sealed) < tinkPrefixSize || sealed[0] != tinkPrefix {
		return 0, false
	}
	return binary.BigEndian.Uint32(sealed[1:tinkPrefixSize]), true
}

// Primary returns the id of the key that seals.
func (s *Sealer) Primary() uint32 { return s.primary }

// Keys returns how many keys the keyset can open with.
func (s *Sealer) Keys() int { return len(s.known) }

// KeyIDs returns the ids of the keys that can open, the oldest first. A key
// after the primary is staged.
func (s *Sealer) KeyIDs() []uint32 {
	var ids []uint32
	for _, k := range s.handle.KeysetInfo().GetKeyInfo() {
		if s.known[k.GetKeyId()] {
			ids = append(ids, k.GetKeyId())
		}
	}
	return ids
}

// Current reports whether sealed was made with the primary key. A value that
// isn't is due for resealing, or is no sealed value.
func (s *Sealer) Current(sealed []byte) bool {
	id, ok := KeyID(sealed)
	return ok && id == s.primary
}

// The check value tells whether two workers share a keyset. Its text binds the
// fingerprint key too: a keyset whose fingerprints differ is another one even
// if it can open everything.
const (
	checkText       = "tokenbus keyset check v1 "
	checkAssociated = "tokenbus.keyset.check"
)

// CheckValue returns a value for the store that lets the next worker find out
// by [Sealer.Check] whether its keyset is this fleet's. It reveals nothing.
func (s *Sealer) CheckValue() ([]byte, error) {
	return s.Seal([]byte(checkText+s.hash(checkText)), []byte(checkAssociated))
}

// Check returns nil if existing is the [Sealer.CheckValue] of this keyset or
// of an earlier or later state of it that shares a key. Otherwise the error is
// or wraps [ErrOtherKeyset].
func (s *Sealer) Check(existing []byte) error {
	text, err := s.Open(existing, []byte(checkAssociated))
	if err != nil {
		return fmt.Errorf("%w (%w)", ErrOtherKeyset, err)
	}
	if string(text) != checkText+s.hash(checkText) {
		return fmt.Errorf("%w (the fingerprint keys differ)", ErrOtherKeyset)
	}
	return nil
}

func (s *Sealer) String() string {
	return fmt.Sprintf("[keyset of %d keys, primary %d]", len(s.known), s.primary)
}

// Format implements [fmt.Formatter]: every verb prints the ids alone.
func (s *Sealer) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue implements [slog.LogValuer].
func (s *Sealer) LogValue() slog.Value { return slog.StringValue(s.String()) }
