package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/seal"
	"pgregory.net/rapid"
)

func newSealer(t testing.TB) *seal.Sealer {
	t.Helper()
	s, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustSeal(t testing.TB, s *seal.Sealer, text, associated string) []byte {
	t.Helper()
	out, err := s.Seal([]byte(text), []byte(associated))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	s := newSealer(t)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SliceOf(rapid.Byte()).Draw(t, "text")
		associated := rapid.SliceOf(rapid.Byte()).Draw(t, "associated")
		sealed, err := s.Seal(text, associated)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > 8 && bytes.Contains(sealed, text) {
			t.Fatal("the sealed value holds the text")
		}
		got, err := s.Open(sealed, associated)
		if err != nil || !bytes.Equal(got, text) {
			t.Fatalf("Open = %q, %v; want %q", got, err, text)
		}
	})
}

func TestSealIsRandom(t *testing.T) {
	s := newSealer(t)
	if bytes.Equal(mustSeal(t, s, "same", "ad"), mustSeal(t, s, "same", "ad")) {
		t.Error("the same text sealed twice gives the same bytes")
	}
}

func TestOpenErrors(t *testing.T) {
	s := newSealer(t)
	good := mustSeal(t, s, "the-secret-text", "acme.a1")
	flip := func(i int) []byte {
		b := bytes.Clone(good)
		b[i] ^= 1
		return b
	}
	for name, tc := range map[string]struct {
		sealed     []byte
		associated string
		want       error
	}{
		"nil":                   {nil, "acme.a1", seal.ErrDamaged},
		"short":                 {good[:4], "acme.a1", seal.ErrDamaged},
		"prefix alone":          {good[:5], "acme.a1", seal.ErrDamaged},
		"cut":                   {good[:len(good)-1], "acme.a1", seal.ErrDamaged},
		"longer":                {append(bytes.Clone(good), 0), "acme.a1", seal.ErrDamaged},
		"not sealed at all":     {[]byte(`{"access_token":"the-secret-text"}`), "acme.a1", seal.ErrDamaged},
		"other version byte":    {flip(0), "acme.a1", seal.ErrDamaged},
		"other key id":          {flip(2), "acme.a1", seal.ErrUnknownKey},
		"nonce altered":         {flip(6), "acme.a1", seal.ErrDamaged},
		"text altered":          {flip(len(good) - 20), "acme.a1", seal.ErrDamaged},
		"tag altered":           {flip(len(good) - 1), "acme.a1", seal.ErrDamaged},
		"another account":       {good, "acme.a2", seal.ErrDamaged},
		"no associated data":    {good, "", seal.ErrDamaged},
		"sealed by other fleet": {mustSeal(t, newSealer(t), "x", "acme.a1"), "acme.a1", seal.ErrUnknownKey},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := s.Open(tc.sealed, []byte(tc.associated))
			if !errors.Is(err, tc.want) || got != nil {
				t.Fatalf("Open = %q, %v; want %v", got, err, tc.want)
			}
			if strings.Contains(err.Error(), "the-secret-text") {
				t.Errorf("the error quotes the text: %v", err)
			}
		})
	}
}

func TestFingerprint(t *testing.T) {
	s := newSealer(t)
	a := s.Fingerprint(account.NewSecret("token-a"))
	switch {
	case a != s.Fingerprint(account.NewSecret("token-a")):
		t.Error("the fingerprint of one secret differs from call to call")
	case a == s.Fingerprint(account.NewSecret("token-b")):
		t.Error("two secrets have one fingerprint")
	case a == newSealer(t).Fingerprint(account.NewSecret("token-a")):
		t.Error("the fingerprint isn't keyed")
	case len(a) != 22:
		t.Errorf("fingerprint %q has %d characters, want 22", a, len(a))
	case s.Fingerprint(account.Secret{}) != "":
		t.Error("the empty secret has a fingerprint")
	}
}

