package rotation_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/rotation"
)

// rounds is how many cases one check of rapid makes: they are cheap.
const rounds = 50

// noon is a time of the rules; only differences matter.
var noon = time.Date(2031, 2, 3, 12, 0, 0, 0, time.UTC)

// drawDuration draws from a millisecond to a month, each order of magnitude
// alike.
func drawDuration(t *rapid.T, label string, lo time.Duration) time.Duration {
	unit := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, time.Minute, time.Hour, 24 * time.Hour}).Draw(t, label+" unit")
	return max(lo, time.Duration(rapid.Int64Range(1, 70).Draw(t, label))*unit)
}

// drawTiming draws any configuration that [rotation.Timing.Valid] takes.
func drawTiming(t *rapid.T) rotation.Timing {
	timing := rotation.Timing{
		RefreshSkew: drawDuration(t, "refresh skew", 0), CacheSkew: drawDuration(t, "cache skew", 0), MinTTL: drawDuration(t, "min ttl", 0),
		LeaseTTL: drawDuration(t, "lease ttl", 0), L1MaxAge: time.Second,
	}
	switch rapid.IntRange(0, 3).Draw(t, "refresh ahead is") {
	case 0:
		timing.RefreshAhead = rotation.RefreshAheadOff
	case 1:
		timing.RefreshAhead = drawDuration(t, "refresh ahead", 0)
	case 2:
		timing = rotation.DefaultTiming()
	}
	return timing
}

// one reports true in one of n cases.
func one(t *rapid.T, n int, label string) bool { return rapid.IntRange(1, n).Draw(t, label) == n }

// near draws a time some minutes around noon.
func near(t *rapid.T, label string) time.Time {
	return noon.Add(time.Duration(rapid.IntRange(-900, 900).Draw(t, label)) * time.Second)
}

// A skew that is no small part of the lifetime would make short tokens rotate
// in a loop.
func TestSkewsAreAPartOfTheLifetime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for range rounds {
			timing, lifetime := drawTiming(t), drawDuration(t, "lifetime", time.Second)
			for _, s := range []struct {
				name              string
				got, given, limit time.Duration
			}{
				{"refresh skew", timing.RefreshSkewOf(lifetime), timing.RefreshSkew, lifetime / 3},
				{"cache skew", timing.CacheSkewOf(lifetime), timing.CacheSkew, lifetime / 3},
				{"min ttl", timing.MinTTLOf(lifetime), timing.MinTTL, lifetime / 4},
				{"refresh skew, lifetime unknown", timing.RefreshSkewOf(0), timing.RefreshSkew, timing.RefreshSkew},
			} {
				if s.got != min(s.given, s.limit) {
					t.Fatalf("%s is %v for a lifetime of %v, want the smaller of %v and %v", s.name, s.got, lifetime, s.given, s.limit)
				}
			}
		}
	})
}

// Whatever the configuration: what has just been issued is served, and nobody
// wants to replace it.
func TestFreshTokenIsNotDue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for range rounds {
			timing, lifetime := drawTiming(t), drawDuration(t, "lifetime", time.Second)
			a := healthy()
			a.IssuedAt, a.Lifetime, a.ExpiresAt = noon, lifetime, noon.Add(lifetime)
			if one(t, 3, "no expires_at") {
				a.ExpiresAt = time.Time{}
			}
			var policy rotation.Policy
			if one(t, 4, "min refresh age set") {
				policy.MinRefreshAge = drawDuration(t, "min refresh age", 0)
			}
			if one(t, 4, "refresh at least every set") {
				policy.RefreshAtLeastEvery = drawDuration(t, "refresh at least every", time.Second)
			}
			at := timing.RefreshAt(a, policy, noon, rapid.Float64Range(0, 0.999).Draw(t, "rnd"))
			if !at.IsZero() && !at.After(noon) {
				t.Fatalf("a token of %v is due %v after it was issued", lifetime, at.Sub(noon))
			}
			if skew := timing.RefreshSkewOf(lifetime); lifetime <= skew {
				t.Fatalf("a token of %v begins in its skew of %v", lifetime, skew)
			}
			if ttl := timing.MinTTLOf(lifetime); lifetime <= ttl {
				t.Fatalf("a token of %v begins below its min ttl of %v", lifetime, ttl)
			}
		}
	})
}

