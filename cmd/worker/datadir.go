package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// openDataDir makes the data folder if need be and locks it for this process.
// Closing the result unlocks it. An error is a [*usageError].
func openDataDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, usagef("--data-dir (TOKENBUS_DATA_DIR): %q: cannot be made: %s", dir, plain(err))
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, usagef("--data-dir (TOKENBUS_DATA_DIR): %q: is not writable: %s", dir, plain(err))
	}
	ok, err := lockFile(f)
	if err == nil && ok {
		_ = f.Truncate(0)
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid()) // for people; the lock is what counts
		return f, nil
	}
	defer f.Close()
	if err != nil {
		return nil, usagef("--data-dir (TOKENBUS_DATA_DIR): %q: cannot be locked: %w", dir, err)
	}
	by := ""
	if pid, err := os.ReadFile(f.Name()); err == nil && len(pid) > 0 {
		by = " (process " + strings.TrimSpace(string(pid)) + ")"
	}
	return nil, usagef("--data-dir (TOKENBUS_DATA_DIR): %q: is in use by another worker%s; stop it, or give this one its own folder", dir, by)
}
