package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/mac"
	"github.com/tink-crypto/tink-go/v2/prf"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/seal"
)

func create(t testing.TB) (path string, s *seal.Sealer) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "keys", "keyset.json")
	s, err := seal.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, s
}

func load(t testing.TB, path string) *seal.Sealer {
	t.Helper()
	s, err := seal.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCreateAndLoad(t *testing.T) {
	path, a := create(t)
	b := load(t, path)
	if got, err := b.Open(mustSeal(t, a, "text", "ad"), []byte("ad")); err != nil || string(got) != "text" {
		t.Errorf("the loaded keyset opens %q, %v", got, err)
	}
	secret := account.NewSecret("token")
	if a.Fingerprint(secret) != b.Fingerprint(secret) {
		t.Error("the loaded keyset has other fingerprints")
	}
	value, err := a.CheckValue()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Check(value); err != nil {
		t.Errorf("the loaded keyset is not the same: %v", err)
	}
	if runtime.GOOS != "windows" {
		wantMode(t, path, 0o600)
		wantMode(t, filepath.Dir(path), 0o700)
	}
	onlyFile(t, path)
}

func wantMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != want {
		t.Errorf("mode of %s is %04o, want %04o", filepath.Base(path), info.Mode().Perm(), want)
	}
}

// onlyFile fails if anything but path is in its folder: no temporary file with
// keys may stay.
func onlyFile(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(path) {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}

func TestCreateLeavesExistingFile(t *testing.T) {
	path, _ := create(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a keyset: %v, want fs.ErrExist", err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the keyset was replaced (%v)", err)
	}
	onlyFile(t, path)
}

func TestLoadOrCreateAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset.json")
	sealers := make([]*seal.Sealer, 8)
	createdBy := make([]bool, len(sealers))
	var wg sync.WaitGroup
	for i := range sealers {
		wg.Go(func() {
			var err error
			if sealers[i], createdBy[i], err = seal.LoadOrCreate(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	n := 0
	for i, s := range sealers {
		if createdBy[i] {
			n++
		}
		if s.Primary() != sealers[0].Primary() {
			t.Error("two processes have two keysets")
		}
	}
	if n != 1 {
		t.Errorf("%d processes say that they created the file, want 1", n)
	}
}

func TestLoadMissing(t *testing.T) {
	if _, err := seal.Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load of a missing file: %v", err)
	}
	if _, err := seal.Rotate(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Rotate of a missing file: %v", err)
	}
}

func TestLoadRefusesExposedFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no Unix modes")
	}
	path, _ := create(t)
	for _, mode := range []fs.FileMode{0o644, 0o604, 0o660, 0o602, 0o666, 0o601, 0o777} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := seal.Load(path)
		if err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %04o: %v, want a refusal with the remedy", mode, err)
		}
	}
	for _, mode := range []fs.FileMode{0o600, 0o400} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := seal.Load(path); err != nil {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	// Readable by the group: only where root owns the file.
	if err := os.Chmod(path, 0o440); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Load(path); (err == nil) != (os.Geteuid() == 0) {
		t.Errorf("mode 0440, uid %d: %v", os.Geteuid(), err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 1, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := seal.Load(path); err == nil {
			t.Error("mode 0440, owned by uid 1: accepted")
		}
	}
}

func tinkJSON(t testing.TB, h *keyset.Handle) string {
	t.Helper()
	var buf bytes.Buffer
	if err := insecurecleartextkeyset.Write(h, keyset.NewJSONWriter(&buf)); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func handle(t testing.TB, template *tinkpb.KeyTemplate) string {
	t.Helper()
	h, err := keyset.NewHandle(template)
	if err != nil {
		t.Fatal(err)
	}
	return tinkJSON(t, h)
}

func TestParseRefuses(t *testing.T) {
	aeadKey := handle(t, aead.AES256GCMKeyTemplate())
	prfKey := handle(t, prf.HMACSHA256PRFKeyTemplate())
	doc := func(format, a, f string) string {
		return `{"tokenbus_keyset":` + format + `,"aead":` + a + `,"fingerprint":` + f + `}`
	}
	if _, err := seal.Parse([]byte(doc("1", aeadKey, prfKey))); err != nil {
		t.Fatalf("a good keyset: %v", err)
	}
	for name, tc := range map[string]struct{ data, want string }{
		"empty":               {"", "empty"},
		"blank":               {" \n", "empty"},
		"cut short":           {doc("1", aeadKey, prfKey)[:200], "cut short"},
		"no JSON":             {"AGE-SECRET-KEY-1", "no JSON"},
		"array":               {"[]", "no JSON of the expected form"},
		"null":                {"null", "tokenbus_keyset is 0"},
		"bare Tink keyset":    {aeadKey, "tokenbus_keyset is 0"},
		"later format":        {doc("2", aeadKey, prfKey), "tokenbus_keyset is 2"},
		"no aead":             {`{"tokenbus_keyset":1,"fingerprint":` + prfKey + `}`, "aead: it is missing"},
		"null aead":           {doc("1", "null", prfKey), "aead: it is missing"},
		"no fingerprint":      {`{"tokenbus_keyset":1,"aead":` + aeadKey + `}`, "fingerprint: it is missing"},
		"aead is text":        {doc("1", `"SECRETTEXT"`, prfKey), "aead: want a Tink keyset"},
		"aead without keys":   {doc("1", `{}`, prfKey), "aead: want a Tink keyset"},
		"key is no base64":    {doc("1", strings.Replace(aeadKey, `"value":"`, `"value":"SECRETTEXT!`, 1), prfKey), "aead: want a Tink keyset"},
		"aead holds PRF keys": {doc("1", prfKey, prfKey), "aead: key"},
		"aead holds MAC keys": {doc("1", handle(t, mac.HMACSHA256Tag256KeyTemplate()), prfKey), "aead: not a keyset of AEAD keys"},
		"aead without prefix": {doc("1", handle(t, aead.AES256GCMNoPrefixKeyTemplate()), prfKey), "has no Tink prefix"},
		"fingerprint is AEAD": {doc("1", aeadKey, aeadKey), "fingerprint: not a keyset of PRF keys"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := seal.Parse([]byte(tc.data))
			if !errors.Is(err, seal.ErrKeyset) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("Parse: %v; want ErrKeyset with %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "SECRET") {
				t.Errorf("the error quotes the file: %v", err)
			}
		})
	}
}

func TestLoadRefusesOtherThings(t *testing.T) {
	dir := t.TempDir()
	if _, err := seal.Load(dir); !errors.Is(err, seal.ErrKeyset) {
		t.Errorf("a folder: %v", err)
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, bytes.Repeat([]byte(" "), 1<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Load(big); !errors.Is(err, seal.ErrKeyset) || !strings.Contains(err.Error(), "larger") {
		t.Errorf("a huge file: %v", err)
	}
}

func TestRotate(t *testing.T) {
	path, before := create(t)
	id, err := seal.Rotate(path)
	if err != nil {
		t.Fatal(err)
	}
	after := load(t, path)
	if after.Primary() != id || id == before.Primary() || after.Keys() != 2 {
		t.Errorf("after the rotation: %v; Rotate returned %d", after, id)
	}
	old := mustSeal(t, before, "old", "ad")
	if got, err := after.Open(old, []byte("ad")); err != nil || string(got) != "old" {
		t.Errorf("an old value opens as %q, %v", got, err)
	}
	if after.Current(old) || !before.Current(old) {
		t.Error("Current doesn't tell an old value from a new one")
	}
	fresh := mustSeal(t, after, "new", "ad")
	if !after.Current(fresh) || after.Current(nil) || after.Current([]byte("rubbish")) {
		t.Error("Current is wrong about new values or rubbish")
	}
	if got, ok := seal.KeyID(fresh); !ok || got != id {
		t.Errorf("KeyID = %d, %v; want %d", got, ok, id)
	}
	if _, err := before.Open(fresh, []byte("ad")); !errors.Is(err, seal.ErrUnknownKey) {
		t.Errorf("a worker with the old file opens a new value: %v", err)
	}
	secret := account.NewSecret("token")
	if before.Fingerprint(secret) != after.Fingerprint(secret) {
		t.Error("the rotation changed the fingerprints")
	}
	value, err := before.CheckValue()
	if err != nil {
		t.Fatal(err)
	}
	if err := after.Check(value); err != nil {
		t.Errorf("the rotated keyset counts as another: %v", err)
	}
	if runtime.GOOS != "windows" {
		wantMode(t, path, 0o600)
	}
	onlyFile(t, path)
}

func TestStageAndPromote(t *testing.T) {
	path, v1 := create(t)
	if _, err := seal.Promote(path); err == nil {
		t.Error("Promote without Stage succeeds")
	}
	staged, err := seal.Stage(path)
	if err != nil {
		t.Fatal(err)
	}
	v2 := load(t, path)
	if v2.Primary() != v1.Primary() || v2.Keys() != 2 {
		t.Errorf("after Stage: %v", v2)
	}
	if ids := v2.KeyIDs(); !slices.Equal(ids, []uint32{v1.Primary(), staged}) {
		t.Errorf("after Stage: key ids are %d, want %d and %d", ids, v1.Primary(), staged)
	}
	if _, err := v1.Open(mustSeal(t, v2, "x", ""), nil); err != nil {
		t.Errorf("a worker with the old file can't read one with the staged file: %v", err)
	}
	promoted, err := seal.Promote(path)
	if err != nil || promoted != staged {
		t.Fatalf("Promote = %d, %v; want %d", promoted, err, staged)
	}
	v3 := load(t, path)
	if _, err := v2.Open(mustSeal(t, v3, "x", ""), nil); err != nil {
		t.Errorf("a worker with the staged file can't read one with the promoted file: %v", err)
	}
	if _, err := seal.Promote(path); err == nil {
		t.Error("a second Promote succeeds")
	}
	onlyFile(t, path)
}

func TestRotateRefusesSecondEdit(t *testing.T) {
	path, s := create(t)
	if err := os.WriteFile(path+".new", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Rotate(path); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("Rotate beside another: %v", err)
	}
	if load(t, path).Primary() != s.Primary() {
		t.Error("it rotated all the same")
	}
	if err := os.Remove(path + ".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Rotate(path); !errors.Is(err, seal.ErrKeyset) {
		t.Errorf("Rotate of a damaged file: %v", err)
	}
	onlyFile(t, path)
}

func TestRotateThroughLink(t *testing.T) {
	path, _ := create(t)
	link := filepath.Join(t.TempDir(), "link.json")
	if err := os.Symlink(path, link); err != nil {
		t.Skip("no symbolic links here")
	}
	id, err := seal.Rotate(link)
	if err != nil {
		t.Fatal(err)
	}
	if got := load(t, path).Primary(); got != id {
		t.Errorf("the link's target has primary %d, want %d", got, id)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link was replaced (%v)", err)
	}
}

// TestOtherFingerprintKey: a keyset with the fleet's sealing keys and another
// fingerprint key is another keyset.
func TestOtherFingerprintKey(t *testing.T) {
	path, s := create(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	doc["fingerprint"] = json.RawMessage(handle(t, prf.HMACSHA256PRFKeyTemplate()))
	data, err = json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	other, err := seal.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	value, err := s.CheckValue()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Check(value); !errors.Is(err, seal.ErrOtherKeyset) {
		t.Errorf("Check = %v", err)
	}
}

// FuzzParse: a keyset file is a keyset that works, or ErrKeyset.
func FuzzParse(f *testing.F) {
	path, _ := create(f)
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte(`{"tokenbus_keyset":1,"aead":{"primaryKeyId":1,"key":[{}]},"fingerprint":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := seal.Parse(data)
		if err != nil {
			if !errors.Is(err, seal.ErrKeyset) {
				t.Fatalf("Parse: unexpected error %v", err)
			}
			return
		}
		sealed, err := s.Seal([]byte("x"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open(sealed, nil); err != nil {
			t.Fatal(err)
		}
		s.Fingerprint(account.NewSecret("x"))
	})
}
