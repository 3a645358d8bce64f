//go:build unix

package degraded_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// MongoDB: what is in hand is served from L1 and the shared cache. Nothing is
// sent that could not be saved; what was answered already waits in the journal.
func TestP7DegradedStore(t *testing.T) {
	row(t, func(t *testing.T, f failure) {
		fl := newFleet(t, config{workers: 2, patience: time.Minute})
		hot, cold := fl.inHand(strict), fl.puts(10, strict, "cold", living)
		due, answered := fl.puts(6, strict, "due", 0), fl.put(heldStrict, "answered", 0)
		fl.begun(answered)
		fl.play(scene{
			begin: func() { f.breaks(t, fl.store) }, end: func() { fl.store.Heal(t) }, unready: []string{"store"},
			hot: hot, rested: fl.puts(4, strict, "rested", uncached),
			refresh: cell{
				during: func() error {
					fl.release()
					err := inTurn(due, func(key account.Key) error { return fl.without(f, key, 2) })
					if !f.dead() {
						return err
					}
					for _, key := range due {
						if n := fl.sent(key); n != 0 {
							err = errors.Join(err, fmt.Errorf("the refresh token of %s was sent %d times", key, n))
						}
					}
					return errors.Join(err, fl.logged("answer has to wait in the journal"))
				},
				after: func() error {
					all := append(due, answered)
					err := each(all, func(key account.Key) error { return fl.comes(key, 2, healed) })
					return errors.Join(err, fl.sentOnce(all...), fl.spoolsEmpty())
				},
			},
			fresh: cell{
				during: func() error { return inTurn(cold, func(key account.Key) error { return fl.without(f, key, 1) }) },
				after: func() error {
					start := time.Now()
					err := each(cold, func(key account.Key) error { return fl.comes(key, 1, healed) })
					t.Logf("new accounts are found %s after the end", time.Since(start).Round(time.Millisecond))
					return err
				},
			},
		})
	})
}

// begun asks for the account and waits until its refresh token is spent at the
// endpoint, which holds the answer.
func (fl *fleet) begun(key account.Key) {
	fl.t.Helper()
	fl.spend(key, events.TokenRequest{})
	err := await(fl.t.Context(), healed, func() error {
		if fl.sent(key) == 0 {
			return fmt.Errorf("no exchange for %s", key)
		}
		return nil
	})
	if err != nil {
		fl.t.Fatal(err)
	}
}

// spend sends a token request and waits for no reply.
func (fl *fleet) spend(key account.Key, req events.TokenRequest) {
	fl.t.Helper()
	err := fl.gateway.PublishRequest(fl.subjects.Request(key), fl.gateway.NewRespInbox(), req.Encode())
	if err == nil {
		err = fl.gateway.Flush()
	}
	if err != nil {
		fl.t.Fatal(err)
	}
}

// without asks for something that needs the store: one that is dead makes it
// unavailable; one that works now and then may give it.
func (fl *fleet) without(f failure, key account.Key, version account.Version) error {
	err := fl.get(key, version)
	if err == nil && !f.dead() {
		return nil
	}
	if f.dead() {
		return refusal(err, events.CodeUnavailable)
	}
	if e, ok := errors.AsType[*events.Error](err); ok && e.Code == events.CodeTimeout {
		return nil
	}
	return refusal(err, events.CodeUnavailable)
}

// logged waits until a worker has logged the message.
func (fl *fleet) logged(msg string) error {
	return await(fl.t.Context(), healed, func() error {
		for _, w := range fl.workers {
			if w.process().Logged(msg) != nil {
				return nil
			}
		}
		return fmt.Errorf("nobody has logged %q", msg)
	})
}

// spoolsEmpty waits until no answer is left on a disk.
func (fl *fleet) spoolsEmpty() error {
	return await(fl.t.Context(), healed, func() error {
		left, err := filepath.Glob(filepath.Join(fl.dir, "w*", "spool", "*.json"))
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("spools still hold %v", left)
		}
		return err
	})
}