// healthy is an active account of version 1 that nothing speaks against
// refreshing.
func healthy() *account.Account {
	return &account.Account{
		Key: key("x"), Type: "oauth", Status: account.Active, Version: 1, Rev: 1, CreatedAt: noon.Add(-24 * time.Hour),
		Fingerprints: account.Fingerprints{Access: "a1", Refresh: "r1"},
	}
}

// situation is all that a plan depends on.
type situation struct {
	a      *account.Account
	over   account.Version
	reason events.Reason
	sight  rotation.Sight
	rules  rotation.Rules
}

func (s situation) decide() rotation.Plan {
	return rotation.Decide(s.a, s.over, s.reason, s.sight, s.rules)
}

func (s situation) String() string {
	return fmt.Sprintf("account %+v with rotation %+v over %d (%s), seen %+v, rules %+v", *s.a, s.a.Rotation, s.over, s.reason, s.sight, s.rules)
}

// silence is how long the rotation's worker may be silent before it counts as
// gone.
func (s situation) silence() time.Duration {
	return max(s.a.Rotation.LeaseTTL, s.rules.Timing.LeaseTTL)
}

// inGrace reports whether the endpoint takes the spent refresh token again.
func (s situation) inGrace() bool {
	r := s.a.Rotation
	first := r.StartedAt
	if !r.FirstStartedAt.IsZero() {
		first = r.FirstStartedAt
	}
	grace := s.rules.Policy.ReuseGrace
	return s.sight.Known < grace && s.rules.Now.Before(first.Add(grace))
}

// skewBegins is when the access token comes into its refresh skew; zero where
// nothing tells its end.
func (s situation) skewBegins() time.Time {
	end := s.a.ExpiresAt
	if end.IsZero() && !s.a.IssuedAt.IsZero() && s.a.Lifetime > 0 {
		end = s.a.IssuedAt.Add(s.a.Lifetime)
	}
	if end.IsZero() {
		return end
	}
	return end.Add(-s.rules.Timing.RefreshSkewOf(s.a.Lifetime))
}

