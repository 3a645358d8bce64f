package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestDataDirIsLocked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	first, err := openDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v; want 0700", info.Mode().Perm(), err)
	}
	_, err = openDataDir(dir)
	want := fmt.Sprintf("--data-dir (TOKENBUS_DATA_DIR): %q: is in use by another worker (process %d); stop it, or give this one its own folder", dir, os.Getpid())
	if _, ok := errors.AsType[*usageError](err); !ok || err.Error() != want {
		t.Errorf("second worker: got %v\nwant %s", err, want)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := openDataDir(dir)
	if err != nil {
		t.Fatalf("after the first ended: %v", err)
	}
	_ = again.Close()
}

func TestDataDirThatIsNone(t *testing.T) {
	file := write(t, "file", "x")
	_, err := openDataDir(file)
	if _, ok := errors.AsType[*usageError](err); !ok {
		t.Errorf("a file as data folder: got %v, want a usage error", err)
	}
}