func TestCheck(t *testing.T) {
	s, other := newSealer(t), newSealer(t)
	value, err := s.CheckValue()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(value); err != nil {
		t.Errorf("its own check value: %v", err)
	}
	if err := other.Check(value); !errors.Is(err, seal.ErrOtherKeyset) || !errors.Is(err, seal.ErrUnknownKey) {
		t.Errorf("another fleet's check value: %v", err)
	}
	if err := s.Check([]byte("rubbish")); !errors.Is(err, seal.ErrOtherKeyset) || !errors.Is(err, seal.ErrDamaged) {
		t.Errorf("rubbish: %v", err)
	}
	// Anything else that the keyset sealed is no check value.
	if err := s.Check(mustSeal(t, s, "x", "tokenbus.keyset.check")); !errors.Is(err, seal.ErrOtherKeyset) {
		t.Errorf("another text: %v", err)
	}
}

func TestPrintsNoKey(t *testing.T) {
	s := newSealer(t)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "keyset", s)
	want := fmt.Sprintf("[keyset of 1 keys, primary %d]", s.Primary())
	for _, got := range []string{
		fmt.Sprint(s), fmt.Sprintf("%v", s), fmt.Sprintf("%+v", s), fmt.Sprintf("%#v", s), fmt.Sprintf("%s", s),
		fmt.Sprintf("%x", s), fmt.Sprintf("%+v", []any{s}),
	} {
		if strings.Trim(got, "[]") != strings.Trim(want, "[]") {
			t.Errorf("printed %q, want %q", got, want)
		}
	}
	if !strings.Contains(log.String(), want) || len(log.String()) > 200 {
		t.Errorf("logged %q", log.String())
	}
}

func TestConcurrentUse(t *testing.T) {
	s := newSealer(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				text := fmt.Sprint("text ", i)
				sealed, err := s.Seal([]byte(text), nil)
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := s.Open(sealed, nil); err != nil || string(got) != text {
					t.Errorf("Open = %q, %v", got, err)
				}
				s.Fingerprint(account.NewSecret(text))
			}
		})
	}
	wg.Wait()
}

// FuzzOpen: whatever comes from a store is opened, or is one of two errors.
func FuzzOpen(f *testing.F) {
	s := newSealer(f)
	good := mustSeal(f, s, "text", "ad")
	f.Add(good, []byte("ad"))
	f.Add(good[:5], []byte("ad"))
	f.Add([]byte{}, []byte{})
	f.Add([]byte{1, 2, 3, 4, 5, 6}, []byte(nil))
	f.Fuzz(func(t *testing.T, sealed, associated []byte) {
		got, err := s.Open(sealed, associated)
		if err != nil && !errors.Is(err, seal.ErrDamaged) && !errors.Is(err, seal.ErrUnknownKey) {
			t.Fatalf("Open: unexpected error %v", err)
		}
		if err == nil && (string(got) != "text" || !bytes.Equal(sealed, good) || string(associated) != "ad") {
			t.Fatal("forged")
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	s, text := newSealer(b), make([]byte, 4096)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := s.Seal(text, []byte("acme.a1")); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	s := newSealer(b)
	sealed := mustSeal(b, s, strings.Repeat("x", 4096), "acme.a1")
	b.SetBytes(4096)
	for b.Loop() {
		if _, err := s.Open(sealed, []byte("acme.a1")); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFingerprint(b *testing.B) {
	s, secret := newSealer(b), account.NewSecret(strings.Repeat("x", 2048))
	for b.Loop() {
		s.Fingerprint(secret)
	}
}

func ExampleSealer_Seal() {
	s, err := seal.New() // a worker uses Load
	if err != nil {
		fmt.Println(err)
		return
	}
	sealed, _ := s.Seal([]byte("a token"), []byte("acme.a1"))
	text, err := s.Open(sealed, []byte("acme.a1"))
	fmt.Printf("%s %v\n", text, err)
	_, err = s.Open(sealed, []byte("acme.a2"))
	fmt.Println(err)
	// Output:
	// a token <nil>
	// open: sealed value is damaged or belongs elsewhere
}
