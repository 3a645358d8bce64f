package main

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/tokenbus/tokenbus/events"
)

func (a app) tokenCommand(ctx context.Context, cmd *cli.Command) error {
	args, err := arguments(cmd, "account")
	if err != nil {
		return err
	}
	if len(args) > 1 {
		return usagef("token takes one account, and got %d", len(args))
	}
	keys, err := parseKeys(args)
	if err != nil {
		return err
	}
	req := events.TokenRequest{MinTTL: cmd.Duration("min-ttl"), Timeout: cmd.Duration("timeout")}
	switch {
	case req.MinTTL < 0:
		return usagef("--min-ttl: must not be negative")
	case req.MinTTL == 0 && cmd.IsSet("min-ttl"): // any token that lives; 0 in the request is the worker's default
		req.MinTTL = time.Nanosecond
	}
	if req.Timeout <= 0 || req.Timeout > events.MaxTimeout {
		return usagef("--timeout: want a time up to %s", brief(events.MaxTimeout))
	}
	c, asJSON, err := a.session(cmd, client)
	if err != nil {
		return err
	}
	defer c.Close()
	key := keys[0]
	// A little more patience than the worker is told: its answer says more.
	data, err := c.ask(ctx, c.cfg.subjects.Request(key), req.Encode(), req.Timeout+connectTimeout)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	reply, err := events.DecodeTokenReply(key, data)
	if err != nil {
		return fmt.Errorf("%s: %w", key, remedy(err, key))
	}
	if asJSON {
		_, err = fmt.Fprintf(a.stdout, "%s\n", reply.Encode())
	} else {
		_, err = fmt.Fprintln(a.stdout, reply.AccessToken.Reveal())
	}
	return err
}
