package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/tokenbus/tokenbus/seal"
)

// keysetHelp is the help of the command keyset and of all below it.
const keysetHelp = `Usage:
  worker keyset create  [FILE]
  worker keyset stage   [FILE]
  worker keyset promote [FILE]
  worker keyset show    [FILE]

worker keyset makes a keyset file and rotates its sealing key. It touches that
file and nothing else.

Commands:
  create   make a new keyset file, mode 0600; one that exists is left alone, and
           no folder is made but the data folder
  stage    add a key that opens and does not seal yet
  promote  make the newest key the primary, the one that seals
  show     list the ids of the keys, oldest first, and tell the primary

FILE is the one that a worker would use, if it is left out:

  --keyset FILE [$TOKENBUS_KEYSET]
        the sealing keys of the fleet (default: <data-dir>/keyset.json)
  --data-dir DIR [$TOKENBUS_DATA_DIR]
        the worker's data folder (default: ./data)

To rotate the key of a running fleet. No worker may meet a key that it lacks,
so it takes two rounds:

  1. worker keyset stage FILE, on one machine
  2. copy FILE to every worker and send each SIGHUP, or restart it; worker
     keyset show lists the same keys everywhere, the last one staged
  3. worker keyset promote FILE, on one machine
  4. copy FILE to every worker and send each SIGHUP, or restart it
  5. worker reseal, once, with a worker's own settings
  6. keep a copy of FILE, and leave the old keys in it

A worker reads its keyset at the start and at SIGHUP; the log says whether it
was taken. Between 1 and 4 either file works;
promoting before 2 is done leaves workers that can't read what others write.
`

// keysetCommand is the command keyset.
func (a app) keysetCommand(onUsage cli.OnUsageErrorFunc) *cli.Command {
	leaf := func(name string, do func(c config) error) *cli.Command {
		return &cli.Command{
			Name: name, OnUsageError: onUsage, CustomHelpTemplate: keysetHelp,
			HideHelpCommand: true,
			Hidden:          true, // from the cli package's own help, which would replace that of the command above
			Action:          a.onKeyset(do),
		}
	}
	return &cli.Command{
		Name: "keyset", OnUsageError: onUsage, CustomHelpTemplate: keysetHelp, HideHelpCommand: true,
		Action: func(_ context.Context, cmd *cli.Command) error {
			if what := cmd.Args().First(); what != "" {
				return usagef("unknown keyset command %q; want create, stage, promote or show", what)
			}
			return usagef("keyset wants a command: create, stage, promote or show; see worker keyset --help")
		},
		Commands: []*cli.Command{
			leaf("create", a.keysetCreate), leaf("stage", a.keysetStage), leaf("promote", a.keysetPromote), leaf("show", a.keysetShow),
		},
	}
}

// onKeyset calls do with a config whose keysetPath is the file that the command
// line names, or else the one that a worker would use.
func (a app) onKeyset(do func(c config) error) cli.ActionFunc {
	return func(_ context.Context, cmd *cli.Command) error {
		args := cmd.Args().Slice()
		if len(args) > 1 || slices.Contains(args, "") {
			return usagef("%s takes one file, and got %d arguments; see worker keyset --help", cmd.FullName(), len(args))
		}
		r := newReader(runOptions(), flagLookup(cmd), a.env)
		c := config{Keyset: r.get("keyset"), DataDir: r.get("data-dir")}
		if len(args) == 1 {
			c.Keyset = args[0]
		}
		if c.Keyset == "" && c.DataDir == "" {
			r.problem("data-dir", "is empty; name a folder, or the keyset's file")
			return &usageError{errors.Join(r.problems...)}
		}
		path := c.keysetPath()
		err := do(c)
		switch {
		case errors.Is(err, fs.ErrExist):
			return fmt.Errorf("%q exists, and is left as it is; worker keyset stage adds a key to it", path)
		case errors.Is(err, fs.ErrNotExist):
			return usagef("%q: there is no such file; name the fleet's keyset, or make a new fleet's with worker keyset create", path)
		}
		return err
	}
}

// keysetCreate makes the data folder if need be, as a worker does, and no other:
// a folder that is missing is mistyped, or not mounted.
func (a app) keysetCreate(c config) error {
	path := c.keysetPath()
	if c.Keyset != "" {
		dir := filepath.Dir(path)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return usagef("%q: no such folder: %s; make it, or name a file elsewhere", path, dir)
		}
	}
	s, err := seal.Create(path)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "made %s with key %d\nKeep a copy of it: without it every account must log in again.\n", path, s.Primary())
	return err
}

func (a app) keysetStage(c config) error {
	path := c.keysetPath()
	id, err := seal.Stage(path)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "staged key %d in %s: it opens, and does not seal yet\n"+
		"Next: give the file to every worker and send each SIGHUP, or restart it; then worker keyset promote.\n", id, path)
	return err
}

func (a app) keysetPromote(c config) error {
	path := c.keysetPath()
	id, err := seal.Promote(path)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "promoted key %d in %s: it seals\n"+
		"Next: give the file to every worker and send each SIGHUP, or restart it; then worker reseal.\n", id, path)
	return err
}

func (a app) keysetShow(c config) error {
	path := c.keysetPath()
	s, err := seal.Load(path)
	if err != nil {
		return err
	}
	var b strings.Builder
	role := "old"
	for _, id := range s.KeyIDs() {
		if id == s.Primary() {
			role = "primary"
		} else if role == "primary" {
			role = "staged"
		}
		fmt.Fprintf(&b, "%d\t%s\n", id, role)
	}
	_, err = fmt.Fprint(a.stdout, b.String())
	return err
}
