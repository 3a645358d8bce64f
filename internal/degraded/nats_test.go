//go:build unix

package degraded_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tokenbus/tokenbus/account"
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
			hot: hot, asks: fl.keeper(),
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

// keeper asks over NATS as a gateway does that keeps the last reply until its
// token ends, and takes that where nobody answers.
func (fl *fleet) keeper() asker {
	var mu sync.Mutex // guards kept
	kept := map[account.Key]events.TokenReply{}
	return func(key account.Key) error {
		reply, err := fl.ask(fl.cutOff, key, events.TokenRequest{}, soon)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			kept[key] = reply
		}
		last := kept[key]
		if err == nil || !unheard(err) || last.AccessToken.IsZero() {
			return err
		}
		if !fl.endpoints[key.Platform()].Valid(last.AccessToken.Reveal()) || !time.Now().Before(last.ExpiresAt) {
			return fmt.Errorf("the token of %s in hand is dead: %w", key, err)
		}
		return nil
	}
}
