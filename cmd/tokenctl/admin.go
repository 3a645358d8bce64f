package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// Patience with the workers. A refresh waits for its exchange, for up to a
// minute.
const (
	adminTimeout   = 15 * time.Second
	refreshTimeout = events.MaxTimeout + 5*time.Second
)

// admin asks for a verb to be carried out and decodes the answer into reply.
func (c *conn) admin(ctx context.Context, verb string, request, reply any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode %s: %w", verb, err) // a request of ours always marshals
	}
	timeout := adminTimeout
	if verb == events.VerbRefresh {
		timeout = refreshTimeout
	}
	data, err := c.ask(ctx, c.cfg.subjects.Admin(verb), body, timeout)
	if err != nil {
		return err
	}
	var failed struct {
		Error *events.Error `json:"error"`
	}
	if err := json.Unmarshal(data, &failed); err != nil {
		return fmt.Errorf("the worker's answer to %s makes no sense", verb)
	}
	if failed.Error != nil {
		return failed.Error
	}
	if err := json.Unmarshal(data, reply); err != nil {
		return fmt.Errorf("the worker's answer to %s makes no sense", verb)
	}
	return nil
}

// on asks for a verb on one account.
func (c *conn) on(ctx context.Context, verb string, key account.Key, force bool) (events.Account, error) {
	var a events.Account
	err := c.admin(ctx, verb, events.KeyRequest{Platform: key.Platform(), ID: key.ID(), Force: force}, &a)
	return a, err
}

// remedy adds to a worker's error what to do about it. It leaves out the
// account's key: whoever reports the error begins with that.
func remedy(err error, key account.Key) error {
	e, ok := errors.AsType[*events.Error](err)
	if !ok {
		return err
	}
	if bare, ok := err.(*events.Error); ok {
		plain := *bare
		plain.Message = strings.TrimPrefix(plain.Message, key.String()+": ")
		err = &plain
	}
	text := ""
	switch e.Code {
	case events.CodeNotFound:
		text = "see tokenctl accounts list"
	case events.CodeDisabled:
		text = fmt.Sprintf("tokenctl accounts enable %s ends that", key)
	case events.CodeReauthRequired:
		text = "log in again and import the new login file"
	case events.CodeCoolingDown, events.CodeUnavailable:
		text = "try again"
		if e.RetryAfter > 0 {
			text += " " + in(e.RetryAfter)
		}
	case events.CodeTimeout:
		text = "it goes on, and its result is kept: ask again"
	}
	if text == "" {
		return err
	}
	return fmt.Errorf("%w (%s)", err, text)
}

// parseKeys reads account keys from a command line.
func parseKeys(args []string) ([]account.Key, error) {
	keys := make([]account.Key, 0, len(args))
	var problems []error
	for _, arg := range args {
		key, err := account.ParseKey(arg)
		if err != nil {
			problems = append(problems, err)
		}
		keys = append(keys, key)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, &usageError{err}
	}
	return keys, nil
}
