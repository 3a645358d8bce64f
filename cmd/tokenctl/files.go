package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tokenbus/tokenbus/loginfile"
)

const (
	// maxLoginFile bounds a login file that is named. The largest are exports
	// of a whole fleet: 100,000 accounts of some kilobytes each.
	maxLoginFile = 1 << 30
	// maxFoundFile bounds one that lies in a folder, where other things do too.
	maxFoundFile = 16 << 20
	// maxClaudeFile bounds Claude Code's .claude.json, which holds much else.
	maxClaudeFile = 64 << 20
	// maxDepth is how far folders inside a folder are looked through.
	maxDepth = 3
	// maxFiles is where looking through a folder ends: it is the wrong one.
	maxFiles = 200_000
)

// source is a file to import.
type source struct {
	path  string // "-" is stdin
	named bool   // on the command line, and not found in a folder
}

// findSources returns the files that args name: files themselves, and the
// *.json files of folders.
func findSources(args []string) ([]source, error) {
	var found []source
	var problems []error
	for _, arg := range args {
		if arg == "-" {
			found = append(found, source{arg, true})
			continue
		}
		info, err := os.Stat(arg)
		switch {
		case err != nil:
			problems = append(problems, fmt.Errorf("%s: %w", arg, plain(err)))
		case !info.IsDir():
			found = append(found, source{arg, true})
		default:
			files, err := filesIn(arg)
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", arg, plain(err)))
			}
			found = append(found, files...)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, &usageError{err}
	}
	return found, nil
}

func filesIn(root string) ([]source, error) {
	var found []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path) // both have the same root
		if d.IsDir() {
			// Mounted secrets keep the real files in folders like "..data".
			if strings.HasPrefix(d.Name(), "..") && path != root || d.Name() == ".git" || strings.Count(rel, string(filepath.Separator)) >= maxDepth {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.EqualFold(filepath.Ext(path), ".json") {
			found = append(found, source{path, false})
		}
		if len(found) > maxFiles {
			return fmt.Errorf("more than %d files in it; name a folder with login files", maxFiles)
		}
		return nil
	})
	return found, err
}

// fileReader reads files for loginfile. It keeps the account file that several
// of them share.
type fileReader struct {
	app
	claudePath string // of what claudeData and claudeErr are about; "" for none yet
	claudeData []byte
	claudeErr  error
}

// read returns the file as loginfile takes it. claudeAccount is the file that
// says whose login a Claude Code file is; "" means to look for it.
func (r *fileReader) read(ctx context.Context, s source, claudeAccount string) (loginfile.File, error) {
	f := loginfile.File{Name: s.name()}
	limit := int64(maxFoundFile)
	if s.named {
		limit = maxLoginFile
	}
	var err error
	if s.path == "-" {
		f.Data, err = interruptible(ctx, func() ([]byte, error) { return readAtMost(r.stdin, 0, limit) })
	} else {
		f.Data, err = readFile(s.path, limit)
	}
	if err != nil {
		return f, err
	}
	if claudeAccount == "" {
		claudeAccount = claudeAccountOf(s.path)
	}
	if claudeAccount != "" {
		if r.claudePath != claudeAccount {
			r.claudePath = claudeAccount
			r.claudeData, r.claudeErr = readFile(claudeAccount, maxClaudeFile)
		}
		if r.claudeErr != nil {
			return f, fmt.Errorf("%s: %w", claudeAccount, r.claudeErr)
		}
		f.ClaudeAccount = r.claudeData
	}
	return f, nil
}

func (s source) name() string {
	if s.path == "-" {
		return "stdin"
	}
	return s.path
}

// claudeAccountOf returns the .claude.json that belongs to Claude Code's
// .credentials.json at path, or "": it is in the same folder where that is a
// configured one, else beside the folder .claude.
func claudeAccountOf(path string) string {
	if filepath.Base(path) != ".credentials.json" {
		return ""
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return ""
	}
	candidates := []string{filepath.Join(dir, ".claude.json")}
	if filepath.Base(dir) == ".claude" {
		candidates = append(candidates, filepath.Join(filepath.Dir(dir), ".claude.json"))
	}
	for _, c := range candidates {
		if readable(c) == nil {
			return c
		}
	}
	return ""
}

func readFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, plain(err)
	}
	if !info.Mode().IsRegular() && info.Mode().Type()&(fs.ModeNamedPipe|fs.ModeCharDevice) == 0 {
		return nil, errors.New("not a file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, plain(err)
	}
	defer f.Close()
	return readAtMost(f, info.Size(), limit)
}

// readAtMost reads r to its end. size is what it is expected to hold, 0 where
// nobody knows: memory is taken once then, and not for each time that it grows.
func readAtMost(r io.Reader, size, limit int64) ([]byte, error) {
	tooLarge := fmt.Errorf("larger than %d MiB: no login file", limit>>20)
	if size > limit {
		return nil, tooLarge
	}
	var buf bytes.Buffer
	buf.Grow(int(size) + bytes.MinRead)
	if _, err := buf.ReadFrom(io.LimitReader(r, limit+1)); err != nil {
		return nil, plain(err)
	}
	if int64(buf.Len()) > limit {
		return nil, tooLarge
	}
	return buf.Bytes(), nil
}

// plain says what is wrong with a file without repeating its path.
func plain(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("there is no such file")
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}
