package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
)

// ErrKeyset reports text that is no keyset file of this package. What is wrong
// with it is said without quoting it.
var ErrKeyset = errors.New("not a valid keyset")

const formatVersion = 1

// document is the keyset file.
type document struct {
	Format      int             `json:"tokenbus_keyset"`
	AEAD        json.RawMessage `json:"aead"`
	Fingerprint json.RawMessage `json:"fingerprint"`
}

// Parse reads the contents of a keyset file. The error is or wraps
// [ErrKeyset]; it never quotes the contents.
func Parse(data []byte) (*Sealer, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrKeyset)
	}
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("%w: it is cut short or no JSON of the expected form", ErrKeyset)
	}
	if d.Format != formatVersion {
		return nil, fmt.Errorf("%w: tokenbus_keyset is %d, this program knows %d", ErrKeyset, d.Format, formatVersion)
	}
	keys, err := readHandle(d.AEAD)
	if err != nil {
		return nil, fmt.Errorf("%w: aead: %w", ErrKeyset, err)
	}
	fingerprint, err := readHandle(d.Fingerprint)
	if err != nil {
		return nil, fmt.Errorf("%w: fingerprint: %w", ErrKeyset, err)
	}
	return fromHandles(keys, fingerprint)
}

// readHandle drops Tink's own errors: those of its JSON reader may quote the
// input.
func readHandle(data json.RawMessage) (*keyset.Handle, error) {
	if len(data) == 0 || string(data) == "null" {
		return nil, errors.New("it is missing")
	}
	h, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(data)))
	if err != nil {
		return nil, errors.New("want a Tink keyset in JSON, in the clear")
	}
	return h, nil
}

func fromHandles(keys, fingerprint *keyset.Handle) (*Sealer, error) {
	s := &Sealer{handle: keys, fingerprint: fingerprint, known: map[uint32]bool{}}
	info := keys.KeysetInfo()
	s.primary = info.GetPrimaryKeyId()
	for _, k := range info.GetKeyInfo() {
		if k.GetStatus() != tinkpb.KeyStatusType_ENABLED {
			continue
		}
		if k.GetOutputPrefixType() != tinkpb.OutputPrefixType_TINK {
			return nil, fmt.Errorf("%w: aead: key %d has no Tink prefix", ErrKeyset, k.GetKeyId())
		}
		s.known[k.GetKeyId()] = true
	}
	var err error
	if s.aead, err = aead.New(keys); err != nil {
		return nil, fmt.Errorf("%w: aead: not a keyset of AEAD keys", ErrKeyset)
	}
	if s.prf, err = prf.NewPRFSet(fingerprint); err != nil {
		return nil, fmt.Errorf("%w: fingerprint: not a keyset of PRF keys", ErrKeyset)
	}
	// The primitives may still refuse; find out now rather than at the first use.
	if _, err := s.prf.ComputePrimaryPRF(nil, fingerprintSize); err != nil {
		return nil, fmt.Errorf("%w: fingerprint: the key can't make %d bytes", ErrKeyset, fingerprintSize)
	}
	return s, nil
}

// encode returns the contents of the keyset file, a secret in the clear.
func (s *Sealer) encode() ([]byte, error) {
	keys, err := writeHandle(s.handle)
	if err != nil {
		return nil, err
	}
	fingerprint, err := writeHandle(s.fingerprint)
	if err != nil {
		return nil, err
	}
	out, err := json.MarshalIndent(document{formatVersion, keys, fingerprint}, "", "  ")
	if err != nil {
		return nil, errors.New("encode keyset: not JSON")
	}
	return append(out, '\n'), nil
}

func writeHandle(h *keyset.Handle) (json.RawMessage, error) {
	var buf bytes.Buffer
	if err := insecurecleartextkeyset.Write(h, keyset.NewJSONWriter(&buf)); err != nil {
		return nil, fmt.Errorf("encode keyset: %w", err)
	}
	return buf.Bytes(), nil
}

// staged returns s with one more key that opens and doesn't seal.
func (s *Sealer) staged() (*Sealer, uint32, error) {
	m := keyset.NewManagerFromHandle(s.handle)
	id, err := m.Add(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, 0, fmt.Errorf("add key: %w", err)
	}
	h, err := m.Handle()
	if err != nil {
		return nil, 0, fmt.Errorf("add key: %w", err)
	}
	next, err := fromHandles(h, s.fingerprint)
	return next, id, err
}

// errNothingStaged tells an operator that Promote came before Stage.
var errNothingStaged = errors.New("the newest key is the primary already; stage a key first")

// promoted returns s with the key that was added last as the primary.
func (s *Sealer) promoted() (*Sealer, uint32, error) {
	info := s.handle.KeysetInfo().GetKeyInfo()
	id := info[len(info)-1].GetKeyId()
	if id == s.primary {
		return nil, 0, errNothingStaged
	}
	m := keyset.NewManagerFromHandle(s.handle)
	if err := m.SetPrimary(id); err != nil {
		return nil, 0, fmt.Errorf("promote key %d: %w", id, err)
	}
	h, err := m.Handle()
	if err != nil {
		return nil, 0, fmt.Errorf("promote key %d: %w", id, err)
	}
	next, err := fromHandles(h, s.fingerprint)
	return next, id, err
}
