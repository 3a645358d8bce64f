package rotation_test

import (
	"slices"
	"testing"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/rotation"
)

// sent is the document of version 7 whose refresh token r1 is at the endpoint,
// and record the record of that exchange.
func sent() account.Account {
	a := *healthy()
	a.Version, a.Rev = 7, 9
	a.ExpiresAt, a.Lifetime = noon.Add(time.Minute), time.Hour
	a.Rotation = &account.Rotation{
		ID: "mine", Worker: "w1", Host: "h1", State: account.RotationSent, FromVersion: 7,
		StartedAt: noon, Heartbeat: 3, LeaseTTL: 30 * time.Second, Attempts: 1,
	}
	return a
}

func record() rotation.Record {
	return rotation.Record{
		Key: key("x"), RotationID: "mine", FromVersion: 7, Worker: "w1", Host: "h1", At: noon,
		From: account.Fingerprints{Access: "a1", Refresh: "r1"}, Reason: events.ReasonRequest,
	}
}

// brings is a verdict with tokens; "" for one that the answer doesn't have.
func brings(o rotation.Outcome, access, refresh string) rotation.Verdict {
	v := rotation.Verdict{Outcome: o, Lifetime: time.Hour}
	if access != "" {
		v.Credentials.AccessToken = account.NewSecret(access)
	}
	if refresh != "" {
		v.Credentials.RefreshToken = account.NewSecret(refresh)
	}
	return v
}

// merged does as [rotation.Merged] says; tokens are their own fingerprints.
func merged(a *account.Account, v rotation.Verdict) rotation.Merged {
	m := rotation.Merged{Access: a.Fingerprints.Access, Refresh: a.Fingerprints.Refresh}
	m.Credentials.ExpiresAt = a.ExpiresAt
	if !v.Credentials.AccessToken.IsZero() {
		m.Access, m.Credentials.ExpiresAt = v.Credentials.AccessToken.Reveal(), noon.Add(v.Lifetime)
	}
	if !v.Credentials.RefreshToken.IsZero() {
		m.Refresh = v.Credentials.RefreshToken.Reveal()
	}
	return m
}

func rules() rotation.Rules {
	return rotation.Rules{
		Now: noon, Timing: rotation.DefaultTiming(), Policy: rotation.Policy{Timeout: time.Minute}, Random: 0.5,
		Backoff: backoff.Policy{Base: 2 * time.Second, Cap: 2 * time.Second, Floor: 2 * time.Second},
	}
}

// settle asks, and returns the document as it is when that is written.
func settle(t testing.TB, a account.Account, rec rotation.Record, v rotation.Verdict, r rotation.Rules) (account.Account, rotation.Ending) {
	t.Helper()
	e := rotation.Settle(&a, rec, v, merged(&a, v), r)
	b := a.Clone()
	if e.Change == nil {
		return b, e
	}
	if !e.Guard.Holds(&a) {
		t.Errorf("its guard %+v does not hold on the document that it was asked about: %+v", e.Guard, a)
	}
	e.Change.Apply(&b)
	return b, e
}

