package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/loginfile"
)

// outcome says what became of a login or of a file.
type outcome string

const (
	created   outcome = "created"
	updated   outcome = "updated"
	unchanged outcome = "unchanged"
	found     outcome = "found"   // --dry-run: it would be imported
	skipped   outcome = "skipped" // a file in a folder that is no login file
	failed    outcome = "failed"
)

// item is one login of a file, or a file without one.
type item struct {
	file    string
	login   *loginfile.Login // nil: none was found
	key     account.Key      // zero: it can't be imported
	outcome outcome
	version account.Version
	err     error
}

// importOptions are the flags of accounts import.
type importOptions struct {
	id, platform, label, claudeAccount string
	labelSet, dryRun                   bool
}

func (a app) importCommand(ctx context.Context, cmd *cli.Command) error {
	args, err := arguments(cmd, "file")
	if err != nil {
		return err
	}
	asJSON, err := wantsJSON(cmd)
	if err != nil {
		return err
	}
	o, err := readImportOptions(cmd)
	if err != nil {
		return err
	}
	items, err := a.findLogins(args, o)
	if err != nil {
		return err
	}
	rep := reporter{app: a, asJSON: asJSON}
	if !o.dryRun && importable(items) > 0 {
		c, _, err := a.session(cmd, operator)
		if err != nil {
			return err
		}
		defer c.Close()
		for i := range items {
			if err := c.importItem(ctx, &items[i], o); err != nil {
				return err
			}
			rep.item(items[i])
		}
	} else {
		for _, it := range items {
			rep.item(it)
		}
	}
	return rep.finish(o.dryRun)
}

