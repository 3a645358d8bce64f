package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// reporter tells what becomes of an import: as it happens in words, or at the
// end in JSON.
type reporter struct {
	app
	asJSON   bool
	results  []importResult
	count    map[outcome]int
	unsent   int    // of those that failed: interrupted before they were sent
	file     string // the last one that was named
	noted    map[string]bool
	progress *progress
}

// importResult is an item in JSON.
type importResult struct {
	File            string          `json:"file"`
	Outcome         outcome         `json:"outcome"`
	Key             string          `json:"key,omitempty"`
	Format          string          `json:"format,omitempty"`
	Platform        string          `json:"platform,omitempty"`
	ID              string          `json:"id,omitempty"`
	Label           string          `json:"label,omitempty"`
	Version         account.Version `json:"version,omitempty"`
	ExpiresAt       time.Time       `json:"expires_at,omitzero"`
	HasRefreshToken bool            `json:"has_refresh_token"`
	Notes           []importNote    `json:"notes,omitempty"`
	Error           string          `json:"error,omitempty"`
}

type importNote struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

func (r *reporter) item(it item) {
	if r.count == nil {
		r.count, r.noted = map[outcome]int{}, map[string]bool{}
	}
	r.count[it.outcome]++
	if !r.asJSON || it.outcome == failed {
		r.progress.hide()
	}
	if r.asJSON {
		r.results = append(r.results, resultOf(it))
	}
	switch {
	case errors.Is(it.err, errNotSent): // finish says it once, of all of them
		r.unsent++
	case it.outcome == failed:
		r.fail(it.err)
	}
	if r.asJSON {
		return
	}
	if it.outcome == skipped {
		fmt.Fprintf(r.stdout, "skipped: %s\n", clean(it.err.Error()))
	}
	if it.login != nil && it.err == nil {
		r.login(it)
	}
}

// note tells something that is no item.
func (r *reporter) note(text string) {
	r.progress.hide()
	fmt.Fprintln(r.stderr, "tokenctl: "+clean(text))
}

// login tells about a login that was found.
func (r *reporter) login(it item) {
	l := it.login
	if it.file != r.file {
		fmt.Fprintf(r.stdout, "%s: %s\n", clean(it.file), l.Format)
		r.file = it.file
	}
	what := it.key.String()
	if l.Label != "" {
		what += " (" + clean(l.Label) + ")"
	}
	state := string(it.outcome)
	if it.outcome == created || it.outcome == updated {
		state += fmt.Sprintf(" as version %d", it.version)
	}
	refresh := "can be refreshed"
	if l.Credentials.RefreshToken.IsZero() {
		refresh = "no refresh token"
	}
	fmt.Fprintf(r.stdout, "  %s: %s, %s, %s\n", what, state, expiry(l.Credentials.ExpiresAt, r.now()), refresh)
	for _, n := range l.Notes {
		if r.noted[n.Text] {
			fmt.Fprintf(r.stdout, "    note: %s, as above\n", n.Code)
			continue
		}
		r.noted[n.Text] = true
		fmt.Fprintf(r.stdout, "    note: %s\n", n.Text)
	}
}

func resultOf(it item) importResult {
	res := importResult{File: it.file, Outcome: it.outcome, Version: it.version}
	if it.err != nil {
		res.Error = it.err.Error()
	}
	if l := it.login; l != nil {
		res.Format, res.Platform, res.ID, res.Label = l.Format, l.Platform, l.ID, l.Label
		if !it.key.IsZero() {
			res.Key = it.key.String()
		}
		res.ExpiresAt, res.HasRefreshToken = l.Credentials.ExpiresAt.Truncate(time.Second), !l.Credentials.RefreshToken.IsZero()
		for _, n := range l.Notes {
			res.Notes = append(res.Notes, importNote(n))
		}
	}
	return res
}

// finish writes the summary.
func (r *reporter) finish(dryRun bool) error {
	if r.asJSON {
		if err := writeJSON(r.stdout, map[string][]importResult{"results": r.results}); err != nil {
			return err
		}
	} else {
		var parts []string
		for _, o := range []outcome{created, updated, unchanged, found, skipped, failed} {
			if n := r.count[o]; n > 0 {
				parts = append(parts, fmt.Sprintf("%d %s", n, o))
			}
		}
		summary := strings.Join(parts, ", ")
		if dryRun {
			summary += "; nothing was sent (--dry-run)"
		}
		if _, err := fmt.Fprintln(r.stdout, summary); err != nil {
			return err
		}
	}
	if r.unsent > 0 {
		r.note(fmt.Sprintf("interrupted: %d of those that failed were not sent; the same command sends them", r.unsent))
	}
	if r.count[failed] > 0 {
		return errReported
	}
	return nil
}
