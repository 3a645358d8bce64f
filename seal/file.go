package seal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxFile is far above any keyset; it keeps a wrong path (a disk image) from
// being read whole.
const maxFile = 1 << 20

// Load reads the keyset file at path. A missing file is [fs.ErrNotExist], one
// that can't be read as a keyset is [ErrKeyset]. A file that others than its
// owner may read or write is refused; only a file that root owns may be
// readable by its group, as container platforms mount secrets.
func Load(path string) (*Sealer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load keyset: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("load keyset: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("load keyset %s: %w: not a regular file", path, ErrKeyset)
	}
	if exposed(info) {
		return nil, fmt.Errorf("load keyset %s: mode %04o lets others read or write it; run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("load keyset: %w", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("load keyset %s: %w: larger than %d bytes", path, ErrKeyset, maxFile)
	}
	s, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("load keyset %s: %w", path, err)
	}
	return s, nil
}

// Create generates a keyset and writes it to path with mode 0600, making the
// folder with mode 0700 if it is missing. The file appears complete and
// durable or not at all. A file that exists is left alone: the error is
// [fs.ErrExist].
func Create(path string) (*Sealer, error) {
	s, err := New()
	if err != nil {
		return nil, err
	}
	data, err := s.encode()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("create keyset: %w", err)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".keyset-*") // mode 0600, O_EXCL
	if err != nil {
		return nil, fmt.Errorf("create keyset: %w", err)
	}
	defer os.Remove(temp.Name())
	if err := writeSync(temp, data); err != nil {
		return nil, fmt.Errorf("create keyset: %w", err)
	}
	// A hard link fails if the name is taken, which a rename would replace.
	if err := os.Link(temp.Name(), path); err != nil {
		return nil, fmt.Errorf("create keyset: %w", err)
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("create keyset: %w", err)
	}
	return s, nil
}

// LoadOrCreate loads the keyset file at path and creates it if it is missing.
// Of several processes that do so at once, all get the same keyset.
func LoadOrCreate(path string) (s *Sealer, created bool, err error) {
	s, err = Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return s, false, err
	}
	s, err = Create(path)
	if errors.Is(err, fs.ErrExist) {
		s, err = Load(path)
		return s, false, err
	}
	return s, err == nil, err
}

// Rotate adds a key to the keyset file at path and makes it the primary. It
// returns the key's id. Older keys stay and go on opening. Workers use the new
// key from their next start on; see the package comment for a running fleet.
func Rotate(path string) (uint32, error) {
	return edit(path, "rotate", func(s *Sealer) (*Sealer, uint32, error) {
		next, _, err := s.staged()
		if err != nil {
			return nil, 0, err
		}
		return next.promoted()
	})
}

// Stage adds a key to the keyset file at path that opens and doesn't seal
// yet. It returns the key's id.
func Stage(path string) (uint32, error) {
	return edit(path, "stage key in", (*Sealer).staged)
}

// Promote makes the key that was added last the primary. It returns the key's
// id. It is an error if it is the primary already.
func Promote(path string) (uint32, error) {
	return edit(path, "promote key of", (*Sealer).promoted)
}

// edit replaces the file at path atomically. The new file's fixed name is the
// lock against a second edit.
func edit(path, verb string, change func(*Sealer) (*Sealer, uint32, error)) (uint32, error) {
	fail := func(err error) (uint32, error) { return 0, fmt.Errorf("%s keyset %s: %w", verb, path, err) }
	target, err := filepath.EvalSymlinks(path) // replace the file, not a link to it
	if err != nil {
		return fail(err)
	}
	name := target + ".new"
	temp, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fail(fmt.Errorf("%s exists: another change is under way, or one was interrupted; if none runs, remove it", name))
	}
	if err != nil {
		return fail(err)
	}
	id, err := rewrite(temp, target, change)
	if err != nil {
		_ = temp.Close() // no harm if it is closed already
		return fail(errors.Join(err, os.Remove(name)))
	}
	if err := os.Rename(name, target); err != nil {
		return fail(errors.Join(err, os.Remove(name)))
	}
	if err := syncFolder(filepath.Dir(target)); err != nil {
		return fail(err)
	}
	return id, nil
}

// rewrite writes the changed keyset of path into temp and closes it.
func rewrite(temp *os.File, path string, change func(*Sealer) (*Sealer, uint32, error)) (uint32, error) {
	old, err := Load(path)
	if err != nil {
		return 0, err
	}
	next, id, err := change(old)
	if err != nil {
		return 0, err
	}
	data, err := next.encode()
	if err != nil {
		return 0, err
	}
	return id, writeSync(temp, data)
}

func writeSync(f *os.File, data []byte) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