func readImportOptions(cmd *cli.Command) (importOptions, error) {
	o := importOptions{
		id: cmd.String("id"), platform: cmd.String("platform"), label: cmd.String("label"), labelSet: cmd.IsSet("label"),
		claudeAccount: cmd.String("claude-account"), dryRun: cmd.Bool("dry-run"),
	}
	var problems []error
	check := func(name, platform, id string) {
		_, err := account.NewKey(platform, id)
		if e, ok := errors.AsType[*account.KeyError](err); ok && cmd.IsSet(name) {
			problems = append(problems, fmt.Errorf("--%s: %s", name, e.Reason))
		}
	}
	check("id", "x", o.id)
	check("platform", o.platform, "x")
	if cmd.IsSet("claude-account") {
		if err := readable(filepath.Clean(o.claudeAccount)); err != nil {
			problems = append(problems, fmt.Errorf("--claude-account: %q: %w", o.claudeAccount, err))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return o, &usageError{err}
	}
	return o, nil
}

// findLogins reads the files and finds out what can be imported. It contacts
// nobody.
func (a app) findLogins(args []string, o importOptions) ([]item, error) {
	sources, err := findSources(args)
	if err != nil {
		return nil, err
	}
	var items []item
	logins := 0
	for _, s := range sources {
		more := a.itemsOf(s, o)
		for _, it := range more {
			if it.login != nil {
				logins++
			}
		}
		items = append(items, more...)
	}
	if len(items) == 0 {
		return nil, usagef("%s: no *.json file in it", strings.Join(args, ", "))
	}
	if logins > 1 && (o.id != "" || o.labelSet) {
		return nil, usagef("--id and --label are for one login, and there are %d; import them one at a time", logins)
	}
	seen := map[account.Key]*item{}
	for i := range items {
		items[i].check(o, seen)
	}
	return items, nil
}

// itemsOf reads one file.
func (a app) itemsOf(s source, o importOptions) []item {
	f, err := a.read(s, o.claudeAccount)
	if err != nil {
		return []item{{file: s.name(), outcome: failed, err: fmt.Errorf("%s: %w", s.name(), err)}}
	}
	logins, err := loginfile.Parse(f)
	items := make([]item, 0, len(logins))
	for i := range logins {
		items = append(items, item{file: s.name(), login: &logins[i]})
	}
	for _, e := range split(err) {
		it := item{file: s.name(), outcome: failed, err: e}
		if errors.Is(e, loginfile.ErrUnknownFormat) || errors.Is(e, loginfile.ErrNoLogin) {
			// What else lies in a folder, or in an export, is no mistake.
			if !s.named || len(logins) > 0 {
				it.outcome = skipped
			}
		}
		items = append(items, it)
	}
	return items
}

// split returns the errors that are joined in err.
func split(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// check gives the login its key, or says why it has none. seen are the logins
// before it.
func (it *item) check(o importOptions, seen map[account.Key]*item) {
	l := it.login
	if l == nil {
		return
	}
	if o.platform != "" {
		l.Platform = o.platform
	}
	if o.id != "" {
		l.ID, l.NeedsID = o.id, false
	}
	if o.labelSet {
		l.Label = o.label
	}
	key, err := l.Key()
	if err != nil {
		it.outcome, it.err = failed, fmt.Errorf("%s: %w; %s", it.file, err, missing(*l))
		return
	}
	if first, ok := seen[key]; ok {
		if first.login.Credentials.Equal(l.Credentials) {
			it.outcome, it.err = skipped, fmt.Errorf("%s: the same login as in %s", it.file, first.file)
		} else {
			it.outcome, it.err = failed, fmt.Errorf("%s: another login of %s, which is in %s too; import one of them", it.file, key, first.file)
		}
		return
	}
	it.key, it.outcome, seen[key] = key, found, it
}

// missing says which flag gives what the file doesn't say.
func missing(l loginfile.Login) string {
	switch {
	case l.Platform == "":
		return "give --platform"
	case l.Format == loginfile.FormatClaudeCode:
		return "give --claude-account ~/.claude.json, or --id"
	}
	return "give --id"
}

func importable(items []item) int {
	n := 0
	for _, it := range items {
		if it.outcome == found {
			n++
		}
	}
	return n
}

// importItem puts the login, unless there is none to put. An error means that
// it would be the same with every other.
func (c *conn) importItem(ctx context.Context, it *item, o importOptions) error {
	if it.outcome != found {
		return nil
	}
	before, err := c.on(ctx, events.VerbGet, it.key, false)
	isNew := errors.Is(err, &events.Error{Code: events.CodeNotFound})
	var after events.Account
	if err == nil || isNew {
		after, err = c.put(ctx, it, isNew, o)
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return err
	}
	switch {
	case err != nil:
		it.outcome, it.err = failed, fmt.Errorf("%s: %s: %w", it.file, it.key, remedy(err, it.key))
		return nil
	case isNew:
		it.outcome = created
	case after.Version != before.Version || after.Label != before.Label:
		it.outcome = updated
	default:
		it.outcome = unchanged
	}
	it.version = after.Version
	return nil
}

// put sends the login. A label that comes from a file's tokens counts only for
// a new account, so that one that an operator gave stays; one that stands in a
// body of accounts.put is meant.
func (c *conn) put(ctx context.Context, it *item, isNew bool, o importOptions) (events.Account, error) {
	l := it.login
	req := events.PutRequest{Platform: it.key.Platform(), ID: it.key.ID(), Type: l.Type, IfVersion: l.IfVersion, Credentials: l.Credentials.Encode()}
	if o.labelSet || l.Label != "" && (isNew || l.Format == loginfile.FormatTokenbus) {
		req.Label = &l.Label
	}
	var doc events.Account
	err := c.admin(ctx, events.VerbPut, req, &doc)
	return doc, err
}

// reporter tells what becomes of an import: as it happens in words, or at the
// end in JSON.
type reporter struct {
	app
	asJSON  bool
	results []importResult
	count   map[outcome]int
	file    string // the last one that was named
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
		r.count = map[outcome]int{}
	}
	r.count[it.outcome]++
	if r.asJSON {
		r.results = append(r.results, resultOf(it))
	}
	if it.outcome == failed {
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
	if r.count[failed] > 0 {
		return errReported
	}
	return nil
}
