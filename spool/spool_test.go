package spool_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/refresh/journaltest"
	"github.com/tokenbus/tokenbus/rotation"
	"github.com/tokenbus/tokenbus/spool"
)

func TestJournal(t *testing.T) {
	journaltest.Run(t, func(t *testing.T) refresh.Journal { return open(t, filepath.Join(t.TempDir(), "spool")) })
}

// stashing is the spool with Stash for Put.
type stashing struct{ *spool.Spool }

func (s stashing) Put(ctx context.Context, r rotation.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return stash(s.Spool, r)
}

// stash reserves a place for the record and puts it there.
func stash(s *spool.Spool, r rotation.Record) error {
	place, err := s.Reserve(r.Key, r.RotationID)
	if err != nil {
		return err
	}
	defer place.Release()
	return place.Stash(r)
}

func TestStash(t *testing.T) {
	journaltest.Run(t, func(t *testing.T) refresh.Journal {
		return stashing{open(t, filepath.Join(t.TempDir(), "spool"))}
	})
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s := open(t, dir)
	r := journaltest.Record(mustKey("openai.a"), "r1")
	must(t, stash(s, r))
	mode(t, dir, 0o700)
	mode(t, filepath.Join(dir, "openai.a.r1.json"), 0o600)
	must(t, s.Put(t.Context(), r))
	mode(t, filepath.Join(dir, "openai.a.r1.json"), 0o600)
	if got := ls(t, dir); len(got) != 1 {
		t.Errorf("the folder holds %v, want one file", got)
	}
}

// TestP2NextProcessFindsRecords: what one process stashed or put is there for
// the next.
func TestP2NextProcessFindsRecords(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s := open(t, dir)
	must(t, stash(s, journaltest.Record(mustKey("openai.a"), "r1")))
	must(t, s.Put(t.Context(), journaltest.Record(mustKey("openai.b"), "r2")))
	wantRecords(t, open(t, dir), account.Key{}, "openai.a/r1", "openai.b/r2")
}

// TestUnreadable: a file that is no whole record is reported with its path and
// left alone; the others are read.
func TestUnreadable(t *testing.T) {
	good := encoded(t, journaltest.Record(mustKey("openai.a"), "r1"))
	for _, c := range []struct {
		name, file string
		content    []byte
		key        account.Key // of the TornError
	}{
		{"empty", "openai.a.r2.json", nil, mustKey("openai.a")},
		{"zeros", "openai.a.r2.json", make([]byte, 100), mustKey("openai.a")},
		{"cut", "openai.a.r1.json", good[:len(good)/2], mustKey("openai.a")},
		{"another's record", "openai.b.r1.json", good, mustKey("openai.b")},
		{"another rotation", "openai.a.r2.json", good, mustKey("openai.a")},
		{"no record", "openai.a.r2.json", []byte(`{"key":"openai.a","rotation_id":"r2"}`), mustKey("openai.a")},
		{"temporary and cut", "openai.a.r1.json.ABCDEFGH.tmp", good[:10], mustKey("openai.a")},
		{"foreign", "README.txt", []byte("hello"), account.Key{}},
		{"foreign, of the kind", "a.b.c.d.json", good, account.Key{}},
		{"foreign and temporary", "x.tmp", nil, account.Key{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "spool")
			must(t, os.Mkdir(dir, 0o700))
			path := filepath.Join(dir, c.file)
			must(t, os.WriteFile(path, c.content, 0o600))
			s := open(t, dir)
			must(t, stash(s, journaltest.Record(mustKey("gemini.ok"), "r9")))
			records, err := s.Records(t.Context(), account.Key{})
			if len(records) != 1 || records[0].Key != mustKey("gemini.ok") {
				t.Errorf("got %d records, want the good one", len(records))
			}
			torn, ok := errors.AsType[*refresh.TornError](err)
			if !ok || torn.Where != path || torn.Key != c.key {
				t.Errorf("got error %v, want a TornError of %q at %s", err, c.key, path)
			}
			if _, err := s.Records(t.Context(), mustKey("gemini.ok")); err != nil {
				t.Errorf("another account: got error %v", err)
			}
			if _, err := s.Records(t.Context(), mustKey("openai.a")); (err != nil) != (c.key == mustKey("openai.a")) {
				t.Errorf("the account openai.a: got error %v", err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, c.content) {
				t.Errorf("the file has changed: %v", err)
			}
		})
	}
}

