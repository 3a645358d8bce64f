package rotation_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/rotation"
)

// settling is what [rotation.Settle] is asked: a document, the record of an
// exchange, and its outcome, which need not have to do with each other.
type settling struct {
	a       account.Account
	rec     rotation.Record
	verdict rotation.Verdict
	rules   rotation.Rules
}

func (s settling) String() string {
	return fmt.Sprintf("document %+v with rotation %+v, record %+v, outcome %s with access %t, refresh %q",
		s.a, s.a.Rotation, s.rec, s.verdict.Outcome, !s.verdict.Credentials.AccessToken.IsZero(), s.verdict.Credentials.RefreshToken.Reveal())
}

func drawSettling(t *rapid.T) settling {
	token := func(kind, label string) string {
		return kind + rapid.SampledFrom([]string{"0", "1", "1", "1", "2"}).Draw(t, label)
	}
	s := settling{a: sent(), rec: record(), rules: rules()}
	a := &s.a
	a.Version = account.Version(rapid.IntRange(5, 9).Draw(t, "version"))
	a.Rev = account.Rev(rapid.IntRange(5, 20).Draw(t, "rev"))
	a.Status = rapid.SampledFrom([]account.Status{account.Active, account.Active, account.Disabled, account.ReauthRequired}).Draw(t, "status")
	a.Fingerprints = account.Fingerprints{Access: token("a", "access"), Refresh: token("r", "refresh")}
	a.Failures = rapid.IntRange(0, 3).Draw(t, "failures")
	a.ForcedStreak = rapid.IntRange(0, 3).Draw(t, "streak")
	switch rapid.IntRange(0, 9).Draw(t, "it is") {
	case 0:
		a.DeletedAt, a.Fingerprints = noon, account.Fingerprints{Spent: []string{"r1"}}
	case 1:
		a.LastRotationID = "mine"
	case 2:
		a.Fingerprints.Refresh = ""
	}
	switch rapid.IntRange(0, 5).Draw(t, "rotation is") {
	case 0:
		a.Rotation = nil
	case 1:
		a.Rotation.ID = "theirs"
	}
	if a.Rotation != nil {
		a.Rotation.State = rapid.SampledFrom([]account.RotationState{account.RotationBegun, account.RotationSent, account.RotationInDoubt}).Draw(t, "state")
		a.Rotation.Attempts = rapid.IntRange(1, 3).Draw(t, "attempts")
	}
	s.rec.FromVersion = account.Version(rapid.IntRange(5, 9).Draw(t, "from version"))
	s.rec.From = account.Fingerprints{Access: token("a", "from access"), Refresh: "r1"}
	s.rec.Reason = rapid.SampledFrom([]events.Reason{events.ReasonExpiry, events.ReasonRequest, events.ReasonRejected, events.ReasonForced}).Draw(t, "reason")
	s.rec.Operator = one(t, 4, "operator")

	outcome := rapid.SampledFrom([]rotation.Outcome{
		rotation.Granted, rotation.Granted, rotation.Rejected, rotation.Misconfigured, rotation.Throttled, rotation.Transient, rotation.Unknown, rotation.NotSent, rotation.Fenced,
	}).Draw(t, "outcome")
	access, refresh := "", ""
	if outcome == rotation.Granted || outcome == rotation.Unknown && one(t, 2, "something came") {
		access, refresh = rapid.SampledFrom([]string{"a7", "a7", ""}).Draw(t, "new access"), rapid.SampledFrom([]string{"r7", "r7", "r1", ""}).Draw(t, "new refresh")
		if access == "" && refresh == "" {
			access = "a7"
		}
	}
	s.verdict = brings(outcome, access, refresh)
	s.verdict.Code, s.verdict.Reused = "code", one(t, 3, "reused")
	s.verdict.RetryAfter = rapid.SampledFrom([]time.Duration{0, time.Second, time.Hour}).Draw(t, "retry after")
	s.rules.Own = one(t, 3, "own client")
	return s
}

