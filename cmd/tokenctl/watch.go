package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/urfave/cli/v3"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// watchBuffer is how many events may wait to be written.
const watchBuffer = 1 << 16

func (a app) watchCommand(ctx context.Context, cmd *cli.Command) error {
	suffixes, err := watched(cmd.Args().Slice())
	if err != nil {
		return err
	}
	c, asJSON, err := a.session(cmd, operator)
	if err != nil {
		return err
	}
	defer c.Close()
	c.shows.Store(true)
	ch := make(chan *nats.Msg, watchBuffer)
	s := c.cfg.subjects
	for _, all := range []string{s.AllRefreshed(), s.AllBumps(), s.AllStatus()} {
		for _, suffix := range suffixes {
			if _, err := c.ChanSubscribe(strings.TrimSuffix(all, ">")+suffix, ch); err != nil {
				return fmt.Errorf("subscribe: %w", err)
			}
		}
	}
	if err := c.FlushTimeout(connectTimeout); err != nil && !c.IsReconnecting() {
		return fmt.Errorf("subscribe at %s: %w", c.cfg.where(), err)
	}
	if !asJSON {
		fmt.Fprintln(a.stderr, "watching; Ctrl-C ends it")
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.denied:
			return c.notPermitted()
		case m := <-ch:
			if err := a.writeEvent(s, m, asJSON); err != nil {
				return err
			}
		}
	}
}

// watched returns the ends of the subjects of the accounts and platforms that
// args name; all if they name none.
func watched(args []string) ([]string, error) {
	if len(args) == 0 {
		return []string{">"}, nil
	}
	var problems []error
	suffixes := make([]string, len(args))
	for i, arg := range args {
		var err error
		if suffixes[i] = arg; strings.Contains(arg, ".") {
			_, err = account.ParseKey(arg)
		} else if _, err = account.NewKey(arg, "x"); err == nil {
			suffixes[i] = arg + ".*"
		} else {
			err = fmt.Errorf("%q is neither an account's key nor a platform", arg)
		}
		if err != nil {
			problems = append(problems, err)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, &usageError{err}
	}
	return suffixes, nil
}

// writeEvent writes one event on one line. What can't be read is told and
// ends nothing.
func (a app) writeEvent(s events.Subjects, m *nats.Msg, asJSON bool) error {
	kind, at, text, err := a.describe(s, m)
	if err != nil {
		a.fail(err)
		return nil
	}
	if asJSON {
		fields := account.Extra{}
		_ = json.Unmarshal(m.Data, &fields) // describe has read it
		fields.SetText("event", kind)
		return writeJSON(a.stdout, map[string]json.RawMessage(fields))
	}
	_, err = fmt.Fprintf(a.stdout, "%s  %-9s  %s\n", a.local(at), kind, clean(text))
	return err
}

// describe says in words what an event says.
func (a app) describe(s events.Subjects, m *nats.Msg) (kind string, at time.Time, text string, err error) {
	is := func(all string) bool { return strings.HasPrefix(m.Subject, strings.TrimSuffix(all, ">")) }
	switch {
	case is(s.AllRefreshed()):
		e, err := events.DecodeRefreshed(m.Data)
		return "refreshed", e.At, fmt.Sprintf("%s: version %d, %s (%s, by %s)", e.Key, e.Version, expiry(e.ExpiresAt, a.now()), e.Reason, e.By), err
	case is(s.AllBumps()):
		e, err := events.DecodeBump(m.Data)
		return "bump", e.At, fmt.Sprintf("%s: version %d, rev %d", e.Key, e.Version, e.Rev), err
	}
	e, err := events.DecodeStatus(m.Data)
	text = fmt.Sprintf("%s: %s, %s: %s", e.Key, e.Status, e.Code, e.Message)
	if !e.Until.IsZero() {
		text += ", until " + a.local(e.Until)
	}
	return "status", e.At, text, err
}
