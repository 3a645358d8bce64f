package rotation_test

import (
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/rotation"
)

// lease, patience and skew are those of the rules.
const (
	lease    = 30 * time.Second
	patience = time.Minute
	skew     = 3 * time.Minute
)

// silent is what has been seen of a rotation for so long.
func silent(d time.Duration) rotation.Sight { return rotation.Sight{Known: d, Still: d} }

// The rows of the table of Decide in docs/rotation.md, of which the first that
// holds counts: each is met by an account for which those below hold too.
func TestDecideTakesTheFirstRowThatHolds(t *testing.T) {
	running := func(a *account.Account) {
		a.Rotation = &account.Rotation{ID: "theirs", Worker: "w9", State: account.RotationSent, FromVersion: 1, StartedAt: noon.Add(-time.Hour), LeaseTTL: lease, Attempts: 1}
	}
	dead := func(a *account.Account) { a.Status, a.Fingerprints.Dead = account.ReauthRequired, "r1" }
	cooling := func(a *account.Account) { a.CooldownUntil = noon.Add(time.Minute) }
	living := func(a *account.Account) { a.ExpiresAt = noon.Add(time.Hour) }
	for name, tc := range map[string]struct {
		change []func(a *account.Account)
		over   account.Version
		sight  rotation.Sight
		force  bool
		step   rotation.Step
		code   events.Code
	}{
		"newer than what was asked for":            {[]func(*account.Account){running, dead, cooling}, 0, silent(0), false, rotation.StepDone, ""},
		"a tombstone":                              {[]func(*account.Account){running, func(a *account.Account) { a.DeletedAt = noon }}, 1, silent(0), true, rotation.StepRefuse, events.CodeNotFound},
		"disabled":                                 {[]func(*account.Account){running, func(a *account.Account) { a.Status = account.Disabled }}, 1, silent(0), true, rotation.StepRefuse, events.CodeDisabled},
		"a rotation whose worker may live":         {[]func(*account.Account){running, dead, cooling}, 1, silent(lease - 1), true, rotation.StepWait, ""},
		"its worker is gone, and the grant dead":   {[]func(*account.Account){running, dead, cooling}, 1, silent(lease), true, rotation.StepRefuse, events.CodeReauthRequired},
		"its worker is gone, and an operator asks": {[]func(*account.Account){running, cooling, living}, 1, silent(lease), true, rotation.StepTakeOver, ""},
		"its worker is gone, and a back-off runs":  {[]func(*account.Account){running, cooling, living}, 1, silent(time.Hour), false, rotation.StepRefuse, events.CodeCoolingDown},
		"no rotation, and a back-off runs":         {[]func(*account.Account){dead, cooling}, 1, silent(0), false, rotation.StepRefuse, events.CodeCoolingDown},
		"no rotation, and the grant dead":          {[]func(*account.Account){dead}, 1, silent(0), false, rotation.StepRefuse, events.CodeReauthRequired},
		"no rotation, and a spent refresh token":   {[]func(*account.Account){func(a *account.Account) { a.Fingerprints.Spent = []string{"r1"} }}, 1, silent(0), true, rotation.StepRefuse, events.CodeReauthRequired},
		"no rotation, and no refresh token":        {[]func(*account.Account){func(a *account.Account) { a.Fingerprints.Refresh = "" }}, 1, silent(0), false, rotation.StepRefuse, events.CodeReauthRequired},
		"no rotation, and too young a token":       {[]func(*account.Account){func(a *account.Account) { a.EarliestRefreshAt = noon.Add(1) }}, 1, silent(0), false, rotation.StepRefuse, events.CodeCoolingDown},
		"no rotation":                              {[]func(*account.Account){living}, 1, silent(0), false, rotation.StepBegin, ""},
		"in doubt":                                 {[]func(*account.Account){running, living}, 1, silent(lease), false, rotation.StepInDoubt, ""},
		"in doubt no longer":                       {[]func(*account.Account){running}, 1, silent(lease + patience), false, rotation.StepTakeOver, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a, r := healthy(), rules()
			for _, change := range tc.change {
				change(a)
			}
			r.Force = tc.force
			plan := rotation.Decide(a, tc.over, events.ReasonRequest, tc.sight, r)
			code := events.Code("")
			if plan.Err != nil {
				code = plan.Err.Code
			}
			if plan.Step != tc.step || code != tc.code {
				t.Errorf("%s (%v), want %s %s", plan.Step, plan.Err, tc.step, tc.code)
			}
		})
	}
}