// drawSituation draws any situation; in most, several things speak for a
// refresh and few against it.
func drawSituation(t *rapid.T) situation {
	a := healthy()
	a.Version = account.Version(rapid.IntRange(1, 3).Draw(t, "version"))
	a.Status = rapid.SampledFrom([]account.Status{account.Active, account.Active, account.Active, account.Disabled, account.ReauthRequired}).Draw(t, "status")
	if one(t, 8, "deleted") {
		a.DeletedAt = near(t, "deleted at")
	}
	if one(t, 8, "no refresh token") {
		a.Fingerprints.Refresh = ""
	}
	if one(t, 6, "dead") {
		a.Fingerprints.Dead = rapid.SampledFrom([]string{"r1", "r1", "r0"}).Draw(t, "dead token")
	}
	if one(t, 6, "spent") {
		a.Fingerprints.Spent = rapid.SampledFrom([][]string{{"r1"}, {"r0", "r1"}, {"r0"}}).Draw(t, "spent tokens")
	}
	if !one(t, 3, "expiry unknown") {
		a.ExpiresAt = near(t, "expires")
	}
	if !one(t, 3, "issued unknown") {
		a.IssuedAt = near(t, "issued")
	}
	if one(t, 2, "lifetime known") {
		a.Lifetime = drawDuration(t, "lifetime", time.Second)
	}
	if one(t, 4, "cooling") {
		a.CooldownUntil = near(t, "cooldown until")
		a.LastError = &account.LastError{Code: "c", Message: "m"}
	}
	if one(t, 4, "early") {
		a.EarliestRefreshAt = near(t, "earliest")
	}
	a.ForcedStreak = rapid.IntRange(0, 9).Draw(t, "streak")
	s := situation{a: a, over: a.Version, reason: rapid.SampledFrom([]events.Reason{events.ReasonExpiry, events.ReasonRequest, events.ReasonRejected, events.ReasonForced}).Draw(t, "reason")}
	if one(t, 6, "other version") {
		s.over = account.Version(rapid.IntRange(0, 4).Draw(t, "over"))
	}
	if one(t, 2, "rotation") {
		a.Rotation = &account.Rotation{
			ID: "rot", Worker: "w9", State: account.RotationSent, FromVersion: a.Version, StartedAt: near(t, "started"),
			LeaseTTL: drawDuration(t, "their lease ttl", 0), Attempts: 1, NoAnswer: one(t, 3, "no answer"),
		}
		if one(t, 3, "taken over before") {
			a.Rotation.FirstStartedAt = a.Rotation.StartedAt.Add(-drawDuration(t, "first", 0))
		}
		s.sight.Still = drawDuration(t, "still", 0)
		s.sight.Known = s.sight.Still + drawDuration(t, "known", 0)
	}
	s.rules = rotation.Rules{
		Now: noon, Timing: drawTiming(t), Force: one(t, 5, "force"), Exempt: one(t, 5, "exempt"),
		Policy: rotation.Policy{Timeout: drawDuration(t, "timeout", time.Second)},
	}
	if one(t, 3, "grace set") {
		s.rules.Policy.ReuseGrace = drawDuration(t, "grace", time.Second)
	}
	if one(t, 4, "min refresh age set") {
		s.rules.Policy.MinRefreshAge = drawDuration(t, "min refresh age", time.Second)
	}
	return s
}

// mustNotSend says why the refresh token must not be sent, whatever anybody
// wants.
func (s situation) mustNotSend() error {
	a := s.a
	switch {
	case a.Version > s.over:
		return errors.New("the store has something newer")
	case a.Deleted():
		return errors.New("it is deleted")
	case a.Status == account.Disabled:
		return errors.New("it is disabled")
	case a.Status == account.ReauthRequired:
		return errors.New("its grant is dead")
	case a.Fingerprints.Refresh == "":
		return errors.New("there is no refresh token")
	case a.Fingerprints.Dead == a.Fingerprints.Refresh:
		return errors.New("the refresh token was refused for good")
	case slices.Contains(a.Fingerprints.Spent, a.Fingerprints.Refresh):
		return errors.New("the refresh token is spent")
	}
	return nil
}

func TestP1P9DecideNeverSendsWhatMustNotBeSent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for range rounds {
			s := drawSituation(t)
			plan := s.decide()
			sends := plan.Step == rotation.StepBegin || plan.Step == rotation.StepTakeOver
			if why := s.mustNotSend(); why != nil && sends {
				t.Fatalf("%s, though %v: %v", plan.Step, why, s)
			}
			cooling := s.a.CooldownUntil.After(noon)
			if cooling && (plan.Step == rotation.StepBegin || plan.Step == rotation.StepTakeOver && !s.rules.Force) {
				t.Fatalf("%s, though its back-off runs: %v", plan.Step, s)
			}
			if plan.Step == rotation.StepBegin && (s.a.Rotation != nil || s.a.EarliestRefreshAt.After(noon)) {
				t.Fatalf("begin, though a rotation is recorded or it is too early: %v", s)
			}
		}
	})
}

func TestP1DecideTakesOverByTheRuleAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for range rounds {
			s := drawSituation(t)
			plan := s.decide()
			if plan.Step != rotation.StepTakeOver {
				continue
			}
			switch {
			case s.a.Rotation == nil:
				t.Fatalf("there is nothing to take over: %v", s)
			case !s.a.Rotation.NoAnswer && s.sight.Still < s.silence():
				t.Fatalf("its worker's heart has beaten within the lease's time: %v", s)
			case s.rules.Force, s.inGrace():
			case s.skewBegins().After(noon):
				t.Fatalf("the living token is out of its skew: %v", s)
			case !s.a.Rotation.NoAnswer && s.sight.Still < s.silence()+s.rules.Policy.Timeout:
				t.Fatalf("the first request may still be answered: %v", s)
			}
		}
	})
}

