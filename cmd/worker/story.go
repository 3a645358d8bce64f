package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// story prints what happens in the demo, a line each, as it happens. It is
// safe for concurrent use.
type story struct {
	mu    sync.Mutex // guards out
	out   io.Writer
	color bool
	start time.Time
}

// Colors of the speakers (ANSI).
const (
	plainText = ""
	bold      = "1"
	dim       = "2"
	green     = "32"
	yellow    = "33"
	blue      = "34"
	magenta   = "35"
	cyan      = "36"
	red       = "31"
)

func newStory(out io.Writer, color bool) *story {
	return &story{out: out, color: color, start: time.Now()}
}

// tell prints one line: when, who, what.
func (s *story) tell(color, who, format string, args ...any) {
	line := fmt.Sprintf("%6.2fs  %s  %s\n", time.Since(s.start).Seconds(), s.paint(color, fmt.Sprintf("%-9s", who)), fmt.Sprintf(format, args...))
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = io.WriteString(s.out, line)
}

// say prints text as it is, for headings and the summary.
func (s *story) say(color, format string, args ...any) {
	text := s.paint(color, fmt.Sprintf(format, args...))
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = io.WriteString(s.out, text+"\n")
}

func (s *story) paint(color, text string) string {
	if !s.color || color == plainText {
		return text
	}
	// Trailing blanks stay outside, so that copied text looks right.
	word := strings.TrimRight(text, " ")
	return "\x1b[" + color + "m" + word + "\x1b[0m" + text[len(word):]
}

// plural returns "1 thing" or "n things".
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	if stem, ok := strings.CutSuffix(thing, "y"); ok {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
