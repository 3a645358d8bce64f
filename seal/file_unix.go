//go:build unix

package seal

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// exposed reports whether others may read or write the file. A file that root
// owns may be readable by its group: that is how container platforms hand a
// secret to a process that isn't root.
func exposed(info fs.FileInfo) bool {
	mode := info.Mode().Perm()
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid == 0 {
		return mode&0o037 != 0
	}
	return mode&0o077 != 0
}

// syncFolder makes a new name in the folder durable.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
