//go:build linux

package crash_test

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// Wall clocks that are minutes apart neither hasten a takeover nor prevent it:
// only the silence of the heartbeat counts.
func TestClocksApart(t *testing.T) {
	for _, tc := range []struct{ killed, survivor time.Duration }{
		{0, 90 * time.Second},
		{0, -90 * time.Second},
		{90 * time.Second, -90 * time.Second},
	} {
		t.Run(fmt.Sprintf("killed %s, survivor %s", tc.killed, tc.survivor), func(t *testing.T) {
			t.Parallel()
			fl, alice := fleetWithAlice(t, config{}, strict, 80*time.Second) // within the refresh skew by every clock
			first := fl.workers[0].start(t, "TOKENBUS_CLOCK_OFFSET="+tc.killed.String())
			first.serves(t)
			_, release := fl.held(alice)
			defer close(release)
			second := fl.workers[1].start(t, "TOKENBUS_CLOCK_OFFSET="+tc.survivor.String())
			second.serves(t)
			first.kill()
			fl.ask(alice.key)
			eventually(t, 30*time.Second, func() error {
				fl.ask(alice.key)
				if n := len(fl.front.of(alice.key.String())); n < 2 {
					return fmt.Errorf("%d token requests; nobody takes over\n%s", n, fl.story(alice.key.String()))
				}
				return nil
			})
			sent := fl.front.of(alice.key.String())
			if silence := sent[1].at.Sub(sent[0].at); silence < leaseTTL+patience {
				t.Errorf("taken over %s after the first request, want %s at least\n%s", silence, leaseTTL+patience, fl.story(alice.key.String()))
			}
		})
	}
}

// A worker is frozen while it waits; the answer comes meanwhile, and the
// patience with the exchange ends. What is in its socket when it wakes counts.
func TestP2AnswerThatCameToAFrozenWorkerIsSaved(t *testing.T) {
	fl, alice := fleetWithAlice(t, config{}, strict, living)
	w := fl.workers[0].start(t)
	w.serves(t)
	late, release := fl.held(alice)
	w.signal(t, syscall.SIGSTOP)
	close(release)
	<-time.After(patience + 500*time.Millisecond)
	w.signal(t, syscall.SIGCONT)
	<-late.done
	eventually(t, 20*time.Second, func() error {
		a, err := fl.account(alice.key)
		switch {
		case err != nil:
			return err
		case a.Status != account.Active || a.Failures > 0:
			t.Fatalf("status %s, error %+v\n%s", a.Status, a.LastError, fl.story(alice.key.String()))
		case a.Version != 2:
			return fmt.Errorf("version %d, want 2\n%s", a.Version, fl.story(alice.key.String()))
		}
		return nil
	})
	if sent := fl.front.of(alice.key.String()); len(sent) != 1 || sent[0].fate != received {
		t.Errorf("%d token requests, want one that was read\n%s", len(sent), fl.story(alice.key.String()))
	}
}

// A worker is frozen while it waits, and another takes over. The answer that
// it finds when it wakes is history: nothing newer is overwritten.
func TestFrozenWorkerThatWakesTooLateOverwritesNothing(t *testing.T) {
	fl, alice := fleetWithAlice(t, config{}, grace, living)
	w := fl.workers[0].start(t)
	w.serves(t)
	late, release := fl.held(alice)
	w.signal(t, syscall.SIGSTOP)
	second := fl.workers[1].start(t)
	second.serves(t)
	eventually(t, 30*time.Second, func() error {
		fl.ask(alice.key)
		if a, err := fl.account(alice.key); err != nil || a.Version < 2 {
			return errors.Join(err, fmt.Errorf("version %d, want 2", a.Version))
		}
		return nil
	})
	close(release)
	w.signal(t, syscall.SIGCONT)
	<-late.done
	eventually(t, 20*time.Second, func() error {
		if !w.says("exchange", alice.key.String()) {
			return fmt.Errorf("the woken worker says nothing of its exchange\n%s", w.text())
		}
		return nil
	})
	a, err := fl.account(alice.key)
	if err != nil || a.Version != 2 || a.Status != account.Active {
		t.Errorf("version %d, status %s, %v; want the version of the one that took over\n%s", a.Version, a.Status, err, fl.story(alice.key.String()))
	}
	if n := len(fl.front.of(alice.key.String())); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

// living is what a token has left that serves and is within its refresh skew.
const living = 2 * time.Minute

// fleetWithAlice returns two workers that don't run, and an account whose token
// has so much left. It is idle, its login announced by a worker that has gone,
// and nothing but requests makes anybody refresh it.
func fleetWithAlice(t *testing.T, cfg config, platform string, left time.Duration) (*fleet, *login) {
	t.Helper()
	cfg.workers, cfg.ttl = 2, time.Hour
	fl := newFleet(t, cfg)
	for _, w := range fl.workers {
		w.args = append(w.args, "--refresh-ahead", "off")
	}
	second := fl.workers[1].start(t)
	second.serves(t)
	alice := fl.login(platform, "alice", left)
	second.signal(t, syscall.SIGTERM)
	<-second.ended
	return fl, alice
}

// held makes the account's rotation begin, and its answer wait for release.
func (fl *fleet) held(l *login) (o *order, release chan struct{}) {
	fl.t.Helper()
	release = make(chan struct{})
	o = newOrder(hold, "", "")
	o.release = release
	fl.front.arm(o)
	eventually(fl.t, 20*time.Second, func() error {
		fl.ask(l.key)
		select {
		case <-o.taken:
			return nil
		default:
			return errors.New("no exchange begins")
		}
	})
	return o, release
}