// TestLeftTemporaryFile: a process that was killed between write and rename
// has left a record all the same.
func TestLeftTemporaryFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	must(t, os.Mkdir(dir, 0o700))
	r := journaltest.Record(mustKey("openai.a"), "r1")
	inItsPlace := append(encoded(t, r), bytes.Repeat([]byte{'\n'}, 100)...)
	must(t, os.WriteFile(filepath.Join(dir, "openai.a.r1.json.ABCDEFGH.tmp"), inItsPlace, 0o600))
	s := open(t, dir)
	wantRecords(t, s, account.Key{}, "openai.a/r1")
	wantRecords(t, s, r.Key, "openai.a/r1")
	wantRecords(t, s, mustKey("openai.b"))
	must(t, s.Put(t.Context(), r))
	wantRecords(t, s, account.Key{}, "openai.a/r1")
	must(t, s.Delete(t.Context(), r.Key, "r1"))
	wantRecords(t, s, account.Key{})
	wantRecords(t, open(t, dir), account.Key{})
}

func TestFolderTrouble(t *testing.T) {
	parent := t.TempDir()
	file := filepath.Join(parent, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for name, dir := range map[string]string{"no name": "", "no parent": filepath.Join(parent, "no", "such"), "a file": file} {
		if _, err := spool.Open(spool.Config{Dir: dir}); err == nil || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "open spool: ") {
			t.Errorf("%s: got error %v, want one line", name, err)
		}
	}

	dir := filepath.Join(parent, "deleted")
	s := open(t, dir)
	r := journaltest.Record(mustKey("openai.a"), "r1")
	place, err := s.Reserve(r.Key, r.RotationID)
	must(t, err)
	must(t, os.RemoveAll(dir))
	for name, call := range map[string]func() error{
		"Put":     func() error { return s.Put(t.Context(), r) },
		"Stash":   func() error { return place.Stash(r) },
		"Records": func() error { _, err := s.Records(t.Context(), account.Key{}); return err },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s in a folder that is gone: got error %v, want one that names it", name, err)
		}
	}
	must(t, s.Delete(t.Context(), r.Key, "r1"))
}

// A folder that can't be written, for root too: something else has its name.
func TestFolderThatCantBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s := open(t, dir)
	must(t, os.RemoveAll(dir))
	must(t, os.WriteFile(dir, nil, 0o600))
	if err := s.Put(t.Context(), journaltest.Record(mustKey("openai.a"), "r1")); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("Put: got %v, want an error that names %s", err, dir)
	}
	if _, err := spool.Open(spool.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("Open: got %v, want an error that names %s", err, dir)
	}
}

func TestLongNames(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "spool"))
	key := mustKey(strings.Repeat("p", 64) + "." + strings.Repeat("I", 128))
	must(t, s.Put(t.Context(), journaltest.Record(key, strings.Repeat("r", 26))))
	wantRecords(t, s, key, key.String()+"/"+strings.Repeat("r", 26))
	if err := s.Put(t.Context(), journaltest.Record(key, strings.Repeat("r", 60))); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a rotation id too long: got error %v", err)
	}
}

func TestOpenToOthersIsWarnedOf(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.Chmod(dir, 0o755))
	var logs bytes.Buffer
	_, err := spool.Open(spool.Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	must(t, err)
	if !strings.Contains(logs.String(), "open to others") {
		t.Errorf("got the log %q", logs.String())
	}
}

// FuzzRecords reads files of any name and content: it reports or returns them,
// and leaves them alone.
func FuzzRecords(f *testing.F) {
	f.Add("openai.a.r1.json", []byte(`{"key":"openai.a","rotation_id":"r1","answer":"AA=="}`))
	f.Add("openai.a.r1.json.ABCDEFGH.tmp", []byte(`{"key":"openai.a","rotation_id":"r1","answer":"AA=="}`))
	f.Add("a.b.json", []byte(`{"key":null}`))
	f.Add(".tmp", []byte(``))
	f.Fuzz(func(t *testing.T, name string, content []byte) {
		if name == "" || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." || len(name) > 200 {
			return // no name of a file
		}
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
		s := open(t, dir)
		if len(ls(t, dir)) == 0 { // the place of an answer that never came, or of none
			temporary := strings.HasSuffix(name, ".tmp") || strings.HasPrefix(name, ".probe")
			if !temporary || len(bytes.TrimLeft(content[:min(len(content), 1)], "\x00\n")) > 0 {
				t.Fatalf("the file %q with %q was removed", name, content)
			}
			return
		}
		records, err := s.Records(t.Context(), account.Key{})
		if (len(records) == 1) == (err != nil) {
			t.Fatalf("got %d records and error %v, want one of both", len(records), err)
		}
		if len(records) == 1 {
			r := records[0]
			if !strings.HasPrefix(name, r.Key.String()+"."+r.RotationID+".json") {
				t.Fatalf("file %q was taken for the record %s/%s", name, r.Key, r.RotationID)
			}
			must(t, s.Put(t.Context(), r))
			must(t, s.Delete(t.Context(), r.Key, r.RotationID))
			if left := ls(t, dir); len(left) != 0 {
				t.Fatalf("Delete left %v", left)
			}
		} else if got := ls(t, dir); len(got) != 1 {
			t.Fatalf("the folder holds %v", got)
		}
	})
}