// The other way round: what nothing speaks against is done, so that no account
// is left to die.
func TestDecideGoesOnWhereItMay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for range rounds {
			s := drawSituation(t)
			plan := s.decide()
			switch plan.Step {
			case rotation.StepDone:
				if s.a.Version <= s.over {
					t.Fatalf("done, though the store has nothing newer: %v", s)
				}
			case rotation.StepRefuse:
				if plan.Err == nil || plan.Err.Code == events.CodeCoolingDown && plan.Err.RetryAfter <= 0 {
					t.Fatalf("refused without a reason or without retry_after (%v): %v", plan.Err, s)
				}
			case rotation.StepWait:
				if s.a.Rotation == nil || s.a.Rotation.NoAnswer || s.sight.Still >= s.silence() {
					t.Fatalf("waits for a worker that is gone: %v", s)
				}
			case rotation.StepInDoubt:
				if s.a.Rotation == nil || s.rules.Force || s.inGrace() || !plan.At.After(noon) {
					t.Fatalf("in doubt until %v, though it might go on: %v", plan.At, s)
				}
			}
			// The same when the time has come, nobody having stirred.
			if plan.Step == rotation.StepInDoubt {
				s.rules.Policy.ReuseGrace = 0 // it may have begun to matter, or ended
				wait := plan.At.Sub(noon)
				s.rules.Now, s.sight.Still, s.sight.Known = plan.At, s.sight.Still+wait, s.sight.Known+wait
				if again := s.decide(); again.Step != rotation.StepTakeOver {
					t.Fatalf("at the time that it gave (%v) it says %s: %v", plan.At, again.Step, s)
				}
			}
		}
	})
}

// An API that answers 401 to everything must not rotate a grant to death.
func TestForcedHoldDoublesUpToTenMinutes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		streak := rapid.IntRange(0, 1<<40).Draw(t, "streak")
		if one(t, 2, "small") {
			streak %= 12
		}
		hold := rotation.ForcedHoldUntil(noon, streak).Sub(noon)
		next := rotation.ForcedHoldUntil(noon, streak+1).Sub(noon)
		if streak == 0 && hold != 10*time.Second || hold < 10*time.Second || next != min(2*hold, 10*time.Minute) {
			t.Fatalf("after %d forced refreshes it is %v, after one more %v", streak, hold, next)
		}
		if at := rotation.ForcedHoldUntil(time.Time{}, streak); !at.IsZero() {
			t.Fatalf("a login is held until %v", at)
		}

		s := situation{a: healthy(), over: 1, reason: rapid.SampledFrom([]events.Reason{events.ReasonRejected, events.ReasonForced}).Draw(t, "reason")}
		s.a.IssuedAt, s.a.ForcedStreak = noon, streak
		s.rules = rotation.Rules{Timing: rotation.DefaultTiming(), Now: noon.Add(hold - time.Duration(rapid.Int64Range(1, int64(hold)).Draw(t, "before")))}
		if plan := s.decide(); plan.Step != rotation.StepRefuse || plan.Err.Code != events.CodeCoolingDown {
			t.Fatalf("within the hold of %v it says %s: %v", hold, plan.Step, s)
		}
		for _, change := range []func(r *situation){
			func(r *situation) { r.rules.Now = noon.Add(hold) },
			func(r *situation) { r.rules.Exempt = true },
			func(r *situation) { // ahead of need: no version is refreshed in its first second
				r.reason, r.rules.Now = events.ReasonExpiry, r.rules.Now.Add(time.Second)
			},
		} {
			r := s
			change(&r)
			if plan := r.decide(); plan.Step != rotation.StepBegin {
				t.Fatalf("nothing holds it, and it says %s: %v", plan.Step, r)
			}
		}
	})
}

