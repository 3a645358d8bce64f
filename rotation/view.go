package rotation

import (
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// View is what a look-up needs to know of an account at one rev. It is
// immutable, and all that the caches hold.
type View struct {
	Key     account.Key
	Status  account.Status
	Version account.Version
	Rev     account.Rev
	Gone    bool // no such account, or a tombstone

	Token     account.Secret
	TokenType string
	Extra     account.Extra
	Expires   time.Time // for the reply; zero where unknown
	End       time.Time // when it stops being served; zero where nothing tells
	Lifetime  time.Duration
	Issued    time.Time // when an exchange brought it; zero for a login
	Streak    int       // forced refreshes in a row
	Earliest  time.Time // the endpoint refuses to refresh before

	HasRefresh bool   // there is a refresh token
	Dead       bool   // and the endpoint refused it for good
	Code, Text string // the last error, for people
}

// Missing reports whether there is no document at all, not even a tombstone.
func (v *View) Missing() bool { return v.Gone && v.Rev == 0 }

// Refreshable reports whether there is a refresh token that may be sent.
func (v *View) Refreshable() bool { return v.HasRefresh && !v.Dead }

// Left returns how long the token is still served. A token whose end nothing
// tells counts as ended if it can be refreshed, and as endless otherwise.
func (v *View) Left(now time.Time) time.Duration {
	switch {
	case v.Token.IsZero():
		return 0
	case !v.End.IsZero():
		return v.End.Sub(now)
	case v.Refreshable():
		return 0
	}
	return 1<<63 - 1
}

// Reply is the answer to a token request.
func (v *View) Reply(source events.Source) events.TokenReply {
	return events.TokenReply{
		Key: v.Key, Version: v.Version, AccessToken: v.Token, TokenType: v.TokenType,
		ExpiresAt: v.Expires, Source: source, Extra: v.Extra,
	}
}

// ViewOf reads a document. The extra fields are cut down to the allowed ones.
func ViewOf(a *account.Account, c account.Credentials, p Policy) *View {
	v := &View{
		Key: a.Key, Status: a.Status, Version: a.Version, Rev: a.Rev, Gone: a.Deleted(),
		Token: c.AccessToken, TokenType: c.TokenType, Expires: a.ExpiresAt,
		End: ends(a.ExpiresAt, a.IssuedAt, a.Lifetime), Lifetime: a.Lifetime,
		Issued: a.IssuedAt, Streak: a.ForcedStreak, Earliest: tooEarlyUntil(a, p),
		HasRefresh: a.HasRefreshToken(), Dead: a.Fingerprints.NotToBeSent(),
	}
	if v.TokenType == "" {
		v.TokenType = "Bearer"
	}
	for _, name := range p.ExtraFields {
		if raw, ok := c.Extra[name]; ok {
			if v.Extra == nil {
				v.Extra = account.Extra{}
			}
			v.Extra[name] = raw
		}
	}
	if a.LastError != nil {
		v.Code, v.Text = a.LastError.Code, a.LastError.Message
	}
	return v
}

// minVersionAge: no version is refreshed sooner, whatever its token says.
const minVersionAge = time.Second

// MayRefresh returns why a refresh of what is known can't be had, or nil.
func MayRefresh(v *View, reason events.Reason, now time.Time) *events.Error {
	cooling := func(until time.Time, text string) *events.Error {
		return events.CoolingDown(until.Sub(now), "%s: %s", v.Key, text)
	}
	switch {
	case !v.HasRefresh:
		return events.ReauthRequired(v.Key, events.StatusNoRefreshToken, "the account has no refresh token")
	case v.Dead || v.Status == account.ReauthRequired:
		return events.ReauthRequired(v.Key, v.Code, v.Text)
	case v.Earliest.After(now):
		return cooling(v.Earliest, "the endpoint does not refresh a token this young")
	}
	if age := now.Sub(v.Issued); age >= 0 && age < minVersionAge {
		return cooling(v.Issued.Add(minVersionAge), "its token has just come from the endpoint")
	}
	if reason == events.ReasonRejected || reason == events.ReasonForced {
		// One that comes from the future was issued by a clock that is wrong.
		if until := ForcedHoldUntil(v.Issued, v.Streak); until.After(now) && v.Issued.Sub(now) < maxForcedHold {
			return cooling(until, fmt.Sprintf("version %d came from the endpoint a moment ago and is not forced out yet", v.Version))
		}
	}
	return nil
}
