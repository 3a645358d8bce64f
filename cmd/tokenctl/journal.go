package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v3"

	"github.com/tokenbus/tokenbus/events"
)

func (a app) journalCommand(ctx context.Context, cmd *cli.Command) error {
	if cmd.NArg() > 0 {
		return usagef("tokenctl journal takes no argument, and got %q; see tokenctl journal --help", cmd.Args().First())
	}
	c, asJSON, err := a.session(cmd, operator)
	if err != nil {
		return err
	}
	defer c.Close()
	var reply events.JournalReply
	if err := c.admin(ctx, events.VerbJournal, events.JournalRequest{}, &reply); err != nil {
		return err
	}
	if asJSON {
		return writeJSON(a.stdout, reply)
	}
	return a.journalTable(reply)
}

// journalTable writes records one a line, and below the table what it means.
func (a app) journalTable(reply events.JournalReply) error {
	spool := "the spool of worker " + clean(reply.Worker)
	if len(reply.Records) == 0 {
		fmt.Fprintf(a.stderr, "nothing waits in the shared journal and in %s\n", spool)
		return nil
	}
	now := a.now()
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tFROM\tSENT\tWHERE\tWORKER\tHOST\tPROBLEM")
	unreadable := 0
	for _, r := range reply.Records {
		if !r.Readable {
			unreadable++
		}
		key, from := "", ""
		if r.ID != "" {
			key = r.Platform + "." + r.ID
		}
		if r.FromVersion != 0 {
			from = fmt.Sprint(r.FromVersion)
		}
		fields := []string{key, from, until(r.At, now), string(r.Where), r.Worker, r.Host, r.Problem}
		for i, f := range fields {
			fields[i] = cmp.Or(clean(f), "-")
		}
		fmt.Fprintln(w, strings.Join(fields, "\t"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if reply.More > 0 {
		fmt.Fprintf(a.stderr, "there are %d more than these\n", reply.More)
	}
	fmt.Fprintf(a.stderr, "spool is that of worker %s\n", clean(reply.Worker))
	if unreadable > 0 {
		fmt.Fprintf(a.stderr, "%s can't be read, which may hold up accounts; see tokenctl journal --help\n", plural(unreadable, "entry", "entries"))
	}
	return nil
}
