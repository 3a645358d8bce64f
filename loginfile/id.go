package loginfile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

const (
	maxID     = 128
	separator = "__"
	keptOfID  = 90 // bytes of an id that is too long which stay before its hash
)

// makeID returns the account id that the parts make together, or "" if one of
// them is empty. Different parts make different ids.
func makeID(parts ...string) string {
	escaped := make([]string, len(parts))
	for i, p := range parts {
		if p == "" {
			return ""
		}
		escaped[i] = escape(p)
	}
	id := strings.Join(escaped, separator)
	if len(id) <= maxID {
		return id
	}
	// "_-" occurs in no other id.
	sum := sha256.Sum256([]byte(id))
	return id[:keptOfID] + "_-" + hex.EncodeToString(sum[:16])
}

// escape replaces every byte that isn't a letter, a digit or - by _ and two
// hex digits.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}
