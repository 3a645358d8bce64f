package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/tokenbus/tokenbus/events"
)

// command returns the whole command line.
func (a app) command() *cli.Command {
	leaf := func(name, usage string, action cli.ActionFunc, flags ...cli.Flag) *cli.Command {
		return &cli.Command{
			Name: name, Flags: flags, Action: action, OnUsageError: onUsage, CustomHelpTemplate: helpOf(usage),
			DisableSliceFlagSeparator: true, HideHelpCommand: true,
			Hidden: true, // from the cli package's own help, which would replace that of the command above
		}
	}
	text := func(name string) cli.Flag { return &cli.StringFlag{Name: name, Local: true} }
	yes := func(name string) cli.Flag { return &cli.BoolFlag{Name: name, Local: true} }
	verb := func(name, usage string, v keyVerb, flags ...cli.Flag) *cli.Command {
		return leaf(name, usage, a.onKeys(v), flags...)
	}
	accounts := &cli.Command{
		Name: "accounts", OnUsageError: onUsage, CustomHelpTemplate: accountsHelp, Action: unknownIn("accounts"), HideHelpCommand: true,
		Commands: []*cli.Command{
			leaf("import", importHelp, a.importCommand, text("id"), text("platform"), text("label"), text("claude-account"), text("proxy-url"), yes("dry-run")),
			leaf("list", listHelp, a.listCommand, text("platform"), text("status"), &cli.IntFlag{Name: "limit", Value: events.DefaultListLimit, Local: true}, yes("all")),
			verb("get", getHelp, keyVerb{verb: events.VerbGet}),
			verb("refresh", refreshHelp, keyVerb{verb: events.VerbRefresh, done: "refreshed"}, yes("force")),
			verb("disable", disableHelp, keyVerb{verb: events.VerbDisable, done: "disabled"}),
			verb("enable", enableHelp, keyVerb{verb: events.VerbEnable, done: "enabled"}),
			verb("clear-error", clearErrorHelp, keyVerb{verb: events.VerbClearError, done: "cleared"}),
			verb("delete", deleteHelp, keyVerb{verb: events.VerbDelete, done: "deleted", confirm: true}, yes("yes")),
			leaf("patch", patchHelp, a.patchCommand, text("label"), text("proxy-url"),
				&cli.StringSliceFlag{Name: "set", Local: true}, &cli.StringSliceFlag{Name: "unset", Local: true}),
		},
	}
	return &cli.Command{
		Name: "tokenctl", Flags: globalFlags(), HideVersion: true, Writer: a.stdout, ErrWriter: a.stderr,
		ExitErrHandler: func(context.Context, *cli.Command, error) {},
		OnUsageError:   onUsage, CustomRootCommandHelpTemplate: rootHelp(), Action: unknownIn(""),
		Commands: []*cli.Command{
			accounts,
			leaf("token", tokenHelp, a.tokenCommand, &cli.DurationFlag{Name: "min-ttl", Local: true},
				&cli.DurationFlag{Name: "timeout", Value: events.DefaultTimeout, Local: true}),
			leaf("watch", watchHelp, a.watchCommand),
			leaf("journal", journalHelp, a.journalCommand),
			leaf("version", versionHelp, a.versionCommand),
		},
	}
}

func onUsage(_ context.Context, cmd *cli.Command, err error, _ bool) error {
	// The cli package writes "flag provided but not defined: -x".
	if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		return usagef("unknown flag --%s; see %s --help", strings.TrimLeft(name, "-"), cmd.FullName())
	}
	return usagef("%w; see %s --help", err, cmd.FullName())
}

// unknownIn is the action of a command that only has others: it gets what is
// none of them.
func unknownIn(name string) cli.ActionFunc {
	return func(_ context.Context, cmd *cli.Command) error {
		var names []string
		for _, c := range cmd.Commands {
			if c.Name != "help" {
				names = append(names, c.Name)
			}
		}
		all := strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
		what := strings.TrimSpace(name + " command")
		if got := cmd.Args().First(); got != "" {
			return usagef("unknown %s %q; want %s; see %s --help", what, got, all, cmd.FullName())
		}
		return usagef("which %s? want %s; see %s --help", what, all, cmd.FullName())
	}
}

// isUnknownTopic reports whether err is the cli package's "no such help topic".
func isUnknownTopic(err error) bool {
	_, ok := errors.AsType[cli.ExitCoder](err)
	return ok
}

// arguments returns what the command was given; none is a mistake.
func arguments(cmd *cli.Command, what string) ([]string, error) {
	args := cmd.Args().Slice()
	if len(args) == 0 {
		return nil, usagef("%s: which %s? see %s --help", cmd.FullName(), what, cmd.FullName())
	}
	return args, nil
}

// session is what a command that talks to the workers starts with.
func (a app) session(cmd *cli.Command, r role) (c *conn, asJSON bool, err error) {
	if asJSON, err = wantsJSON(cmd); err != nil {
		return nil, false, err
	}
	cfg, err := a.config(cmd)
	if err != nil {
		return nil, false, err
	}
	c, err = cfg.connect(r, func(text string) { fmt.Fprintln(a.stderr, "tokenctl: "+text) })
	return c, asJSON, err
}

func (a app) versionCommand(_ context.Context, cmd *cli.Command) error {
	asJSON, err := wantsJSON(cmd)
	if err != nil {
		return err
	}
	if cmd.NArg() > 0 {
		return usagef("tokenctl version takes no argument")
	}
	if asJSON {
		return writeJSON(a.stdout, map[string]string{"version": version()})
	}
	_, err = fmt.Fprintln(a.stdout, "tokenctl "+version())
	return err
}

// local is a time for people: of today the time alone.
func (a app) local(t time.Time) string {
	t, now := t.Local(), a.now().Local()
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}
