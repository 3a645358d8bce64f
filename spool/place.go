package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tokenbus/tokenbus/rotation"
)

const (
	// placeSize is what an answer takes, sealed. A longer one needs room that
	// nobody keeps for it.
	placeSize = 16 << 10
	// probe is the name that no record has: of a place that nobody uses.
	probe = ".probe"
)

// blank is what a place holds.
var blank = bytes.Repeat([]byte{'\n'}, placeSize)

// place is the file of one record that may come, with the room that it takes on
// the disk: blank lines, which JSON may end with. So what is left of one is a
// record as soon as that is written. One goroutine uses it.
type place struct {
	spool *Spool
	name  string   // which the record will have
	file  *os.File // nil: used or given up
}

// reserve makes a place, in a folder that it makes where somebody has removed it.
func (s *Spool) reserve(name string) (*place, error) {
	f, err := s.create(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(s.dir, 0o700); err == nil {
			f, err = s.create(name)
		}
	}
	if err != nil {
		return nil, err
	}
	p := &place{s, name, f}
	if _, err := f.Write(blank); err != nil {
		return nil, errors.Join(err, p.release())
	}
	return p, nil
}

// Stash implements [refresh.Place].
func (p *place) Stash(r rotation.Record) error {
	name, data, err := encode(r)
	if err != nil {
		return err
	}
	if p.file == nil || name != p.name {
		return fmt.Errorf("stash spool record %s: no place is reserved for it", name)
	}
	f := p.file
	if _, err := f.WriteAt(data, 0); err != nil { // it was longer than its place, say
		return fmt.Errorf("stash spool record %s: %w", name, errors.Join(err, p.release()))
	}
	p.file = nil
	_ = f.Close() // what was written is the kernel's
	if err := os.Rename(f.Name(), filepath.Join(p.spool.dir, name)); err != nil {
		p.spool.leave(name, filepath.Base(f.Name())) // it counts under this name too
		if err := p.spool.replace(name, data); err != nil {
			return fmt.Errorf("stash spool record %s: %w", name, err)
		}
	}
	return nil
}

// Release implements [refresh.Place]. What it can't remove is removed at the
// next start.
func (p *place) Release() { _ = p.release() }

func (p *place) release() error {
	if p.file == nil {
		return nil
	}
	f := p.file
	p.file = nil
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// hollow reports whether the file is a place with nothing in it. A record begins
// with another byte.
func hollow(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	first := make([]byte, 1)
	switch _, err := io.ReadFull(f, first); err {
	case nil:
		return first[0] == '\n' || first[0] == 0 // of which a power cut left the size
	case io.EOF: // it was killed before it had made room
		return true
	}
	return false
}