// settle does as [settle], for rapid.
func (s settling) settle(t *rapid.T, a account.Account) (account.Account, rotation.Ending) {
	e := rotation.Settle(&a, s.rec, s.verdict, merged(&a, s.verdict), s.rules)
	b := a.Clone()
	if e.Change == nil {
		return b, e
	}
	if !e.Guard.Holds(&a) {
		t.Fatalf("its guard %+v does not hold on what it was asked about: %v", e.Guard, s)
	}
	e.Change.Apply(&b)
	return b, e
}

func TestP3SettleOnlyRaises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for range rounds {
			s := drawSettling(t)
			b, e := s.settle(t, s.a)
			switch credentials := e.Credentials != nil; {
			case b.Version < s.a.Version, b.Rev < s.a.Rev:
				t.Fatalf("version %d, rev %d: %v", b.Version, b.Rev, s)
			case credentials && b.Version != max(s.a.Version, s.rec.FromVersion)+1:
				t.Fatalf("credentials come as version %d: %v", b.Version, s)
			case !credentials && b.Version != s.a.Version:
				t.Fatalf("version %d without credentials: %v", b.Version, s)
			case (credentials || b.Status != s.a.Status) && (b.Rev <= s.a.Rev || !b.AnnouncePending):
				t.Fatalf("peers don't hear of it: %v", s)
			case e.Above != (credentials && s.a.Version < s.rec.FromVersion):
				t.Fatalf("above all that was announced: %t: %v", e.Above, s)
			}
		}
	})
}

// An answer with a new refresh token, and the document has the one that was
// spent for it: no other one lives.
func TestP2SettleNeverDropsTheOnlyLivingToken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for range rounds {
			s := drawSettling(t)
			given := s.verdict.Credentials.RefreshToken.Reveal()
			spent := s.a.Fingerprints.Refresh == s.rec.From.Refresh && !s.a.Deleted() || s.a.Version < s.rec.FromVersion
			if given == "" || given == s.rec.From.Refresh || !spent || s.a.LastRotationID == s.rec.RotationID {
				continue
			}
			b, e := s.settle(t, s.a)
			if b.Fingerprints.Refresh != given || e.Credentials == nil {
				t.Fatalf("the document has %q then: %v", b.Fingerprints.Refresh, s)
			}
			if b.Rotation != nil || b.Fingerprints.NotToBeSent() {
				t.Fatalf("and it can't be used: %+v, %+v: %v", b.Fingerprints, b.Rotation, s)
			}
		}
	})
}

func TestP9OnlyARejectionEndsAnAccount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for range rounds {
			s := drawSettling(t)
			b, e := s.settle(t, s.a)
			mine := s.a.Rotation != nil && s.a.Rotation.ID == s.rec.RotationID && s.a.Fingerprints.Refresh == s.rec.From.Refresh
			switch {
			case b.Status == account.ReauthRequired && s.a.Status != account.ReauthRequired && (s.verdict.Outcome != rotation.Rejected || !mine):
				t.Fatalf("it is %s: %v", b.Status, s)
			case b.Fingerprints.Dead != s.a.Fingerprints.Dead && b.Fingerprints.Dead != "" && s.verdict.Outcome != rotation.Rejected:
				t.Fatalf("%s counts as dead: %v", b.Fingerprints.Dead, s)
			case s.a.Status == account.Disabled && b.Status != account.Disabled:
				t.Fatalf("an operator's switch is undone: %v", s)
			case s.a.Rotation != nil && s.a.Rotation.ID == "theirs" && b.Rotation == nil && e.Credentials == nil:
				t.Fatalf("another's record is removed without credentials: %v", s)
			}
		}
	})
}

// Whoever asks again, because the outcome of the write was unknown, finds it
// settled.
func TestP2SettledStaysSettled(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for range rounds {
			s := drawSettling(t)
			b, e := s.settle(t, s.a)
			if e.Change == nil {
				continue
			}
			if _, again := s.settle(t, b); again.Change != nil {
				t.Fatalf("%q, and asked again %q with %+v of %+v: %v", e.Note, again.Note, again.Change.To.Rotation, b.Rotation, s)
			}
		}
	})
}