func open(t *testing.T, dir string) *spool.Spool {
	t.Helper()
	s, err := spool.Open(spool.Config{Dir: dir})
	must(t, err)
	return s
}

func wantRecords(t *testing.T, s *spool.Spool, key account.Key, want ...string) {
	t.Helper()
	records, err := s.Records(t.Context(), key)
	must(t, err)
	got := []string{}
	for _, r := range records {
		got = append(got, r.Key.String()+"/"+r.RotationID)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Records of %q: got %v, want %v", key, got, want)
	}
}

func encoded(t *testing.T, r rotation.Record) []byte {
	t.Helper()
	data, err := json.Marshal(r)
	must(t, err)
	return data
}

func ls(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func mode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != want {
		t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustKey(text string) account.Key {
	k, err := account.ParseKey(text)
	if err != nil {
		panic(err)
	}
	return k
}

// TestP2Place: the file that was written before the exchange is the one that
// holds the answer, so that a disk that others fill meanwhile has room for it.
func TestP2Place(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s, r := open(t, dir), journaltest.Record(mustKey("openai.a"), "r1")
	place, err := s.Reserve(r.Key, r.RotationID)
	must(t, err)
	reserved := only(t, dir)
	if reserved.Size() < 16<<10 {
		t.Errorf("a place has %d bytes, want those of an answer", reserved.Size())
	}
	wantRecords(t, s, account.Key{}) // nor is it taken for a record that can't be read
	must(t, s.Check())
	must(t, place.Stash(r))
	place.Release()
	wantRecords(t, s, account.Key{}, "openai.a/r1")
	kept := only(t, dir)
	if !os.SameFile(reserved, kept) || kept.Name() != "openai.a.r1.json" {
		t.Errorf("the answer is in another file than was reserved, %s", kept.Name())
	}
	if err := place.Stash(r); err == nil {
		t.Error("a place was used twice")
	}
	must(t, s.Put(t.Context(), r)) // nor does that need room
	if !os.SameFile(reserved, only(t, dir)) {
		t.Error("what was stashed is written once more")
	}

	// A place is for one record, and one that is not used leaves nothing.
	place, err = s.Reserve(mustKey("openai.b"), "r2")
	must(t, err)
	if err := place.Stash(r); err == nil || !strings.Contains(err.Error(), "openai.a.r1") {
		t.Errorf("another's record: got %v, want an error that names it", err)
	}
	place.Release()
	place.Release()
	if err := place.Stash(journaltest.Record(mustKey("openai.b"), "r2")); err == nil {
		t.Error("a place was used that was given up")
	}
	only(t, dir)
	if _, err := s.Reserve(account.Key{}, "r1"); err == nil {
		t.Error("a place for no account was reserved")
	}

	// An answer longer than its place has room is kept as well.
	r.RotationID, r.Answer = "r3", bytes.Repeat([]byte("a"), 100<<10)
	must(t, stash(s, r))
	wantRecords(t, open(t, dir), account.Key{}, "openai.a/r1", "openai.a/r3")
}

// TestP2FailedSyncIsBelievedNoMore: the kernel reports a failed sync once, and calls
// what it has in memory synced from then on. What is put after one is written anew.
func TestP2FailedSyncIsBelievedNoMore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s := open(t, dir)
	inode := func(name string) os.FileInfo {
		info, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		return info
	}
	for i, id := range []string{"r1", "r2"} {
		r := journaltest.Record(mustKey("openai.a"), id)
		must(t, stash(s, r))
		name := "openai.a." + id + ".json"
		stashed := inode(name)
		if i == 0 {
			s.FailSync(syscall.EIO)
		}
		must(t, s.Put(t.Context(), r))
		if os.SameFile(stashed, inode(name)) {
			t.Errorf("%s: the file whose sync failed, or one like it, is called durable", id)
		}
	}
	wantRecords(t, s, account.Key{}, "openai.a/r1", "openai.a/r2")
}

// TestPlaceThatCantBeWritten: nothing is left of an answer of which a part may be
// there.
func TestPlaceThatCantBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s, r := open(t, dir), journaltest.Record(mustKey("openai.a"), "r1")
	place, err := s.Reserve(r.Key, r.RotationID)
	must(t, err)
	must(t, spool.Break(place))
	if err := place.Stash(r); !errors.Is(err, os.ErrClosed) || !strings.Contains(err.Error(), "openai.a.r1") {
		t.Errorf("got %v, want an error that names the record", err)
	}
	if left := ls(t, dir); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
	must(t, s.Put(t.Context(), r))
	wantRecords(t, s, account.Key{}, "openai.a/r1")
}

