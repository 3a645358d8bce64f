package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/loginfile"
)

// outcome says what became of a login or of a file.
type outcome string

const (
	created   outcome = "created"
	updated   outcome = "updated"
	unchanged outcome = "unchanged"
	found     outcome = "found"   // --dry-run: it would be imported
	skipped   outcome = "skipped" // JSON in a folder that is no login file
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
	id, platform, label, claudeAccount, proxyURL string
	labelSet, dryRun                             bool
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
	items, err := a.findLogins(ctx, args, o)
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
		rep.progress = a.newProgress(importable(items), asJSON)
		err = newSender(c, o).send(ctx, items, &rep)
		rep.progress.hide()
		if err != nil {
			return err
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
		claudeAccount: cmd.String("claude-account"), proxyURL: cmd.String("proxy-url"), dryRun: cmd.Bool("dry-run"),
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
	if err := account.CheckProxyURL(o.proxyURL); err != nil {
		problems = append(problems, fmt.Errorf("--proxy-url: %w", err))
	}
	if err := errors.Join(problems...); err != nil {
		return o, &usageError{err}
	}
	return o, nil
}

// findLogins reads the files and finds out what can be imported. It contacts
// nobody.
func (a app) findLogins(ctx context.Context, args []string, o importOptions) ([]item, error) {
	sources, err := findSources(args)
	if err != nil {
		return nil, err
	}
	var items []item
	logins := 0
	files := fileReader{app: a}
	for _, s := range sources {
		if ctx.Err() != nil {
			return nil, errors.New("interrupted")
		}
		more := files.itemsOf(ctx, s, o)
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
func (r *fileReader) itemsOf(ctx context.Context, s source, o importOptions) []item {
	f, err := r.read(ctx, s, o.claudeAccount)
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
			// What else lies in a folder, or in an export, is no mistake. What is
			// no JSON at all may be a login that was torn: its account is missing.
			if !s.named && isJSON(f.Data) || len(logins) > 0 {
				it.outcome = skipped
			}
		}
		items = append(items, it)
	}
	return items
}

// isJSON reports whether data is JSON, whatever is in it.
func isJSON(data []byte) bool {
	return json.Valid(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))) // which loginfile takes too
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
	if o.proxyURL != "" {
		l.Credentials.ProxyURL = account.NewSecret(o.proxyURL)
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
