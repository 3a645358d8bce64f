package main

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// setting is where a value came from, for messages.
type setting struct {
	option
	given string // the value as given, or the default
	set   bool   // given at all, on the command line or in the environment
	byEnv bool   // in the environment
}

// lookupFunc returns an option's value on the command line.
type lookupFunc func(name string) (value string, set bool)

// reader reads settings and collects what is wrong with them.
type reader struct {
	flagsOnly bool // there are no environment variables
	settings  map[string]setting
	problems  []error
}

func newReader(options []option, flag, env lookupFunc) *reader {
	r := &reader{settings: make(map[string]setting, len(options))}
	for _, o := range options {
		s := setting{option: o, given: o.value}
		if v, ok := flag(o.name); ok {
			s.given, s.set = v, true
		} else if v, ok := env(o.env()); ok && v != "" {
			s.given, s.set, s.byEnv = v, true, true
		}
		r.settings[o.name] = s
	}
	return r
}

// wrong notes that a value is wrong and what to do about it. The value must
// hold no secret.
func (r *reader) wrong(name, value, remedy string) {
	r.problem(name, strconv.Quote(value)+": "+remedy)
}

// problem notes a problem that is not about a setting's value.
func (r *reader) problem(name, text string) {
	label := "--" + name
	if !r.flagsOnly {
		label += " (" + r.settings[name].env() + ")"
	}
	r.problems = append(r.problems, errors.New(label+": "+text))
}

func (r *reader) get(name string) string { return r.settings[name].given }

func (r *reader) oneOf(name string, allowed ...string) string {
	v := r.get(name)
	if slices.Contains(allowed, v) {
		return v
	}
	r.wrong(name, v, "want "+strings.Join(allowed[:len(allowed)-1], ", ")+" or "+allowed[len(allowed)-1])
	return v
}

// duration reads a time between lo and hi; hi 0 means no bound.
func (r *reader) duration(name string, lo, hi time.Duration) time.Duration {
	v := r.get(name)
	d, err := time.ParseDuration(v)
	switch {
	case err != nil:
		r.wrong(name, v, "want a time such as "+r.exampleTime(name))
	case hi == 0 && d < lo:
		r.wrong(name, v, "must be at least "+brief(lo))
	case hi != 0 && (d < lo || d > hi):
		r.wrong(name, v, "must be between "+brief(lo)+" and "+brief(hi))
	}
	return d
}

func (r *reader) exampleTime(name string) string {
	if d, err := time.ParseDuration(r.settings[name].value); err == nil && d > 0 {
		return r.settings[name].value
	}
	return "30s"
}

// address reads host:port, or none.
func (r *reader) address(name string) string {
	v := r.get(name)
	if v == none {
		return v
	}
	_, port, err := net.SplitHostPort(v)
	if err != nil {
		r.wrong(name, v, "want host:port, or none")
		return v
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		r.wrong(name, v, "the port must be a number up to 65535")
	}
	return v
}

// file reads the path of a file that must be there and readable; "" stays "".
func (r *reader) file(name string) string {
	v := r.get(name)
	if v == "" {
		if r.settings[name].set {
			r.problem(name, "is empty; name a file, or leave it out")
		}
		return v
	}
	f, err := os.Open(v)
	if err != nil {
		r.wrong(name, v, plain(err))
		return v
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		r.wrong(name, v, "is a folder; want a file")
	}
	return v
}

// brief formats a duration without its zero parts.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// plain says what is wrong with a file without repeating its path.
func plain(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "there is no such file"
	}
	return err.Error()
}

// redactURL returns the URLs in v, comma-separated or not, without anything
// that can be a secret: what stands before an @, and the query. A ? before the
// last @ is part of a password or begins a query; then only the scheme is left.
func redactURL(v string) string {
	scheme, rest, ok := strings.Cut(v, "://")
	if !ok || strings.ContainsAny(scheme, ":@") {
		scheme, rest = "", v
	} else {
		scheme += "://"
	}
	at, query := strings.LastIndex(rest, "@"), strings.Index(rest, "?")
	switch {
	case query >= 0 && query < at:
		return scheme + "[redacted]"
	case query >= 0:
		rest = rest[:query] + "?[redacted]"
	}
	if at >= 0 {
		rest = "[redacted]" + rest[at:]
	}
	return scheme + rest
}