// The rows of the table "Late answers" in docs/rotation.md.
func TestP2LateAnswers(t *testing.T) {
	const dropped, committed, nothing = "answer dropped: a newer login has won", "committed", ""
	whole := brings(rotation.Granted, "a2", "r2")
	for name, tc := range map[string]struct {
		change  func(a *account.Account)
		verdict rotation.Verdict
		note    string
		version account.Version // afterwards
		refresh string          // afterwards
		rotates string          // the rotation that is recorded afterwards
	}{
		"in time": {func(*account.Account) {}, whole, committed, 8, "r2", ""},
		"saved earlier, by a write whose outcome was unknown": {func(a *account.Account) {
			a.Version, a.Rotation, a.LastRotationID = 8, nil, "mine"
			a.Fingerprints = account.Fingerprints{Access: "a2", Refresh: "r2"}
		}, whole, nothing, 8, "r2", ""},
		"saved earlier, and a status change since": {func(a *account.Account) { a.Rev, a.LastRotationID, a.Rotation = 12, "mine", nil }, whole, nothing, 7, "r1", ""},
		"the store has gone back to before the rotation": {func(a *account.Account) {
			a.Version, a.Rotation = 3, nil
			a.Fingerprints = account.Fingerprints{Access: "a0", Refresh: "r0"}
		}, whole, committed, 8, "r2", ""},
		"the store has gone back, and the answer has no refresh token": {func(a *account.Account) {
			a.Version, a.Rotation = 3, nil
			a.Fingerprints = account.Fingerprints{Access: "a0", Refresh: "r0"}
		}, brings(rotation.Granted, "a2", ""), committed, 8, "r0", ""},
		"the store has gone back to before the account was created anew": {func(a *account.Account) {
			a.Version, a.Rotation, a.DeletedAt = 3, nil, noon
			a.Fingerprints = account.Fingerprints{}
		}, whole, committed, 8, "r2", ""},
		"the account was deleted": {func(a *account.Account) {
			a.Version, a.Rotation, a.DeletedAt = 8, nil, noon
			a.Fingerprints = account.Fingerprints{Spent: []string{"r1"}}
		}, whole, dropped, 8, "", ""},
		"a newer login, and its rotation": {func(a *account.Account) {
			a.Version, a.Rotation.ID = 8, "theirs"
			a.Fingerprints = account.Fingerprints{Access: "a9", Refresh: "r9"}
		}, whole, dropped, 8, "r9", "theirs"},
		"another program's login, with our record left": {func(a *account.Account) {
			a.Fingerprints = account.Fingerprints{Access: "a9", Refresh: "r9"}
		}, whole, dropped, 7, "r9", ""},
		"another access token, and the answer has no other refresh token": {func(a *account.Account) {
			a.Version, a.Fingerprints.Access = 8, "a9"
		}, brings(rotation.Granted, "a2", ""), dropped, 8, "r1", ""},
		"another access token, and the answer has a new refresh token": {func(a *account.Account) {
			a.Version, a.Fingerprints.Access = 8, "a9"
		}, whole, committed, 9, "r2", ""},
		"an edit in between":                             {func(a *account.Account) { a.Version, a.Rev = 8, 10 }, whole, committed, 9, "r2", ""},
		"an edit in between, and no other refresh token": {func(a *account.Account) { a.Version = 8 }, brings(rotation.Granted, "a2", ""), committed, 9, "r1", ""},
		"somebody took over":                             {func(a *account.Account) { a.Rotation.ID, a.Rotation.Attempts = "theirs", 2 }, whole, committed, 8, "r2", ""},
		"nobody's record is left":                        {func(a *account.Account) { a.Rotation = nil }, whole, committed, 8, "r2", ""},
		"a refresh token alone":                          {func(*account.Account) {}, brings(rotation.Unknown, "", "r2"), committed, 8, "r2", ""},
		"a failure, and somebody took over":              {func(a *account.Account) { a.Rotation.ID = "theirs" }, brings(rotation.Transient, "", ""), nothing, 7, "r1", "theirs"},
		"a refusal, and somebody took over":              {func(a *account.Account) { a.Rotation.ID = "theirs" }, brings(rotation.Rejected, "", ""), nothing, 7, "r1", "theirs"},
		"a refusal, and a newer login":                   {func(a *account.Account) { a.Fingerprints.Refresh = "r9" }, brings(rotation.Rejected, "", ""), nothing, 7, "r9", "mine"},
		"a failure, and nobody's record is left":         {func(a *account.Account) { a.Rotation = nil }, brings(rotation.Unknown, "", ""), nothing, 7, "r1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := sent()
			tc.change(&a)
			b, e := settle(t, a, record(), tc.verdict, rules())
			id := ""
			if b.Rotation != nil {
				id = b.Rotation.ID
			}
			if e.Note != tc.note || b.Version != tc.version || b.Fingerprints.Refresh != tc.refresh || id != tc.rotates {
				t.Errorf("%q makes version %d with %q and rotation %q; want %q, %d, %q, %q",
					e.Note, b.Version, b.Fingerprints.Refresh, id, tc.note, tc.version, tc.refresh, tc.rotates)
			}
			if tc.note != committed {
				if b.Status != a.Status || b.Failures != a.Failures || e.Credentials != nil || e.Reply != nil {
					t.Errorf("it is history, and does %+v", e)
				}
				return
			}
			if b.LastRotationID != "mine" || !b.AnnouncePending || b.Rev <= a.Rev || e.Credentials == nil || e.Above != (a.Version < 7) {
				t.Errorf("the commit is %+v, of %+v", b, e)
			}
			if b.Deleted() {
				t.Error("the account is deleted still")
			}
			spent := map[string]bool{a.Fingerprints.Refresh: b.Fingerprints.Refresh != a.Fingerprints.Refresh}
			if e.Above { // and what was sent, and what the document had before that
				spent = map[string]bool{a.Fingerprints.Refresh: true, "r1": true}
			}
			for fingerprint, is := range spent {
				if is && fingerprint != "" && !slices.Contains(b.Fingerprints.Spent, fingerprint) {
					t.Errorf("%s is not among the spent ones: %v", fingerprint, b.Fingerprints.Spent)
				}
			}
		})
	}
}

