package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// keyVerb is a command that does the same to each account it is given.
type keyVerb struct {
	verb    string
	done    string // what has happened to the account; "" shows it whole
	confirm bool   // ask first
}

func (a app) onKeys(v keyVerb) cli.ActionFunc {
	return func(ctx context.Context, cmd *cli.Command) error {
		args, err := arguments(cmd, "account")
		if err != nil {
			return err
		}
		keys, err := parseKeys(args)
		if err != nil {
			return err
		}
		if v.confirm && !cmd.Bool("yes") {
			if err := a.confirm(ctx, keys); err != nil {
				return err
			}
		}
		c, asJSON, err := a.session(cmd, operator)
		if err != nil {
			return err
		}
		defer c.Close()
		force := v.verb == events.VerbRefresh && cmd.Bool("force")
		return a.each(keys, asJSON, v.done, func(key account.Key) (events.Account, error) { return c.on(ctx, v.verb, key, force) })
	}
}

// each does one thing to every account, tells what came of it, and goes on
// when one fails.
func (a app) each(keys []account.Key, asJSON bool, done string, do func(account.Key) (events.Account, error)) error {
	failed := false
	for _, key := range keys {
		doc, err := do(key)
		switch {
		case err != nil:
			if _, ok := errors.AsType[*usageError](err); ok {
				return err // it would be the same with the others
			}
			failed = true
			a.fail(fmt.Errorf("%s: %w", key, remedy(err, key)))
			continue
		case asJSON:
			err = writeJSON(a.stdout, doc)
		case done == "":
			err = a.show(doc)
		default:
			_, err = fmt.Fprintf(a.stdout, "%s: %s%s\n", key, done, a.standing(doc, done))
		}
		if err != nil {
			return err
		}
	}
	if failed {
		return errReported
	}
	return nil
}

// standing says in short how an account stands after done.
func (a app) standing(doc events.Account, done string) string {
	if done == "deleted" {
		return ""
	}
	s := fmt.Sprintf(", version %d, %s", doc.Version, expiry(doc.ExpiresAt, a.now()))
	if string(doc.Status) != done && doc.Status != account.Active {
		s += ", " + string(doc.Status)
	}
	return s
}

// confirm asks whether to delete the accounts.
func (a app) confirm(ctx context.Context, keys []account.Key) error {
	if !a.terminal {
		return usagef("accounts delete erases credentials; confirm it with --yes")
	}
	what := keys[0].String()
	if len(keys) > 1 {
		what = plural(len(keys), "account", "accounts")
	}
	fmt.Fprintf(a.stderr, "Delete %s? The credentials are erased. [y/N] ", what)
	answer, err := interruptible(ctx, func() (string, error) { return bufio.NewReader(a.stdin).ReadString('\n') })
	if err != nil && err != io.EOF {
		return fmt.Errorf("read the answer: %w", err)
	}
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return errors.New("nothing was deleted")
	}
	return nil
}

// show writes what a worker tells of an account.
func (a app) show(doc events.Account) error {
	now := a.now()
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, clean(value))
		}
	}
	at := func(name string, t time.Time) {
		if !t.IsZero() {
			line(name, fmt.Sprintf("%s (%s)", until(t, now), a.local(t)))
		}
	}
	line("key", doc.Platform+"."+doc.ID)
	line("label", doc.Label)
	line("status", string(doc.Status))
	line("version", fmt.Sprint(doc.Version))
	if doc.ExpiresAt.IsZero() {
		line("expires", "unknown")
	}
	at("expires", doc.ExpiresAt)
	if doc.HasRefreshToken {
		at("refresh", doc.RefreshAt)
	} else { // what refresh_at says then is when the account ends
		line("refresh", "never: there is no refresh token")
	}
	if doc.Rotation != nil {
		line("rotation", fmt.Sprintf("%s at %s, since %s", doc.Rotation.State, doc.Rotation.Worker, a.local(doc.Rotation.StartedAt)))
	}
	at("cooldown", doc.CooldownUntil)
	if doc.Failures > 0 {
		line("failures", fmt.Sprint(doc.Failures))
	}
	if e := doc.LastError; e != nil {
		line("error", fmt.Sprintf("%s: %s (%s)", e.Code, e.Message, until(e.At, now)))
	}
	line("created", a.local(doc.CreatedAt))
	line("updated", a.local(doc.UpdatedAt))
	fmt.Fprintln(w)
	return w.Flush()
}