// TestPlacesOfAKilledProcess: places in which there is no answer end with the
// next start, whether the process had made room in them or not.
func TestPlacesOfAKilledProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s, r := open(t, dir), journaltest.Record(mustKey("openai.a"), "r1")
	must(t, stash(s, r))
	_, err := s.Reserve(mustKey("openai.b"), "r2")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "openai.c.r3.json.ABCDEFGH.tmp"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, ".probe.ABCDEFGH.tmp"), make([]byte, 100), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, ".probe-1234567"), nil, 0o600)) // as they once were
	wantRecords(t, open(t, dir), account.Key{}, "openai.a/r1")
	only(t, dir)
}

// TestStashWithoutRename: an answer that was written and can't have its name
// counts all the same, now and after the next start.
func TestStashWithoutRename(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s, r := open(t, dir), journaltest.Record(mustKey("openai.a"), "r1")
	place, err := s.Reserve(r.Key, r.RotationID)
	must(t, err)
	final := filepath.Join(dir, "openai.a.r1.json")
	must(t, os.Mkdir(final, 0o700)) // in the way
	if err := place.Stash(r); err == nil {
		t.Error("an answer has its name although something else has it")
	}
	place.Release()
	for name, s := range map[string]*spool.Spool{"now": s, "after a start": open(t, dir)} {
		if records, _ := s.Records(t.Context(), r.Key); len(records) != 1 {
			t.Errorf("%s: got %d records, want the answer", name, len(records))
		}
	}
	must(t, os.Remove(final))
	wantRecords(t, s, r.Key, "openai.a/r1")
	must(t, s.Delete(t.Context(), r.Key, "r1"))
	if left := ls(t, dir); len(left) != 0 {
		t.Errorf("Delete left %v", left)
	}

	// Where somebody has removed the folder with the place, it gets another.
	place, err = s.Reserve(r.Key, r.RotationID)
	must(t, err)
	must(t, os.RemoveAll(dir))
	must(t, s.Check())
	must(t, place.Stash(r))
	wantRecords(t, s, r.Key, "openai.a/r1")
}

// only returns the one file in the folder.
func only(t *testing.T, dir string) os.FileInfo {
	t.Helper()
	names := ls(t, dir)
	if len(names) != 1 {
		t.Fatalf("the folder holds %v, want one file", names)
	}
	info, err := os.Stat(filepath.Join(dir, names[0]))
	must(t, err)
	return info
}

// A folder that somebody deleted while the worker runs is made again; one that
// can't be written to is reported, and heals.
func TestCheck(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "spool")
	if err := os.Mkdir(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	for name, call := range map[string]func() error{
		"Check":   s.Check,
		"Reserve": func() error { return stash(s, journaltest.Record(mustKey("openai.a"), "r1")) },
	} {
		if err := os.RemoveAll(filepath.Dir(dir)); err != nil {
			t.Fatal(err)
		}
		if err := call(); err != nil {
			t.Errorf("%s in a folder that is gone: %v", name, err)
		}
		if err := s.Put(t.Context(), journaltest.Record(mustKey("openai.a"), "r1")); err != nil {
			t.Errorf("after %s has made the folder again: %v", name, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a file in the folder's place: %v, want an error that names it", err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(); err != nil {
		t.Errorf("it does not heal: %v", err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*")); len(names) != 0 {
		t.Errorf("checks leave %q", names)
	}
}
