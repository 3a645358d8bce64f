package explore

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/internal/memory"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/rotation"
	"github.com/tokenbus/tokenbus/seal"
)

// scenario is a small fleet with a small workload.
type scenario struct {
	name    string
	workers int
	left    time.Duration // of the access token at the start
	grace   bool          // the endpoint takes a spent refresh token again
	ends    bool          // the endpoint ends the old access token at once (serve_while_refreshing: false)
	backups bool          // the store may go back to before the account, to version 1, and to version 2, with which it begins
	load    func(s *sim)
}

var scenarios = []*scenario{
	{name: "expired", workers: 2, left: -time.Second, load: func(s *sim) {
		for _, w := range s.workers {
			s.ask(w, 1)
		}
	}},
	{name: "skew", workers: 2, left: time.Minute, load: func(s *sim) {
		for _, w := range s.workers {
			s.ask(w, 2)
		}
	}},
	{name: "rejected", workers: 2, left: 8 * time.Minute, load: func(s *sim) {
		for _, w := range s.workers {
			s.task("report of 401 to "+w.name, func(ctx context.Context) { s.token(ctx, w, events.TokenRequest{RejectedVersion: 1}, 1) })
		}
	}},
	{name: "login", workers: 2, left: time.Minute, load: func(s *sim) {
		s.ask(s.workers[0], 1)
		s.task("login at "+s.workers[1].name, func(ctx context.Context) { s.login(ctx, s.workers[1], tokenTTL) })
	}},
	{name: "patch", workers: 2, left: -time.Second, load: func(s *sim) {
		s.ask(s.workers[0], 1)
		s.task("patch at "+s.workers[1].name, func(ctx context.Context) {
			_, _ = s.workers[1].p.Patch(ctx, events.PatchRequest{Platform: "demo", ID: "a", Extra: map[string]json.RawMessage{"project_id": json.RawMessage(`"p2"`)}})
		})
	}},
	{name: "grace", workers: 2, left: -time.Second, grace: true, load: func(s *sim) {
		for _, w := range s.workers {
			s.ask(w, 1)
		}
	}},
	{name: "three", workers: 3, left: -time.Second, load: func(s *sim) {
		for _, w := range s.workers {
			s.ask(w, 1)
		}
	}},
	{name: "twice", workers: 2, left: -time.Second, load: func(s *sim) {
		for _, w := range s.workers {
			s.task("two rotations through "+w.name, func(ctx context.Context) {
				seen := s.token(ctx, w, events.TokenRequest{}, 0)
				select {
				case <-w.After(tokenTTL + clocksApart + time.Minute):
				case <-ctx.Done():
					return
				}
				s.token(ctx, w, events.TokenRequest{MinVersion: seen}, seen)
			})
		}
	}},
	{name: "stubborn", workers: 2, left: -time.Second, load: func(s *sim) {
		for _, w := range s.workers {
			s.askAgain(w, 4)
		}
	}},
	{name: "crowd", workers: 2, left: -time.Second, load: func(s *sim) {
		for _, w := range s.workers {
			s.ask(w, 1)
			s.ask(w, 1)
		}
	}},
	{name: "ends", workers: 2, left: time.Minute, ends: true, load: func(s *sim) {
		for _, w := range s.workers {
			s.ask(w, 1)
			s.askLater(w)
		}
	}},
	{name: "delete", workers: 2, left: -time.Second, load: func(s *sim) {
		s.ask(s.workers[0], 1)
		s.task("delete and put again at "+s.workers[1].name, func(ctx context.Context) { s.deleteAndPut(ctx, s.workers[1]) })
	}},
	{name: "backup", workers: 2, left: -time.Second, backups: true, load: func(s *sim) {
		for _, w := range s.workers {
			s.ask(w, 1)
		}
	}},
}

// skews are how far the workers' wall clocks are off.
var skews = []time.Duration{0, 90 * time.Second, -90 * time.Second, 45 * time.Second}

// clocksApart is the largest difference between two of them: by so much an
// expiry may be misjudged.
const clocksApart = 180 * time.Second

var sealer = func() *seal.Sealer {
	s, err := seal.New()
	if err != nil {
		panic(err)
	}
	return s
}()