// The points of "The takeover rule" in docs/rotation.md. The refresh token of
// the rotation may be at the endpoint; when is it sent a second time?
// What a clock wrote that was ahead holds an account no longer than what it
// writes in its right mind.
func TestAClockThatWasAhead(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(a *account.Account)
		step   rotation.Step
	}{
		"the longest back-off":                {func(a *account.Account) { a.CooldownUntil = noon.Add(24 * time.Hour) }, rotation.StepRefuse},
		"a back-off that nobody writes":       {func(a *account.Account) { a.CooldownUntil = noon.Add(26 * time.Hour) }, rotation.StepBegin},
		"a version that has just come":        {func(a *account.Account) { a.IssuedAt = noon.Add(-2 * time.Second) }, rotation.StepRefuse},
		"a version of a clock a little ahead": {func(a *account.Account) { a.IssuedAt = noon.Add(5 * time.Second) }, rotation.StepRefuse},
		"a version from tomorrow":             {func(a *account.Account) { a.IssuedAt = noon.Add(24 * time.Hour) }, rotation.StepBegin},
	} {
		t.Run(name, func(t *testing.T) {
			a := healthy()
			tc.change(a)
			if plan := rotation.Decide(a, a.Version, events.ReasonRejected, rotation.Sight{}, rules()); plan.Step != tc.step {
				t.Errorf("got %s (%v), want %s", plan.Step, plan.Err, tc.step)
			}
		})
	}
}

func TestP1TakeoverRule(t *testing.T) {
	const never = time.Duration(-1)
	for name, tc := range map[string]struct {
		still, known time.Duration // Known is at least Still
		theirLease   time.Duration
		noAnswer     bool
		left         time.Duration // of the living token; 0: it has ended
		grace        time.Duration
		first        time.Duration // ago: when the first attempt of this doubt began
		cooling      bool
		force        bool
		step         rotation.Step
		in           time.Duration // of StepInDoubt: until a second send is allowed
	}{
		"1: its heart has just beaten":                     {still: lease - 1, theirLease: lease, step: rotation.StepWait},
		"1: also where an operator forces it":              {still: lease - 1, theirLease: lease, force: true, step: rotation.StepWait},
		"1: the larger lease counts, theirs":               {still: time.Minute, theirLease: 2 * time.Minute, step: rotation.StepWait},
		"1: the larger lease counts, ours":                 {still: lease - 1, theirLease: time.Second, step: rotation.StepWait},
		"1: it says itself that no answer can come":        {theirLease: lease, noAnswer: true, step: rotation.StepTakeOver},
		"2: a back-off runs":                               {still: time.Hour, theirLease: lease, cooling: true, step: rotation.StepRefuse},
		"2: and no answer can come":                        {theirLease: lease, noAnswer: true, cooling: true, step: rotation.StepRefuse},
		"3: within the grace, at once":                     {still: lease, theirLease: lease, left: time.Hour, grace: 10 * time.Minute, first: time.Minute, step: rotation.StepTakeOver},
		"3: not before the worker is gone":                 {still: lease - 1, theirLease: lease, grace: 10 * time.Minute, first: time.Minute, step: rotation.StepWait},
		"3: the grace counts from the first attempt":       {still: lease, theirLease: lease, left: time.Hour, grace: 10 * time.Minute, first: 10 * time.Minute, step: rotation.StepInDoubt, in: time.Hour - skew},
		"3: and by our own sight":                          {still: lease, known: 10 * time.Minute, theirLease: lease, left: time.Hour, grace: 10 * time.Minute, first: -time.Hour, step: rotation.StepInDoubt, in: time.Hour - skew},
		"4: the first may still be answered":               {still: lease, theirLease: lease, step: rotation.StepInDoubt, in: patience},
		"4: it was silent for long, and a token lives":     {still: time.Hour, theirLease: lease, left: time.Hour, step: rotation.StepInDoubt, in: time.Hour - skew},
		"4: no answer can come, and a token lives":         {theirLease: lease, noAnswer: true, left: time.Hour, step: rotation.StepInDoubt, in: time.Hour - skew},
		"4: the token comes to its skew, and it is silent": {still: lease + patience, theirLease: lease, left: skew, step: rotation.StepTakeOver},
		"4: the token comes to its skew before that":       {still: lease + 1, theirLease: lease, left: skew, step: rotation.StepInDoubt, in: patience - 1},
		"5: an operator skips the back-off and the wait":   {still: lease, theirLease: lease, left: time.Hour, cooling: true, force: true, step: rotation.StepTakeOver},
	} {
		t.Run(name, func(t *testing.T) {
			a, r := healthy(), rules()
			a.Rotation = &account.Rotation{
				ID: "theirs", Worker: "w9", State: account.RotationSent, FromVersion: 1, LeaseTTL: tc.theirLease, Attempts: 2, NoAnswer: tc.noAnswer,
				StartedAt: noon.Add(-time.Second), FirstStartedAt: noon.Add(-tc.first),
			}
			a.ExpiresAt = noon.Add(tc.left)
			if tc.cooling {
				a.CooldownUntil = noon.Add(time.Second)
			}
			r.Policy.ReuseGrace, r.Force = tc.grace, tc.force
			plan := rotation.Decide(a, 1, events.ReasonRequest, rotation.Sight{Known: max(tc.known, tc.still), Still: tc.still}, r)
			in := never
			if plan.Step == rotation.StepInDoubt {
				in = plan.At.Sub(noon)
			}
			if want := tc.in; plan.Step != tc.step || in != never && in != want {
				t.Errorf("%s, a second send in %v; want %s, %v", plan.Step, in, tc.step, want)
			}
		})
	}
}

