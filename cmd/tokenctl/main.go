// Command tokenctl is the operator's tool: it imports login files, shows and
// changes accounts, fetches tokens and watches what happens. It talks to the
// workers over NATS alone.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // something could not be done
	exitUsage  = 2 // wrong command line or configuration
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	code := osApp().run(ctx, os.Args)
	stop()
	os.Exit(code)
}

// app is the process as the commands see it.
type app struct {
	stdin    io.Reader
	stdout   io.Writer
	stderr   io.Writer
	env      func(name string) (string, bool)
	terminal bool // stdin is one, so questions can be asked
	// Whether stdout and stderr are terminals.
	stdoutTerminal, stderrTerminal bool
	now                            func() time.Time
}

func osApp() app {
	return app{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, env: os.LookupEnv,
		terminal: isatty.IsTerminal(os.Stdin.Fd()), now: time.Now,
		stdoutTerminal: isatty.IsTerminal(os.Stdout.Fd()), stderrTerminal: isatty.IsTerminal(os.Stderr.Fd()),
	}
}

// usageError makes the process exit with exitUsage.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// errReported makes the process exit with exitFailed; what failed has been told.
var errReported = errors.New("failed")

// run executes a command line, args[0] being the program's name, and returns
// the exit code.
func (a app) run(ctx context.Context, args []string) int {
	err := a.command().Run(ctx, args)
	if err == nil {
		return exitOK
	}
	if !errors.Is(err, errReported) {
		a.fail(err)
	}
	if _, ok := errors.AsType[*usageError](err); ok || isUnknownTopic(err) {
		return exitUsage
	}
	return exitFailed
}

// fail writes an error, a line for each that is joined in it.
func (a app) fail(err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(a.stderr, "tokenctl: "+clean(line))
	}
}

// interruptible runs read, which can't be cancelled, until it ends or ctx does.
// In the second case the process is about to end, and read with it.
func interruptible[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := read()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		var none T
		return none, errors.New("interrupted")
	}
}

// version is the module's version, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}
