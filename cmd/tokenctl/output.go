package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/urfave/cli/v3"
)

// wantsJSON reads --output.
func wantsJSON(cmd *cli.Command) (bool, error) {
	switch f := cmd.String("output"); f {
	case "text":
		return false, nil
	case "json":
		return true, nil
	default:
		return false, usagef("--output: %q: want text or json", f)
	}
}

// writeJSON writes v on one line.
func writeJSON(w io.Writer, v any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	_, err := w.Write(buf.Bytes())
	return err
}

// clean replaces what a terminal could take for a command: names in files and
// messages from elsewhere are printed only through it.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return '?'
		}
		return r
	}, s)
}

// in says how long it is yet: "in 2h10m", or "now".
func in(d time.Duration) string {
	if d.Round(time.Second) == 0 {
		return "now"
	}
	return "in " + brief(d)
}

// until says when t is, seen from now: "in 2h10m", "now", "5m ago"; "" for no
// time.
func until(t, now time.Time) string {
	switch d := t.Sub(now); {
	case t.IsZero():
		return ""
	case d >= 0:
		return in(d)
	default:
		return brief(-d) + " ago"
	}
}

// expiry says when a token ends, as part of a sentence.
func expiry(t, now time.Time) string {
	switch {
	case t.IsZero():
		return "expiry unknown"
	case t.Before(now):
		return "expired " + until(t, now)
	default:
		return "expires " + until(t, now)
	}
}

// brief is a duration in its two largest units.
func brief(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = d.Round(time.Second); {
	case d < time.Minute:
		return d.String()
	case d < time.Hour:
		return units(d, time.Minute, "m", time.Second, "s")
	case d < day:
		return units(d, time.Hour, "h", time.Minute, "m")
	default:
		return units(d, day, "d", time.Hour, "h")
	}
}

func units(d, large time.Duration, largeName string, small time.Duration, smallName string) string {
	s := fmt.Sprintf("%d%s", d/large, largeName)
	if rest := d % large / small; rest > 0 {
		s += fmt.Sprintf("%d%s", rest, smallName)
	}
	return s
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