// What a worker has seen is of one rotation, on its own clock.
func TestSighting(t *testing.T) {
	var s rotation.Sighting
	at := func(now time.Duration, id string, heartbeat int64) rotation.Sight {
		a := healthy()
		if id != "" {
			a.Rotation = &account.Rotation{ID: id, Heartbeat: heartbeat}
		}
		return s.Look(a, now)
	}
	for i, tc := range []struct {
		now       time.Duration
		id        string
		heartbeat int64
		want      rotation.Sight
	}{
		{100, "", 0, rotation.Sight{}},
		{200, "a", 3, rotation.Sight{}}, // seen for the first time: it may have begun long ago
		{250, "a", 3, rotation.Sight{Known: 50, Still: 50}},
		{300, "a", 4, rotation.Sight{Known: 100}},
		{360, "a", 4, rotation.Sight{Known: 160, Still: 60}},
		{400, "b", 4, rotation.Sight{}}, // another rotation
		{450, "b", 4, rotation.Sight{Known: 50, Still: 50}},
		{500, "", 0, rotation.Sight{}},
		{600, "b", 4, rotation.Sight{}}, // forgotten
	} {
		if got := at(tc.now, tc.id, tc.heartbeat); got != tc.want {
			t.Errorf("look %d sees %+v, want %+v", i, got, tc.want)
		}
	}
}

