//go:build unix

package degraded_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/bus"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/events"
)

// NATS: a rotation that runs comes to its end and is committed, and announced
// afterwards; who asks hears that nobody answers, or nothing.
func TestP7DegradedNATS(t *testing.T) {
	row(t, func(t *testing.T, f failure) {
		fl := newFleet(t, config{workers: 2, patience: time.Minute})
		hot, cold := fl.inHand(strict), fl.puts(6, strict, "cold", living)
		running := fl.put(heldStrict, "running", 0)
		fl.begun(running)
		fl.play(scene{
			begin: func() { f.breaks(t, fl.nats) }, end: func() { fl.nats.Heal(t) }, unready: []string{"nats", "jetstream"},
			hot: hot, rested: fl.puts(4, strict, "rested", uncached), asks: fl.library(),
			refresh: cell{
				during: func() error {
					fl.release()
					return fl.committed(running, 2)
				},
				after: func() error { return errors.Join(fl.comes(running, 2, healed), fl.sentOnce(running)) },
			},
			fresh: cell{
				during: func() error {
					return inTurn(cold, func(key account.Key) error {
						return errors.Join(fl.unreached(f, fl.gateway, key), fl.unreached(f, fl.cutOff, key))
					})
				},
				after: func() error { return each(cold, func(key account.Key) error { return fl.comes(key, 1, healed) }) },
			},
		})
	})
}

// unreached asks over NATS while workers, and perhaps the asker, are cut off.
func (fl *fleet) unreached(f failure, conn *nats.Conn, key account.Key) error {
	_, err := fl.ask(conn, key, events.TokenRequest{}, outage)
	switch {
	case err == nil && !f.dead(), err != nil && unheard(err):
		return nil
	case err == nil:
		return fmt.Errorf("%s was answered", key)
	}
	return err
}

// committed waits until the store has the version.
func (fl *fleet) committed(key account.Key, version account.Version) error {
	return await(fl.t.Context(), healed, func() error {
		a, err := fl.documents.Get(context.WithoutCancel(fl.t.Context()), key)
		if err == nil && (a.Version != version || a.Rotation != nil) {
			err = fmt.Errorf("%s is at version %d in the store, rotation %+v", key, a.Version, a.Rotation)
		}
		return err
	})
}

// library asks with the client library, over the link as the workers are: with
// NATS away it serves from its memory.
func (fl *fleet) library() asker {
	fl.t.Helper()
	c, err := client.New(client.Config{URL: fl.natsURL, NKey: fl.server.KeyFile(bus.RoleClient), Name: fl.t.Name(), MaxAge: l1MaxAge})
	if err != nil {
		fl.t.Fatal(err)
	}
	fl.t.Cleanup(func() { _ = c.Close() })
	return func(key account.Key) error {
		start := time.Now()
		token, err := c.Token(fl.t.Context(), key)
		if took := time.Since(start); took > stall {
			err = errors.Join(err, fmt.Errorf("%s waited for something: %s", key, took))
		}
		if err == nil && !fl.endpoints[key.Platform()].Valid(token.AccessToken()) {
			err = fmt.Errorf("the endpoint does not take the token of %s", key)
		}
		return err
	}
}
