//go:build linux

package crash_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// settleWithin is how long the fleet may take to be well again.
const settleWithin = 90 * time.Second

// loss is an account that is lost, and what excuses it.
type loss struct {
	key    account.Key
	code   string // that its status names
	excuse string // "": none
}

// settle waits until every account either goes on rotating, with the newest
// token of its endpoint in the store, or is marked as lost. It returns those.
func (r *run) settle() []loss {
	r.t.Helper()
	base := map[account.Key]account.Version{}
	var losses []loss
	late := time.Now().Add(settleWithin)
	open := slices.Clone(r.fl.accounts)
	for len(open) > 0 {
		var reasons []string
		open = slices.DeleteFunc(open, func(l *login) bool {
			a, err := r.fl.account(l.key)
			switch {
			case err != nil:
			case a.Status == account.ReauthRequired && a.LastError != nil:
				losses = append(losses, loss{l.key, a.LastError.Code, r.excuse(l)})
				return true
			case base[l.key] == 0:
				base[l.key] = a.Version
				fallthrough
			case a.Version <= base[l.key]:
				err = fmt.Errorf("is still at version %d, status %s, rotation %+v, error %+v", a.Version, a.Status, a.Rotation, a.LastError)
			default:
				err = r.well(l)
			}
			if err != nil {
				reasons = append(reasons, fmt.Sprintf("%s: %v", l.key, err))
			}
			return err == nil
		})
		if time.Now().After(late) {
			for _, l := range open {
				r.t.Logf("story of %s:\n%s", l.key, r.fl.story(l.key.String()))
			}
			r.t.Errorf("not well %s after the last fault:\n%s", settleWithin, strings.Join(reasons, "\n"))
			return losses
		}
		if len(open) > 0 {
			r.pause(50*time.Millisecond, 100*time.Millisecond)
		}
	}
	return losses
}

// well reports whether the token that is served is the newest one that the
// endpoint has granted.
func (r *run) well(l *login) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), askWait)
	defer cancel()
	token, err := r.fl.asker.Token(ctx, l.key)
	if err != nil {
		return err
	}
	newest := ""
	for _, x := range r.fl.front.of(l.key.String()) {
		if x.granted {
			newest = x.access
		}
	}
	if token.AccessToken() != newest {
		return fmt.Errorf("version %d is not the newest token that the endpoint has granted", token.Version)
	}
	if !r.fl.accepted(l, newest) {
		return fmt.Errorf("the endpoint refuses the token of version %d", token.Version)
	}
	return nil
}

// excuse returns why an account may be lost: an answer that is known to have
// reached no process, at an endpoint without grace.
func (r *run) excuse(l *login) string {
	if l.key.Platform() == grace {
		return ""
	}
	for _, x := range r.fl.front.of(l.key.String()) {
		if !x.granted {
			continue
		}
		if x.fate != received {
			return string(x.fate)
		}
		if kept, why := r.kept(x); !kept {
			return why
		}
	}
	return ""
}

// kept reports whether the answer got as far as the spool, by what the process
// has said, or by what lay in its spool when it died. If not, why tells.
func (r *run) kept(x exchange) (ok bool, why string) {
	p := x.process
	logged := slices.ContainsFunc(p.said(), func(l line) bool {
		return l.msg == "exchange" && l.account == x.account && l.at.After(x.at)
	})
	if logged {
		return true, ""
	}
	if p.alive() {
		return true, "" // at work on it
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case slices.Contains(p.spooled, x.account):
		return true, ""
	case p.killed.IsZero() || x.finished.Before(p.died.Add(-2*time.Second)):
		return true, "" // it had time enough: nothing excuses that it is gone
	}
	return false, "killed between reading and spooling"
}

