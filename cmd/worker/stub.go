package main

import (
	"context"
	"errors"

	"github.com/urfave/cli/v3"
)

var errMissing = errors.New("this part is not in place yet")

func (a app) runCommand(_ context.Context, cmd *cli.Command) error {
	if _, err := a.config(cmd); err != nil {
		return err
	}
	return errMissing
}

func (a app) demoCommand(_ context.Context, cmd *cli.Command) error {
	for _, o := range runOptions() {
		if cmd.IsSet(o.name) {
			return usagef("worker demo takes no --%s; see worker demo --help", o.name)
		}
	}
	return errMissing
}

func (a app) resealCommand(_ context.Context, cmd *cli.Command) error {
	if _, err := a.config(cmd); err != nil {
		return err
	}
	return errMissing
}