// writer is a worker that has read the document some time ago and writes what
// it made of that reading, with the guard that the kind of write has.
type writer struct{ read account.Account }

// writes are the kinds of write that the core makes, as guard and change.
var writes = map[string]func(a account.Account) (account.Guard, account.Change){
	"begin": func(a account.Account) (account.Guard, account.Change) {
		return account.Guard{Version: a.Version, Rotation: account.NoRotation()},
			account.Change{Fields: account.FieldRotation, To: account.Account{Rotation: &account.Rotation{ID: fmt.Sprint("rot-", a.Version)}}}
	},
	"beat": func(a account.Account) (account.Guard, account.Change) {
		id, beats, to := "", int64(0), &account.Rotation{}
		if a.Rotation != nil {
			id, beats, *to = a.Rotation.ID, a.Rotation.Heartbeat, *a.Rotation
		}
		to.Heartbeat++
		return account.Guard{Rotation: &id, Heartbeat: &beats}, account.Change{Fields: account.FieldRotation, To: account.Account{Rotation: to}}
	},
	"commit": func(a account.Account) (account.Guard, account.Change) {
		return account.Guard{Version: a.Version}, account.Change{
			Fields: account.FieldVersion | account.FieldCredentials | account.FieldRotation, BumpRev: true, To: account.Account{Version: a.Version + 1},
		}
	},
	"login": func(a account.Account) (account.Guard, account.Change) {
		return account.Guard{Version: a.Version, Rev: a.Rev}, account.Change{
			Fields: account.FieldVersion | account.FieldCredentials | account.FieldRev, To: account.Account{Version: a.Version + 2, Rev: a.Rev + 3},
		}
	},
	"status": func(a account.Account) (account.Guard, account.Change) {
		return account.Guard{Version: a.Version, Rev: a.Rev}, account.Change{Fields: account.FieldStatus, BumpRev: true, To: account.Account{Status: account.Disabled}}
	},
	"announced": func(a account.Account) (account.Guard, account.Change) {
		return account.Guard{Rev: a.Rev}, account.Change{Fields: account.FieldAnnounce}
	},
}

// However many writers write what they read however long ago: versions and
// revs only rise, and no two writes bring the same version.
func TestP3VersionsOnlyRiseWhateverWritersHaveRead(t *testing.T) {
	kinds := []string{"begin", "beat", "commit", "commit", "login", "status", "announced"}
	rapid.Check(t, func(t *rapid.T) {
		doc := *healthy()
		writers := make([]writer, 4)
		for i := range writers {
			writers[i].read = doc.Clone()
		}
		for range 60 {
			w := &writers[rapid.IntRange(0, len(writers)-1).Draw(t, "writer")]
			if one(t, 3, "reads") {
				w.read = doc.Clone()
			}
			kind := rapid.SampledFrom(kinds).Draw(t, "kind")
			guard, change := writes[kind](w.read)
			if !guard.Holds(&doc) {
				continue
			}
			before := doc.Clone()
			change.Apply(&doc)
			credentials := change.Fields&account.FieldVersion != 0
			switch {
			case doc.Rev < before.Rev, doc.Version < before.Version, credentials && doc.Version == before.Version:
				t.Fatalf("%s made version %d, rev %d of %d, %d", kind, doc.Version, doc.Rev, before.Version, before.Rev)
			case !credentials && doc.Version != before.Version:
				t.Fatalf("%s changed the version", kind)
			case (credentials || kind == "status") && doc.Rev <= before.Rev:
				t.Fatalf("%s left the rev at %d: peers would not hear of it", kind, doc.Rev)
			}
		}
	})
}

func key(id string) account.Key {
	k, err := account.NewKey("demo", id)
	if err != nil {
		panic(err)
	}
	return k
}
