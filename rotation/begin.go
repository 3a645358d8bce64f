package rotation

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// Begin returns the record of a new rotation and the guard under which it may
// be written: the version and rev that were read (a refusal since then raised
// the rev), and no rotation, or the very one that is taken over, its heartbeat
// unchanged.
func Begin(a *account.Account, worker, host string, s Sight, r Rules) (*account.Rotation, account.Guard) {
	record := &account.Rotation{
		ID: rand.Text(), Worker: worker, Host: host, State: account.RotationBegun,
		FromVersion: a.Version, StartedAt: Millis(r.Now), LeaseTTL: r.Timing.LeaseTTL, Attempts: 1,
	}
	guard := account.Guard{Version: a.Version, Rev: a.Rev, Rotation: account.NoRotation()}
	if gone := a.Rotation; gone != nil {
		guard.Rotation, guard.Heartbeat = &gone.ID, &gone.Heartbeat
		record.Attempts = gone.Attempts + 1
		if record.FirstStartedAt = gone.FirstStartedAt; record.FirstStartedAt.IsZero() {
			record.FirstStartedAt = gone.StartedAt
		}
		record.EarlierOpen = !gone.NoAnswer && s.Still < r.silence(gone)+r.Policy.Timeout
	}
	return record, guard
}

// Doubt says of a rotation whose worker is gone that it is in doubt until a
// second send is allowed. Its Change is nil where the document says so already.
func Doubt(a *account.Account, until, now time.Time) Ending {
	r := *a.Rotation
	e := Ending{Status: events.StatusInDoubt, Note: "rotation in doubt", Message: fmt.Sprintf(
		"worker %s on host %s began to refresh %s and is gone; if the answer reached it, it lies in that host's spool; the refresh token is not sent again before %s",
		r.Worker, r.Host, a.Key, until.UTC().Format(time.RFC3339))}
	if r.State == account.RotationInDoubt {
		return e
	}
	r.State = account.RotationInDoubt
	e.Guard = account.Guard{Rotation: &a.Rotation.ID, Heartbeat: &a.Rotation.Heartbeat}
	e.Change = &account.Change{
		Fields: account.FieldRotation | account.FieldRefreshAt,
		To:     account.Account{Rotation: &r, RefreshAt: Millis(later(until, now.Add(time.Second)))},
	}
	return e
}

// NoteEnd says of an account without a refresh token that its token has ended;
// false: it has not, or that is recorded.
func NoteEnd(v *View, a *account.Account, now time.Time) (Ending, bool) {
	if v.HasRefresh || v.Status != account.Active || v.Left(now) > 0 {
		return Ending{}, false
	}
	const code, text = events.StatusNoRefreshToken, "the token has ended and the account has no refresh token"
	return Ending{
		Guard: account.Guard{Version: a.Version, Rev: a.Rev}, Status: code, Message: text, Note: "account is at its end",
		Change: &account.Change{
			Fields: account.FieldStatus | account.FieldFailure | account.FieldRefreshAt | account.FieldAnnounce, BumpRev: true,
			To: account.Account{Status: account.ReauthRequired, LastError: &account.LastError{Code: code, Message: text, At: Millis(now)},
				AnnouncePending: true, Reason: PendingReason(a)},
		},
	}, true
}
