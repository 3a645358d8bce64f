//go:build linux

package crash_test

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// clock is how a story tells the time.
const clock = "15:04:05.000"

type entry struct {
	at   time.Time
	text string
}

// story tells what happened to an account, for a person who looks into a
// failure.
func (fl *fleet) story(key string) string {
	var all []entry
	concerned := map[*process]bool{}
	for _, x := range fl.front.of(key) {
		concerned[x.process] = true
		kind := ""
		if x.order != nil {
			kind = " (" + x.order.kind + ")"
		}
		all = append(all, entry{x.at, fmt.Sprintf("front: %s sends %.14s%s; status %d, next %.14s; %s at %s",
			x.process.id, x.refresh, kind, x.status, x.next, x.fate, x.finished.Format(clock))})
	}
	for _, w := range fl.workers {
		for _, p := range w.all() {
			if !concerned[p] && !p.concerns(key) {
				continue
			}
			lines := p.said()
			p.mu.Lock()
			if !p.died.IsZero() {
				all = append(all, entry{p.died, fmt.Sprintf("%s died; in its spool: %v", p.id, p.spooled)})
			}
			p.mu.Unlock()
			for i, l := range lines {
				if i == 0 || l.account == key || l.msg == "worker answers requests" {
					all = append(all, entry{l.at, p.id + ": " + l.text})
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b entry) int { return a.at.Compare(b.at) })
	var b strings.Builder
	for _, e := range all {
		b.WriteString(e.at.Format(clock) + " " + e.text + "\n")
	}
	return b.String()
}