// checkLosses: what is lost is excused and named.
func (r *run) checkLosses(losses []loss) {
	r.t.Helper()
	var reply events.ListReply
	eventually(r.t, 20*time.Second, func() error {
		return r.fl.admin(events.VerbList, events.ListRequest{Status: account.ReauthRequired, Limit: 1000}, &reply)
	})
	if len(reply.Accounts) != len(losses) {
		r.t.Errorf("accounts.list names %d lost accounts, want %d", len(reply.Accounts), len(losses))
	}
	for _, lost := range losses {
		if lost.excuse == "" || lost.code != events.StatusRotationLost {
			r.t.Errorf("%s is lost with code %s; excuse: %q\n%s", lost.key, lost.code, lost.excuse, r.fl.story(lost.key.String()))
		}
	}
	r.load.mu.Lock()
	defer r.load.mu.Unlock()
	for key := range r.load.denied {
		if !slices.ContainsFunc(losses, func(l loss) bool { return l.key == key }) {
			r.t.Errorf("P9: an asker for %s was told that a person must log in, and the account is well\n%s", key, r.fl.story(key.String()))
		}
	}
}

// checkSends: a refresh token comes a second time only where the first can't
// be answered any more. It returns how often that was the case.
func (r *run) checkSends() (again int) {
	r.t.Helper()
	sends := map[string][]exchange{}
	for _, x := range r.fl.front.snapshot() {
		sends[x.refresh] = append(sends[x.refresh], x)
	}
	for _, all := range sends {
		for i := range all[1:] {
			again++
			if why := r.mayRepeat(all[i], all[i+1]); why != "" {
				r.t.Errorf("P1: %s: a refresh token is sent again at %s, %s\n%s", all[i].account, all[i+1].at.Format(clock), why, r.fl.story(all[i].account))
			}
		}
	}
	return again
}

// slack is by how much the last heartbeat may be older than the request.
const slack = time.Second

// mayRepeat returns what forbids to send a refresh token again; "" for nothing.
func (r *run) mayRepeat(first, second exchange) string {
	apart := second.at.Sub(first.at)
	if strings.HasPrefix(second.account, grace+".") && apart > leaseTTL-slack/4 {
		return "" // whatever became of the first, if its worker was silent
	}
	if first.fate == pending || first.fate != unread && second.at.Before(first.finished) {
		return "while the first is under way"
	}
	if first.fate == received {
		if kept, _ := r.kept(first); kept {
			return "though the first was answered"
		}
	}
	p := first.process
	p.mu.Lock()
	defer p.mu.Unlock()
	// A worker that lives says itself that no answer comes; of one that is dead
	// its silence has to tell.
	if died := !p.died.IsZero() && p.died.Before(second.at); died && first.order == nil && apart < leaseTTL+patience-slack {
		return fmt.Sprintf("%s after the first, by a worker that can't know that the other is dead", apart)
	}
	return ""
}

// checkProcesses: none ended by itself, none has a race.
func (r *run) checkProcesses() {
	r.t.Helper()
	for _, w := range r.fl.workers {
		for _, p := range w.all() {
			p.mu.Lock()
			raced, ended := p.races, !p.died.IsZero() && p.killed.IsZero()
			p.mu.Unlock()
			if raced || ended {
				r.t.Errorf("%s: data race %v, ended by itself %v\n%s", p.id, raced, ended, p.text())
			}
		}
	}
}

// checkEvents: no status event blames somebody who is not to blame.
func (r *run) checkEvents(heard []events.Status, losses []loss) {
	r.t.Helper()
	for _, e := range heard {
		lost := slices.ContainsFunc(losses, func(l loss) bool { return l.key == e.Key })
		switch e.Code {
		case events.StatusRotationLost:
			if !lost {
				r.t.Errorf("P9: %s was said to be lost, and is well\n%s", e.Key, r.fl.story(e.Key.String()))
			}
		case events.StatusInDoubt, events.StatusCoolingDown, events.StatusRecovered:
		default:
			r.t.Errorf("P9: status event of %s with code %s: %s\n%s", e.Key, e.Code, e.Message, r.fl.story(e.Key.String()))
		}
	}
}
