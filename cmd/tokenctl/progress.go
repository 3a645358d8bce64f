package main

import (
	"time"

	"github.com/schollz/progressbar/v3"
)

const (
	// fewItems are done before anybody looks for a bar.
	fewItems = 10
	// redraw is how often a bar is drawn: more often than that nobody sees.
	redraw = 100 * time.Millisecond
)

// progress is a bar on a terminal below what is written there. nil is none.
// One goroutine uses it.
type progress struct {
	bar   *progressbar.ProgressBar
	done  int
	drawn time.Time
	shown bool
}

// newProgress returns a bar for people who wait for total items; nil where
// stderr is no terminal, or where a program reads the answer.
func (a app) newProgress(total int, asJSON bool) *progress {
	if !a.stderrTerminal || total <= fewItems || asJSON && !a.stdoutTerminal {
		return nil
	}
	p := &progress{bar: progressbar.NewOptions(total,
		progressbar.OptionSetWriter(a.stderr), progressbar.OptionSetDescription("importing"), progressbar.OptionSetWidth(24),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("accounts"), progressbar.OptionSetPredictTime(true))}
	p.draw()
	return p
}

// add counts an item that is done.
func (p *progress) add() {
	if p == nil {
		return
	}
	if p.done++; time.Since(p.drawn) >= redraw {
		p.draw()
	}
}

func (p *progress) draw() {
	if p.done == 0 {
		_ = p.bar.RenderBlank()
	} else {
		_ = p.bar.Set(p.done) // a terminal that is gone ends nothing
	}
	p.drawn, p.shown = time.Now(), true
}

// hide makes room for a line. The bar comes back when its time has come.
func (p *progress) hide() {
	if p != nil && p.shown {
		_ = p.bar.Clear()
		p.shown = false
	}
}
