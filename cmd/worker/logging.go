package main

import (
	"io"
	"log/slog"
	"os"

	"github.com/lmittmann/tint"
	"github.com/mattn/go-isatty"
)

// newLogger returns the process's logger, writing to w. Format "auto" is text
// where w is a terminal and JSON elsewhere.
func newLogger(w io.Writer, level slog.Level, format string, env lookupFunc) *slog.Logger {
	tty := isTerminal(w)
	if format == "json" || format == auto && !tty {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: "15:04:05.000", NoColor: !colored(w, env)}))
}

// colored reports whether text for w may have colors: on a terminal, unless
// NO_COLOR (no-color.org) is set to anything.
func colored(w io.Writer, env lookupFunc) bool {
	if v, _ := env("NO_COLOR"); v != "" {
		return false
	}
	if term, _ := env("TERM"); term == "dumb" {
		return false
	}
	return isTerminal(w)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && (isatty.IsTerminal(f.Fd()) || isatty.IsCygwinTerminal(f.Fd()))
}
