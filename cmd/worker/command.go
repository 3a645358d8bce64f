package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v3"
)

// Exit codes of the worker.
const (
	exitOK     = 0 // a clean stop
	exitFailed = 1 // a failure while running, or a stop that left something undone
	exitConfig = 2 // wrong configuration or command line
)

// usageError makes the process exit with exitConfig.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// app is the process as the commands see it.
type app struct {
	stdout io.Writer
	stderr io.Writer
	env    lookupFunc
	// environ is the whole environment, as [os.Environ] has it.
	environ func() []string
	// signals returns the context that the first SIGINT or SIGTERM ends and
	// makes the second one end the process at once. stop undoes it.
	signals func(context.Context) (ctx context.Context, stop func())
}

// run executes a command line, args[0] being the program's name, and returns
// the exit code.
func (a app) run(ctx context.Context, args []string) int {
	err := a.command().Run(ctx, args)
	if err == nil {
		return exitOK
	}
	code := exitFailed
	_, usage := errors.AsType[*usageError](err)
	_, help := errors.AsType[cli.ExitCoder](err) // no such help topic
	if usage || help {
		code = exitConfig
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(a.stderr, "worker: "+line)
	}
	return code
}

func (a app) command() *cli.Command {
	onUsage := func(_ context.Context, cmd *cli.Command, err error, _ bool) error {
		// The cli package writes "flag provided but not defined: -x".
		if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
			return usagef("unknown flag --%s; see %s --help", strings.TrimLeft(name, "-"), cmd.FullName())
		}
		return usagef("%w; see %s --help", err, cmd.FullName())
	}
	runHelp := a.help("worker [run] [options]\n  worker demo [options]\n  worker keyset create|stage|promote|show [FILE]\n  worker reseal [options]\n  worker version",
		"keeps OAuth accounts alive and answers gateways with living tokens.", runOptions(), true)
	root := &cli.Command{
		Name:                          "worker",
		Flags:                         flagsOf(runOptions(), false),
		HideVersion:                   true,
		Writer:                        a.stdout,
		ErrWriter:                     a.stderr,
		ExitErrHandler:                func(context.Context, *cli.Command, error) {},
		OnUsageError:                  onUsage,
		CustomRootCommandHelpTemplate: runHelp,
		Action:                        a.only(a.runCommand),
		Commands: []*cli.Command{
			{Name: "run", OnUsageError: onUsage, CustomHelpTemplate: runHelp, Action: a.only(a.runCommand)},
			{
				Name: "demo", OnUsageError: onUsage, Flags: flagsOf(demoOptions(), true), Action: a.only(a.demoCommand),
				CustomHelpTemplate: a.help("worker demo [options]",
					"shows tokenbus at work in one process: an OAuth server that rotates refresh\ntokens, a NATS server, workers, and a gateway that keeps asking.", demoOptions(), false),
			},
			a.keysetCommand(onUsage),
			{
				Name: "reseal", OnUsageError: onUsage, Action: a.only(a.resealCommand),
				CustomHelpTemplate: a.help("worker reseal [options]",
					"seals every account with the keyset's primary key. It takes the options of\nworker run, of which NATS and storage matter.", nil, false),
			},
			{
				Name: "version", OnUsageError: onUsage, Action: a.only(a.versionCommand),
				CustomHelpTemplate: a.help("worker version", "prints the version.", nil, false),
			},
		},
	}
	return root
}

// help returns the text for --help. The cli package takes it for a template,
// so it must hold no "{{".
func (a app) help(usage, what string, options []option, commands bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage:\n  %s\n\nworker %s\n", usage, what)
	if commands {
		b.WriteString(`
Commands:
  run      run a worker (what worker alone does)
  demo     show everything at work in one process
  keyset   make a keyset file, rotate its key, or list its keys
  reseal   seal every account with the keyset's primary key
  version  print the version

Each option can also be given as the environment variable in brackets; the
command line wins.
`)
	}
	if len(options) > 0 && options[0].group == "" {
		b.WriteString("\nOptions:\n")
	}
	writeOptions(&b, options, commands)
	if commands {
		b.WriteString("\nSIGTERM or Ctrl-C stops it. SIGHUP reads the provider file and the keyset again.\n")
		b.WriteString("\nExit codes: 0 after a clean stop, 1 after a failure or a stop that left something\nundone, 2 for a wrong configuration.\n")
	}
	return b.String()
}

// only makes an action refuse arguments: no command takes any.
func (a app) only(action func(context.Context, *cli.Command) error) cli.ActionFunc {
	return func(ctx context.Context, cmd *cli.Command) error {
		if extra := cmd.Args().First(); extra != "" {
			if cmd.Root() == cmd {
				return usagef("unknown command %q; want run, demo, keyset, reseal or version", extra)
			}
			return usagef("%s takes no argument, and got %q; see %s --help", cmd.FullName(), extra, cmd.FullName())
		}
		return action(ctx, cmd)
	}
}

// config reads the configuration of a command that runs or joins a fleet.
func (a app) config(cmd *cli.Command) (config, error) {
	c, err := readConfig(flagLookup(cmd), a.env)
	if err != nil {
		return config{}, &usageError{err}
	}
	return c, nil
}

func flagLookup(cmd *cli.Command) lookupFunc {
	return func(name string) (string, bool) { return cmd.String(name), cmd.IsSet(name) }
}

func (a app) versionCommand(context.Context, *cli.Command) error {
	_, err := fmt.Fprintln(a.stdout, "tokenbus worker "+version())
	return err
}

// osApp is the app of the real process.
func osApp() app {
	return app{stdout: os.Stdout, stderr: os.Stderr, env: os.LookupEnv, environ: os.Environ, signals: notifySignals}
}