func (a app) listCommand(ctx context.Context, cmd *cli.Command) error {
	limit := cmd.Int("limit")
	switch {
	case cmd.NArg() > 0:
		return usagef("accounts list takes no argument, and got %q; see tokenctl accounts get", cmd.Args().First())
	case cmd.Bool("all") && cmd.IsSet("limit"):
		return usagef("--all and --limit exclude each other")
	case limit < 1:
		return usagef("--limit: want at least 1, or --all")
	}
	c, asJSON, err := a.session(cmd, operator)
	if err != nil {
		return err
	}
	defer c.Close()
	req := events.ListRequest{Platform: cmd.String("platform"), Status: account.Status(cmd.String("status"))}
	all := events.ListReply{Accounts: []events.Account{}}
	for {
		req.Limit = events.MaxListLimit
		if !cmd.Bool("all") {
			req.Limit = min(req.Limit, limit-len(all.Accounts))
		}
		var page events.ListReply
		if err := c.admin(ctx, events.VerbList, req, &page); err != nil {
			return err
		}
		all.Accounts = append(all.Accounts, page.Accounts...)
		all.NextCursor, req.Cursor = page.NextCursor, page.NextCursor
		if page.NextCursor == "" || !cmd.Bool("all") && len(all.Accounts) >= limit {
			break
		}
	}
	if asJSON {
		return writeJSON(a.stdout, all)
	}
	return a.table(all, req.Platform != "" || req.Status != "")
}

// table writes accounts one a line. some tells that not all were asked for.
func (a app) table(list events.ListReply, some bool) error {
	if len(list.Accounts) == 0 {
		text := "no accounts; bring one in with tokenctl accounts import FILE"
		if some {
			text = "no such accounts"
		}
		fmt.Fprintln(a.stderr, text)
		return nil
	}
	now := a.now()
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tSTATUS\tVERSION\tEXPIRES\tREFRESH\tLABEL\tERROR")
	for _, doc := range list.Accounts {
		fields := []string{
			doc.Platform + "." + doc.ID, string(doc.Status), fmt.Sprint(doc.Version),
			cmp.Or(until(doc.ExpiresAt, now), "unknown"), refreshColumn(doc, now), doc.Label, errorColumn(doc, now),
		}
		for i, f := range fields {
			fields[i] = cmp.Or(clean(f), "-")
		}
		fmt.Fprintln(w, strings.Join(fields, "\t"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if list.NextCursor != "" {
		fmt.Fprintf(a.stderr, "there are more than these %d; --all lists them\n", len(list.Accounts))
	}
	return nil
}

func refreshColumn(doc events.Account, now time.Time) string {
	switch {
	case doc.Rotation != nil && doc.Rotation.State == account.RotationInDoubt:
		return "in doubt"
	case doc.Rotation != nil:
		return "running"
	case !doc.HasRefreshToken:
		return "never"
	case doc.Status != account.Active:
		return ""
	case !doc.RefreshAt.IsZero() && !doc.RefreshAt.After(now):
		return "due"
	}
	return until(doc.RefreshAt, now)
}

func errorColumn(doc events.Account, now time.Time) string {
	s := ""
	if doc.LastError != nil {
		s = doc.LastError.Code
	}
	if doc.CooldownUntil.After(now) {
		s = strings.TrimSpace(s + " (again " + until(doc.CooldownUntil, now) + ")")
	}
	return s
}

func (a app) patchCommand(ctx context.Context, cmd *cli.Command) error {
	args, err := arguments(cmd, "account")
	if err != nil {
		return err
	}
	keys, err := parseKeys(args)
	if err != nil {
		return err
	}
	patch, err := readPatch(cmd)
	if err != nil {
		return err
	}
	c, asJSON, err := a.session(cmd, operator)
	if err != nil {
		return err
	}
	defer c.Close()
	return a.each(keys, asJSON, "changed", func(key account.Key) (doc events.Account, err error) {
		patch.Platform, patch.ID = key.Platform(), key.ID()
		err = c.admin(ctx, events.VerbPatch, patch, &doc)
		return doc, err
	})
}

// readPatch reads what is to change. An empty proxy is none.
func readPatch(cmd *cli.Command) (events.PatchRequest, error) {
	var p events.PatchRequest
	if cmd.IsSet("label") {
		p.Label = new(cmd.String("label"))
	}
	if u := cmd.String("proxy-url"); cmd.IsSet("proxy-url") {
		if err := account.CheckProxyURL(u); err != nil {
			return p, usagef("--proxy-url: %w", err)
		}
		p.ProxyURL = json.RawMessage("null")
		if u != "" {
			p.ProxyURL, _ = json.Marshal(u) // a string always marshals
		}
	}
	extra := account.Extra{}
	for _, pair := range cmd.StringSlice("set") {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return p, usagef("--set: want NAME=VALUE")
		}
		extra.SetText(name, value)
	}
	for _, name := range cmd.StringSlice("unset") {
		if _, ok := extra[name]; ok || name == "" {
			return p, usagef("--unset: want a name that --set doesn't set")
		}
		extra[name] = json.RawMessage("null")
	}
	if len(extra) > 0 {
		p.Extra = extra
	}
	if p.Label == nil && p.ProxyURL == nil && p.Extra == nil {
		return p, usagef("what is to change? give --label, --proxy-url, --set or --unset")
	}
	return p, nil
}