// The rows of the table "Outcomes, and what is written" in docs/rotation.md,
// each for a first attempt and for one after a doubt.
func TestP9OutcomesAndWhatIsWritten(t *testing.T) {
	cooling, unavailable, reauth := events.CodeCoolingDown, events.CodeUnavailable, events.CodeReauthRequired
	for name, tc := range map[string]struct {
		verdict  rotation.Verdict
		version  account.Version
		status   account.Status
		failures int
		cools    bool
		doubt    bool        // after a first attempt
		doubtful bool        // after one that took a doubt over
		told     string      // the status event
		toldThen string      // the same, after a doubt
		reply    events.Code // "": look again
	}{
		"granted":                  {brings(rotation.Granted, "a2", "r2"), 8, account.Active, 0, false, false, false, "", "", ""},
		"unknown, some token came": {brings(rotation.Unknown, "", "r2"), 8, account.Active, 1, true, false, false, "", "", ""},
		"unknown, no token":        {brings(rotation.Unknown, "", ""), 7, account.Active, 1, true, true, true, events.StatusInDoubt, events.StatusInDoubt, cooling},
		"rejected":                 {brings(rotation.Rejected, "", ""), 7, account.ReauthRequired, 1, false, false, false, "code", events.StatusRotationLost, reauth},
		"misconfigured":            {brings(rotation.Misconfigured, "", ""), 7, account.Active, 0, false, false, true, "", "", unavailable},
		"throttled":                {brings(rotation.Throttled, "", ""), 7, account.Active, 1, true, false, true, events.StatusCoolingDown, events.StatusInDoubt, cooling},
		"transient":                {brings(rotation.Transient, "", ""), 7, account.Active, 1, true, false, true, events.StatusCoolingDown, events.StatusInDoubt, cooling},
		"not sent":                 {brings(rotation.NotSent, "", ""), 7, account.Active, 1, true, false, true, events.StatusCoolingDown, events.StatusInDoubt, cooling},
		"fenced":                   {brings(rotation.Fenced, "", ""), 7, account.Active, 0, false, false, true, "", "", ""},
	} {
		for _, attempts := range []int{1, 2} {
			then := map[int]string{1: "", 2: ", after a doubt"}[attempts]
			t.Run(name+then, func(t *testing.T) {
				a, v := sent(), tc.verdict
				a.Rotation.Attempts, v.Code, v.Message = attempts, "code", "message"
				b, e := settle(t, a, record(), v, rules())
				doubt, told := tc.doubt, tc.told
				if attempts > 1 {
					doubt, told = tc.doubtful, tc.toldThen
				}
				if b.Version != tc.version || b.Status != tc.status || b.Failures != tc.failures || b.CooldownUntil.After(noon) != tc.cools {
					t.Errorf("version %d, %s, %d failures, cooling down until %v", b.Version, b.Status, b.Failures, b.CooldownUntil)
				}
				if (b.Rotation != nil) != doubt || doubt && (b.Rotation.State != account.RotationInDoubt || !b.Rotation.NoAnswer || b.Rotation.ID != "mine") {
					t.Errorf("the record is %+v, a doubt is left: %v", b.Rotation, doubt)
				}
				if doubt && v.Outcome != rotation.Unknown && b.Rotation.Attempts != attempts-1 {
					t.Errorf("%d attempts are counted: this one has spent nothing", b.Rotation.Attempts)
				}
				if e.Status != told {
					t.Errorf("status event %q, want %q", e.Status, told)
				}
				code := events.Code("")
				if e.Reply != nil {
					code = e.Reply.Code
				}
				if code != tc.reply {
					t.Errorf("who waits gets %q, want %q", code, tc.reply)
				}
				dead := v.Outcome == rotation.Rejected
				if (b.Fingerprints.Dead == "r1") != dead || b.Fingerprints.NotToBeSent() != dead || (b.Rev > a.Rev) != (b.Version > a.Version || dead) {
					t.Errorf("the token counts as dead: %+v, rev %d", b.Fingerprints, b.Rev)
				}
				if tc.failures > 0 && (b.LastError == nil || b.LastError.Message == "") {
					t.Errorf("last error %+v", b.LastError)
				}
			})
		}
	}
}