// What is begun is guarded by all that was read, and counts on from the doubt
// that it takes over.
func TestP1Begin(t *testing.T) {
	a := healthy()
	first, guard := rotation.Begin(a, "w1", "h1", rotation.Sight{}, rules())
	if !guard.Holds(a) || first.Attempts != 1 || first.FromVersion != a.Version || first.Worker != "w1" || first.Host != "h1" ||
		first.State != account.RotationBegun || first.Heartbeat != 0 || first.NoAnswer || !first.FirstStartedAt.IsZero() || first.LeaseTTL != lease {
		t.Errorf("begins %+v, guarded by %+v", first, guard)
	}
	refused := a.Clone()
	refused.Rev++ // by a worker whose refusal came in between
	if guard.Holds(&refused) {
		t.Error("a token that was refused meanwhile may be sent")
	}
	a.Rotation = first
	if guard.Holds(a) {
		t.Error("two may begin")
	}
	r := rules()
	r.Now = noon.Add(time.Hour)
	second, guard := rotation.Begin(a, "w2", "h2", rotation.Sight{Still: time.Hour}, r)
	if !guard.Holds(a) || second.Attempts != 2 || second.ID == first.ID || !second.FirstStartedAt.Equal(noon) {
		t.Errorf("takes over with %+v, guarded by %+v", second, guard)
	}
	if second.EarlierOpen {
		t.Error("a worker that is silent for an hour may still be answered")
	}
	beats := a.Clone()
	beats.Rotation.Heartbeat++
	if guard.Holds(&beats) {
		t.Error("a worker whose heart beats is taken over")
	}
	a.Rotation = second
	r.Now = noon.Add(2 * time.Hour)
	if third, _ := rotation.Begin(a, "w3", "h3", rotation.Sight{Still: time.Hour}, r); third.Attempts != 3 || !third.FirstStartedAt.Equal(noon) {
		t.Errorf("the third counts from %+v", third)
	}
}

// A worker that is taken over before its own answer could no longer come may
// still have it: what the next one knows of its own attempt doesn't end that.
func TestP1TakenOverEarly(t *testing.T) {
	for name, c := range map[string]struct {
		still    time.Duration
		noAnswer bool // the first worker itself says so
		open     bool
	}{
		"in the grace period":              {still: 2 * time.Second, open: true},
		"its answer could no longer come":  {still: time.Hour},
		"it says itself that none can":     {still: 2 * time.Second, noAnswer: true},
		"silent for the lease, not longer": {still: lease, open: true},
	} {
		t.Run(name, func(t *testing.T) {
			a := sent()
			a.Rotation.NoAnswer = c.noAnswer
			second, _ := rotation.Begin(&a, "w2", "h2", rotation.Sight{Still: c.still}, rules())
			if second.EarlierOpen != c.open {
				t.Fatalf("earlier open: %v, want %v", second.EarlierOpen, c.open)
			}
			a.Rotation = second
			rec := rotation.Record{Key: a.Key, RotationID: second.ID, FromVersion: a.Version, At: noon, From: account.Fingerprints{Access: a.Fingerprints.Access, Refresh: a.Fingerprints.Refresh}}
			for _, outcome := range []rotation.Outcome{rotation.Transient, rotation.Unknown} {
				e := rotation.Settle(&a, rec, rotation.Verdict{Outcome: outcome, Code: "x"}, rotation.Merged{}, rules())
				if left := e.Change.To.Rotation; left == nil || left.NoAnswer == c.open {
					t.Errorf("%s leaves %+v", outcome, left)
				}
			}
		})
	}
}

// A doubt is written once, and only over the record that was looked at.
func TestP1Doubt(t *testing.T) {
	a := sent()
	until := noon.Add(time.Hour)
	e := rotation.Doubt(&a, until, noon)
	if e.Change == nil || !e.Guard.Holds(&a) || e.Status != events.StatusInDoubt {
		t.Fatalf("doubt is %+v", e)
	}
	b := a.Clone()
	e.Change.Apply(&b)
	if b.Rotation.State != account.RotationInDoubt || b.Rotation.NoAnswer || b.Rotation.ID != "mine" || !b.RefreshAt.Equal(until) || b.Version != a.Version {
		t.Errorf("it makes %+v of the record, due at %v", b.Rotation, b.RefreshAt)
	}
	beats := a.Clone()
	beats.Rotation.Heartbeat++
	if e.Guard.Holds(&beats) {
		t.Error("a worker that came back is put in doubt")
	}
	if again := rotation.Doubt(&b, until, noon); again.Change != nil {
		t.Errorf("and again: %+v", again.Change)
	}
}