func newSim(sc *scenario) *sim {
	s := &sim{scenario: sc, sealer: sealer, ctx: context.Background()}
	s.check = newCheck(s)
	cfg := oauthtest.Config{TTL: tokenTTL, Deterministic: true, Now: func() time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		return time.Unix(epoch, 0).Add(s.now)
	}}
	def := oauth.Definition{
		TokenURL: "http://127.0.0.1/token", ClientID: "c", Auth: oauth.AuthNone, Encoding: oauth.EncodingForm, Timeout: patience,
		DeadGrantErrors: []string{"invalid_grant"}, MaxConcurrent: 8, ServeWhileRefreshing: !sc.ends, ExtraFields: []string{"project_id"},
	}
	if sc.grace {
		cfg.ReuseGrace, def.ReuseGrace = time.Hour, time.Hour
	}
	var err error
	if s.endpoint, err = oauthtest.New(cfg); err != nil {
		panic(err)
	}
	if s.client, err = oauth.New(oauth.Config{Definitions: oauth.Definitions{"demo": def}}); err != nil {
		panic(err)
	}
	for range sc.workers {
		s.start(nil)
	}
	return s
}

// start adds a worker, with the spool of a dead one on whose host it runs.
func (s *sim) start(spool *memory.Journal) *worker {
	if spool == nil {
		spool = &memory.Journal{}
	}
	w := &worker{s: s, name: fmt.Sprintf("w%d", len(s.workers)+1), skew: skews[len(s.workers)%len(skews)], spool: spool}
	timing := rotation.DefaultTiming()
	timing.LeaseTTL = leaseTTL
	var err error
	w.p, err = provider.New(provider.Config{
		Store: storePort{w}, Cache: cachePort{w}, Locker: lockPort{w}, Journal: journalPort{w, "journal", true, &s.journal}, Spool: journalPort{w, "spool", false, spool},
		Endpoint: endpointPort{w}, Publisher: busPort{w}, Sealer: s.sealer, WorkerID: w.name, Host: "host of " + w.name, Timing: timing,
		Backoff: backoff.Policy{Base: 2 * time.Second, Cap: 4 * time.Second, Floor: time.Second},
		Clock:   w, Random: func() float64 { return 0.5 },
	})
	if err != nil {
		panic(err)
	}
	s.workers = append(s.workers, w)
	s.bus.Join(ear{w})
	return w
}

// login gives the fleet a new grant of the endpoint.
func (s *sim) login(ctx context.Context, w *worker, left time.Duration) {
	s.check.login()
	access, refresh := s.endpoint.NewGrant("a")
	if err := s.put(ctx, w, access, refresh, left); err != nil {
		// The person is told and logs in again; here the login may be lost.
		s.check.excuse()
	}
}

func (s *sim) put(ctx context.Context, w *worker, access, refresh string, left time.Duration) error {
	body, err := json.Marshal(map[string]any{"platform": "demo", "id": "a", "type": "oauth", "credentials": map[string]any{
		"access_token": access, "refresh_token": refresh, "expires_at": time.Unix(epoch, 0).Add(s.elapsed() + left).Format(time.RFC3339Nano),
	}})
	if err != nil {
		panic(err)
	}
	r, err := events.DecodeRequest[events.PutRequest](body)
	if err != nil {
		panic(err)
	}
	_, err = w.p.Put(ctx, r)
	return err
}

// deleteAndPut deletes the account and gives the fleet the login that it had,
// as somebody does who hopes that this helps.
func (s *sim) deleteAndPut(ctx context.Context, w *worker) {
	access, refresh := s.endpoint.Current("a")
	for range 3 {
		if _, err := w.p.Delete(ctx, events.KeyRequest{Platform: "demo", ID: "a"}); err == nil {
			break
		}
	}
	for range 3 {
		if err := s.put(ctx, w, access, refresh, -time.Second); err == nil {
			return
		}
	}
}

// prepareBackups rotates once, and keeps what the store had before each step.
func (s *sim) prepareBackups() {
	keep := func(of string) {
		docs := s.store.Snapshot()
		s.backups = append(s.backups, &backup{of, docs})
	}
	s.backups = append(s.backups, &backup{"before the account was there", nil})
	keep("version 1")
	if _, err, _ := s.final(s.workers[0]); err != nil {
		panic(err)
	}
	s.settle(tokenTTL + clocksApart)
	keep("version 2")
}

// ask makes n requests one after the other, as one asker: it remembers the
// version that it has seen.
func (s *sim) ask(w *worker, n int) {
	s.task("request to "+w.name, func(ctx context.Context) {
		var seen account.Version
		for range n {
			seen = max(seen, s.token(ctx, w, events.TokenRequest{MinVersion: seen}, seen))
		}
	})
}

// askLater makes a request at any time, in the plain course after everything
// else.
func (s *sim) askLater(w *worker) {
	s.task("later request to "+w.name, func(ctx context.Context) {
		if w.at(ctx, "wants a token") == doIt {
			s.token(ctx, w, events.TokenRequest{}, 0)
		}
	})
}