// A dead grant is blamed on whoever the fleet's own knowledge points at.
func TestP9WhoIsToBlame(t *testing.T) {
	for name, tc := range map[string]struct {
		attempts int
		reused   bool
		status   account.Status
		code     string
		after    account.Status
	}{
		"the endpoint says so":                   {1, false, account.Active, "invalid_grant", account.ReauthRequired},
		"used before, and not by this fleet":     {1, true, account.Active, events.StatusSecondWriter, account.ReauthRequired},
		"an earlier answer was lost":             {2, false, account.Active, events.StatusRotationLost, account.ReauthRequired},
		"used before, by an answer that is lost": {3, true, account.Active, events.StatusRotationLost, account.ReauthRequired},
		"an operator's switch stays":             {1, false, account.Disabled, "invalid_grant", account.Disabled},
	} {
		t.Run(name, func(t *testing.T) {
			a := sent()
			a.Status, a.Rotation.Attempts = tc.status, tc.attempts
			b, e := settle(t, a, record(), rotation.Verdict{Outcome: rotation.Rejected, Code: "invalid_grant", Reused: tc.reused}, rules())
			if b.Status != tc.after || b.LastError == nil || b.LastError.Code != tc.code || e.Status != tc.code {
				t.Errorf("%s (%+v), told as %q; want %s, %s", b.Status, b.LastError, e.Status, tc.after, tc.code)
			}
		})
	}
}

// A misconfiguration blames the account only if it has a client of its own, or
// runs into the same again.
func TestP9Misconfiguration(t *testing.T) {
	for name, tc := range map[string]struct {
		own      bool
		before   string
		failures int
		retry    time.Duration
	}{
		"the platform's client":          {false, "", 0, time.Minute},
		"another error before":           {false, "http_503", 0, time.Minute},
		"the same error again":           {false, "invalid_client", 1, time.Minute},
		"the account has its own client": {true, "", 1, time.Minute},
		"and runs into the same again":   {true, "invalid_client", 1, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			a, r := sent(), rules()
			if r.Own, r.Circuit = tc.own, time.Minute; tc.before != "" {
				a.LastError = &account.LastError{Code: tc.before}
			}
			b, e := settle(t, a, record(), rotation.Verdict{Outcome: rotation.Misconfigured, Code: "invalid_client"}, r)
			if b.Failures != tc.failures || b.CooldownUntil.IsZero() != (tc.failures == 0) || e.Reply.RetryAfter != tc.retry || b.Status != account.Active || b.LastError.Code != "invalid_client" {
				t.Errorf("%d failures, back-off until %v, retry after %v, %s", b.Failures, b.CooldownUntil, e.Reply.RetryAfter, b.Status)
			}
			if !b.RefreshAt.Equal(noon.Add(tc.retry)) {
				t.Errorf("due at %v, want when the circuit lets it through", b.RefreshAt)
			}
		})
	}
}

// A commit lifts what a failure had put on the account, and leaves what an
// operator has.
func TestCommitRecovers(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(a *account.Account)
		status account.Status
		told   string
	}{
		"all was well":        {func(*account.Account) {}, account.Active, ""},
		"it had failed":       {func(a *account.Account) { a.Failures, a.CooldownUntil = 3, noon }, account.Active, events.StatusRecovered},
		"it was in doubt":     {func(a *account.Account) { a.Rotation.State = account.RotationInDoubt }, account.Active, events.StatusRecovered},
		"its grant was dead":  {func(a *account.Account) { a.Status, a.Fingerprints.Dead = account.ReauthRequired, "r1" }, account.Active, events.StatusRecovered},
		"it was switched off": {func(a *account.Account) { a.Status = account.Disabled }, account.Disabled, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := sent()
			tc.change(&a)
			b, e := settle(t, a, record(), brings(rotation.Granted, "a2", "r2"), rules())
			if b.Status != tc.status || e.Status != tc.told || b.Failures != 0 || !b.CooldownUntil.IsZero() || b.LastError != nil || b.Fingerprints.Dead != "" {
				t.Errorf("%s, told as %q, of %+v", b.Status, e.Status, b)
			}
			if !b.IssuedAt.Equal(noon) || b.Lifetime != time.Hour || !b.ExpiresAt.Equal(noon.Add(time.Hour)) || !b.RefreshAt.After(noon) {
				t.Errorf("issued %v, lives %v until %v, due %v", b.IssuedAt, b.Lifetime, b.ExpiresAt, b.RefreshAt)
			}
			if a.Status == account.ReauthRequired && e.Guard.Rev != a.Rev {
				t.Error("an operator's switch in between would be overwritten")
			}
		})
	}
}
