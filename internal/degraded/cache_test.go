//go:build unix

package degraded_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// Redis, with the shared cache and the leases: what is in hand is served from
// L1 and the store, refreshes go on behind the rotation's record alone.
func TestP7DegradedCache(t *testing.T) {
	row(t, func(t *testing.T, f failure) {
		fl := newFleet(t, config{workers: 2, patience: time.Minute})
		hot, cold := fl.inHand(strict), fl.puts(10, strict, "cold", living)
		due := fl.puts(8, strict, "due", 0)
		fl.play(scene{
			begin: func() { f.breaks(t, fl.cache) }, end: func() { fl.cache.Heal(t) }, unready: []string{"cache"},
			hot: hot, rested: fl.puts(4, strict, "rested", uncached),
			refresh: cell{
				during: func() error { return inTurn(due, func(key account.Key) error { return fl.crowd(key, 2) }) },
				after: func() error {
					err := fl.sentOnce(due...)
					if n := fl.endpoints[strict].Stats().Requests; n != len(due) {
						err = errors.Join(err, fmt.Errorf("%d token requests for %d accounts", n, len(due)))
					}
					return err
				},
			},
			fresh: cell{
				during: func() error {
					return inTurn(cold, func(key account.Key) error {
						reply, err := fl.ask(fl.gateway, key, events.TokenRequest{}, answered)
						if err == nil && reply.Source != events.SourceStore {
							err = fmt.Errorf("%s came from %s", key, reply.Source)
						}
						return err
					})
				},
				after: func() error {
					return each(fl.puts(2, strict, "late", living), func(key account.Key) error { return fl.get(key, 1) })
				},
			},
		})
	})
}

// inTurn calls f for one account after the other, spread over the outage,
// whether it has returned for the last one or not.
func inTurn(keys []account.Key, f func(account.Key) error) error {
	turns := make(chan account.Key)
	go func() {
		defer close(turns)
		tick := time.NewTicker(outage / time.Duration(len(keys)))
		defer tick.Stop()
		for _, key := range keys {
			turns <- key
			<-tick.C
		}
	}()
	return each(keys, func(account.Key) error { return f(<-turns) })
}

// crowd has several gateways ask at once for a token of this version.
func (fl *fleet) crowd(key account.Key, version account.Version) error {
	const gateways = 4
	errs := make([]error, gateways)
	var fs []func()
	for i := range errs {
		fs = append(fs, func() { errs[i] = fl.get(key, version) })
	}
	together(fs...)
	return errors.Join(errs...)
}
