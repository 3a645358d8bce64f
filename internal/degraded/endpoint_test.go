//go:build unix

package degraded_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// The token endpoint: living tokens are served, also within the refresh skew;
// refreshes back off, each account by itself and all together.
func TestP7DegradedEndpoint(t *testing.T) {
	row(t, func(t *testing.T, f failure) {
		patience, platform := time.Minute, strict
		switch f {
		case blackHole:
			patience = 3 * time.Second
		case flapping: // which cuts answers off: no strict endpoint's account survives that
			platform = lenient
		}
		fl := newFleet(t, config{workers: 2, patience: patience})
		hot, cold := fl.inHand(platform), fl.puts(5, platform, "cold", living)
		cold = append(cold, fl.puts(5, platform, "ending", ending)...)
		due := fl.puts(12, platform, "due", 0)
		fl.play(scene{
			begin: func() { f.breaks(t, fl.token) }, end: func() { fl.token.Heal(t) },
			hot: hot, rested: fl.puts(4, platform, "rested", uncached),
			refresh: cell{
				during: func() error { return fl.backsOff(f, due) },
				after: func() error {
					start := time.Now()
					err := each(due, func(key account.Key) error { return fl.comes(key, 2, 2*healed) })
					t.Logf("all accounts are refreshed %s after the end", time.Since(start).Round(time.Millisecond))
					if n := fl.endpoints[platform].Reused(); n != 0 {
						err = errors.Join(err, fmt.Errorf("%d refresh tokens were reused", n))
					}
					if platform == strict {
						err = errors.Join(err, fl.sentOnce(due...))
					}
					return err
				},
			},
			fresh: cell{
				during: func() error {
					return inTurn(cold, func(key account.Key) error {
						start := time.Now()
						err := fl.get(key, 1)
						if took := time.Since(start); took > soon {
							err = errors.Join(err, fmt.Errorf("%s was answered after %s", key, took))
						}
						return err
					})
				},
				after: func() error { return each(cold, func(key account.Key) error { return fl.get(key, 1) }) },
			},
		})
	})
}

// backsOff asks for accounts that have to be refreshed first.
func (fl *fleet) backsOff(f failure, due []account.Key) error {
	if f == slow {
		return inTurn(due, func(key account.Key) error { return fl.get(key, 2) })
	}
	if f == flapping {
		return inTurn(due, func(key account.Key) error {
			if err := fl.get(key, 2); err != nil {
				return refusal(err, events.CodeCoolingDown, events.CodeUnavailable)
			}
			return nil
		})
	}
	err := each(due, func(key account.Key) error {
		err := fl.get(key, 2)
		if e, ok := errors.AsType[*events.Error](err); ok && e.Code == events.CodeCoolingDown && e.RetryAfter < time.Second/2 {
			return fmt.Errorf("the back-off of %s is %s", key, e.RetryAfter)
		}
		return refusal(err, events.CodeCoolingDown, events.CodeUnavailable)
	})
	return errors.Join(err, fl.circuitOpens(due))
}

// circuitOpens asks until both the account's own back-off and the endpoint's
// circuit have answered.
func (fl *fleet) circuitOpens(due []account.Key) error {
	cooling, open := false, false
	return await(fl.t.Context(), healed, func() error {
		for _, key := range due {
			err := fl.get(key, 2)
			if e, ok := errors.AsType[*events.Error](err); ok {
				cooling = cooling || e.Code == events.CodeCoolingDown
				open = open || e.Code == events.CodeUnavailable && strings.Contains(e.Message, "endpoint fails for everybody")
			}
		}
		if !cooling || !open {
			return fmt.Errorf("an account cools down: %t; the circuit is open: %t", cooling, open)
		}
		return nil
	})
}
