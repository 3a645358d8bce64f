// Package spool is the journal on the local disk: the answer of a token
// endpoint is in a file before anything else is done with it.
//
// Each record is one file, <platform>.<id>.<rotation id>.json, mode 0600,
// written under a temporary name with one write and renamed. Before an exchange
// its answer's file is there already, under the temporary name and full of
// blank lines: a disk that others fill meanwhile keeps the answer all the same. Its
// answer is sealed. Nothing but Delete removes a record: a file that can't be
// read is reported with its path, for a person to look at.
//
// The folder belongs to one process at a time; the worker's lock on its data
// folder sees to that.
package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

// Config is what [Open] needs.
type Config struct {
	// Dir is the folder of the records. It is created, mode 0700, if it is
	// missing; its parent must exist. Required.
	Dir string
	// Logger hears of a folder that others may read. Default: discard.
	Logger *slog.Logger
}

// Spool keeps records in a folder. It is safe for concurrent use.
type Spool struct {
	dir string

	mu sync.Mutex // guards leftovers
	// leftovers are the temporary files that somebody has written and did not
	// get to rename, an earlier process for the most part, by the name that they
	// were to have. Any other is one that this process is at work on.
	leftovers map[string][]string

	// suspect: a sync has failed. The kernel says that once; what it has in
	// memory may not be on the disk, though a later sync succeeds.
	suspect atomic.Bool
	sync    func(path string) error // syncFile, but in tests
}

var _ refresh.Spool = (*Spool)(nil)

const tempEnd = ".tmp"

// Open opens the folder, and makes sure that files can be made in it.
func Open(c Config) (*Spool, error) {
	if c.Dir == "" {
		return nil, errors.New("open spool: no folder is named")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, fmt.Errorf("open spool: %w", err)
	case !info.IsDir():
		return nil, fmt.Errorf("open spool: %s is no folder", dir)
	case info.Mode().Perm()&0o077 != 0 && c.Logger != nil:
		c.Logger.Warn("spool folder is open to others", "dir", dir, "mode", info.Mode().Perm().String())
	}
	s := &Spool{dir: dir, leftovers: map[string][]string{}, sync: syncFile}
	if err := s.takeOver(c.Logger); err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	return s, nil
}

// takeOver notes the temporary files of an earlier process, and removes the
// places of answers that it has not read.
func (s *Spool) takeOver(log *slog.Logger) error {
	names, err := s.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(s.dir, name)
		final, temporary := finalName(name)
		_, _, isRecord := parseName(final)
		switch {
		case (isRecord || strings.HasPrefix(name, probe)) && hollow(path):
			if err := os.Remove(path); err != nil {
				return err
			}
			if isRecord && log != nil {
				log.Info("an exchange of an earlier process has left no answer here", "record", final)
			}
		case temporary:
			s.leave(final, name)
		}
	}
	return nil
}

// Check makes sure that a record could be kept now. A folder that is gone is
// made again: what was in it is lost, what comes is not.
func (s *Spool) Check() error {
	p, err := s.reserve(probe)
	if err != nil {
		return err
	}
	return p.release()
}

// Reserve implements [refresh.Spool].
func (s *Spool) Reserve(key account.Key, rotationID string) (refresh.Place, error) {
	name, err := recordName(key, rotationID)
	if err != nil {
		return nil, err
	}
	p, err := s.reserve(name)
	if err != nil {
		return nil, fmt.Errorf("reserve spool record %s: %w", name, err)
	}
	return p, nil
}

// Put implements [refresh.Journal]: file and folder are synced to the disk.
func (s *Spool) Put(ctx context.Context, r rotation.Record) error {
	name, data, err := encode(r)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("put spool record %s: %w", name, err)
	}
	path := filepath.Join(s.dir, name)
	there, err := os.ReadFile(path)
	stashed := err == nil && bytes.Equal(bytes.TrimRight(there, "\n"), bytes.TrimRight(data, "\n"))
	if stashed { // a full disk has no room for another
		if err = s.sync(path); err != nil {
			s.suspect.Store(true)
		}
	}
	if !stashed || s.suspect.Load() {
		err = s.replace(name, data)
	}
	if err != nil {
		return fmt.Errorf("put spool record %s: %w", name, err)
	}
	if err := syncDir(s.dir); err != nil {
		// The record is there, though perhaps not after a power cut.
		return fmt.Errorf("put spool record %s: sync folder: %w", name, err)
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// replace writes a temporary file and renames it, so that the name always
// stands for a whole record.
func (s *Spool) replace(name string, data []byte) (err error) {
	f, err := s.create(name)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // whoever called knows that nothing was kept
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(s.dir, name))
}

// create makes the file that is to have the name, under a temporary one.
func (s *Spool) create(name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(s.dir, tempName(name)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// Records implements [refresh.Journal]. A file that is no record of any
// account is reported only where key is zero: it holds up nobody.
func (s *Spool) Records(ctx context.Context, key account.Key) ([]rotation.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("read spool: %w", err)
	}
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	prefix := ""
	if !key.IsZero() {
		prefix = key.String() + "."
	}
	var records []rotation.Record
	var torn []error
	whole := map[string]bool{} // names whose record has been read
	read := func(name, final string) {
		r, err := s.read(name, final)
		switch {
		case errors.Is(err, fs.ErrNotExist): // deleted since
		case err != nil:
			torn = append(torn, err)
		default:
			records = append(records, r)
			whole[final] = true
		}
	}
	for _, name := range names {
		if strings.HasPrefix(name, prefix) && !strings.HasSuffix(name, tempEnd) {
			read(name, name)
		}
	}
	// What a killed process left under a temporary name counts if there is
	// nothing better.
	for final, temps := range s.leftover() {
		for _, name := range temps {
			if strings.HasPrefix(final, prefix) && !whole[final] {
				read(name, final)
			}
		}
	}
	return records, errors.Join(torn...)
}

// read reads the file name as the record that final stands for.
func (s *Spool) read(name, final string) (rotation.Record, error) {
	path := filepath.Join(s.dir, name)
	key, rotationID, ok := parseName(final)
	if !ok {
		return rotation.Record{}, &refresh.TornError{Where: path, Err: errors.New("the file's name is not that of a record")}
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return rotation.Record{}, err
	}
	var r rotation.Record
	if err == nil {
		r, err = decode(data)
	}
	if err == nil && (r.Key != key || r.RotationID != rotationID) {
		err = errors.New("the file holds another record than its name says")
	}
	if err != nil {
		return rotation.Record{}, &refresh.TornError{Key: key, Where: path, Err: err}
	}
	return r, nil
}

// Delete implements [refresh.Journal].
func (s *Spool) Delete(ctx context.Context, key account.Key, rotationID string) error {
	name, err := recordName(key, rotationID)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete spool record %s: %w", name, err)
	}
	// Leftovers first: alone, one would count as the record.
	for _, n := range append(s.leftover()[name], name) {
		if err := os.Remove(filepath.Join(s.dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete spool record %s: %w", name, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leftovers, name)
	return nil
}

// names returns the names of all files in the folder.
func (s *Spool) names() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("read spool: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// leave notes a leftover.
func (s *Spool) leave(final, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leftovers[final] = append(s.leftovers[final], name)
}

// leftover returns a copy of the leftovers.
func (s *Spool) leftover() map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.leftovers) == 0 {
		return nil
	}
	out := make(map[string][]string, len(s.leftovers))
	for final, temps := range s.leftovers {
		out[final] = append([]string(nil), temps...)
	}
	return out
}