// askAgain asks until there is a token, at most n times.
func (s *sim) askAgain(w *worker, n int) {
	s.task("requests to "+w.name, func(ctx context.Context) {
		for range n {
			if s.token(ctx, w, events.TokenRequest{}, 0) > 0 {
				return
			}
			select {
			case <-w.After(leaseTTL + patience):
			case <-ctx.Done():
				return
			}
		}
	})
}

func (s *sim) token(ctx context.Context, w *worker, req events.TokenRequest, seen account.Version) account.Version {
	q := s.check.asks(w, req, seen)
	r, err := w.p.Token(ctx, theKey, req)
	if w.dead || ctx.Err() != nil {
		return 0
	}
	s.check.reply(q, r, err)
	return r.Version
}

// result is what came of one schedule.
type result struct {
	bad   []string
	width []int  // choices at each step
	line  string // replays it
	trace string
}

// play runs one schedule from beginning to end.
func play(t *testing.T, sc *scenario, deviate map[int]int, random func(int) int, tracing bool) (out result) {
	synctest.Test(t, func(*testing.T) {
		s := newSim(sc)
		s.deviate, s.random, s.tracing = deviate, random, tracing
		s.free = true // the first login is no part of the schedule
		s.login(s.ctx, s.workers[0], sc.left)
		s.settle(0)
		if sc.backups {
			s.prepareBackups()
		}
		s.mu.Lock()
		s.free = false
		s.mu.Unlock()
		sc.load(s)
		s.run()
		s.heal()
		out = result{s.check.bad, s.width, s.line(), s.trace()}
	})
	return out
}

// heal ends all faults, restarts what crashed, and sees whether the fleet can
// go on.
func (s *sim) heal() {
	s.logf("--- healed")
	s.settle(time.Second)
	ctx, cancel := context.WithCancel(s.ctx)
	defer s.stop(cancel)
	for _, w := range s.workers {
		fresh := w
		if w.dead || w.stops {
			fresh = s.start(w.spool)
		}
		go func() { _ = fresh.p.Run(ctx) }()
	}
	s.settle(4 * (leaseTTL + patience))
	asker := s.workers[len(s.workers)-1]
	// What holds it up is a back-off by another's clock, or the silence of a lost
	// worker.
	for until := s.elapsed() + clocksApart + 6*(leaseTTL+patience); s.elapsed() < until; {
		_, err, hangs := s.final(asker)
		if hangs {
			s.check.fail("nobody can go on: a request hangs")
			return
		}
		if err == nil || s.check.hopeless(err) {
			break
		}
		s.settle(2 * (leaseTTL + patience))
	}
	if err := s.lookAtEnd(asker); !s.check.stuck(err) {
		return
	}
	_, _, _ = s.final(asker) // what holds it up is remembered, and must not outlive the login
	s.logf("--- a person logs in")
	s.check.anew()
	s.login(s.ctx, asker, -clocksApart)
	if _, err, hangs := s.final(asker); err != nil || hangs {
		s.check.fail("nobody can go on: a new login does not help (%v)", err)
		return
	}
	s.settle(10 * time.Second) // what waited in a journal is settled
	_ = s.lookAtEnd(asker)
}

// lookAtEnd makes the last requests and checks everything. It returns what the
// last one got.
func (s *sim) lookAtEnd(asker *worker) error {
	var reply events.TokenReply
	var err error
	newest := false
	for range 4 { // a refresh beside the last request may still have run
		s.settle(2 * time.Second)
		if reply, err, _ = s.final(asker); err != nil || reply.Version == s.check.doc().Version {
			newest = true
			break
		}
	}
	s.settle(5 * time.Second) // and is announced
	s.check.end(reply, err, newest)
	return err
}

// final makes one request in the healed world.
func (s *sim) final(w *worker) (reply events.TokenReply, err error, hangs bool) {
	done := make(chan none)
	go func() {
		defer close(done)
		reply, err = w.p.Token(s.ctx, theKey, events.TokenRequest{})
	}()
	for range 2 * (leaseTTL + patience) / time.Second {
		s.settle(time.Second)
		select {
		case <-done:
			return reply, err, false
		default:
		}
	}
	return reply, err, true
}

// stop ends everything that still runs, so that the bubble can end.
func (s *sim) stop(run context.CancelFunc) {
	run()
	stopped, now := context.WithCancel(s.ctx)
	now()
	for _, w := range s.workers {
		_ = w.p.Close(stopped)
	}
	for _, r := range s.requests {
		r.cancel()
	}
}
