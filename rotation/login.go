package rotation

import (
	"time"

	"github.com/tokenbus/tokenbus/account"
)

// LoginFields are what [Login] sets.
const LoginFields = account.FieldCredentials | account.FieldFingerprints | account.FieldRotation | account.FieldStatus |
	account.FieldFailure | account.FieldForced | account.FieldRefreshAt

// Login draws from b's new credentials, which replace a's, what follows for the
// rest of b: what was about another refresh token is over, and one that was
// perhaps sent is never sent again.
func Login(a, b *account.Account, r Rules) {
	if b.Fingerprints.Refresh != a.Fingerprints.Refresh {
		if a.Rotation != nil {
			b.Fingerprints = b.Fingerprints.WithSpent(a.Fingerprints.Refresh)
		}
		b.Rotation = nil
		if b.Fingerprints.Dead != b.Fingerprints.Refresh {
			b.Fingerprints.Dead = ""
		}
	}
	switch {
	case b.Status == account.Disabled: // an operator's switch
	case b.Fingerprints.NotToBeSent():
		b.Status = account.ReauthRequired
	default:
		b.Status = account.Active
	}
	b.IssuedAt, b.EarliestRefreshAt, b.ForcedStreak = time.Time{}, time.Time{}, 0
	b.CooldownUntil, b.Failures, b.LastError = time.Time{}, 0, nil
	b.RefreshAt = r.Timing.RefreshAt(b, r.Policy, r.Now, r.Random)
}
