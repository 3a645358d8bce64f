package provider

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// view is what a look-up needs to know of an account at one rev. It is
// immutable, and all that the caches hold.
type view struct {
	key     account.Key
	status  account.Status
	version account.Version
	rev     account.Rev
	gone    bool // no such account, or a tombstone

	token     account.Secret
	tokenType string
	extra     account.Extra
	expires   time.Time // for the reply; zero where unknown
	end       time.Time // when it stops being served; zero where nothing tells
	lifetime  time.Duration
	issued    time.Time // when an exchange brought it; zero for a login
	streak    int       // forced refreshes in a row
	earliest  time.Time // the endpoint refuses to refresh before

	hasRefresh bool   // there is a refresh token
	dead       bool   // and the endpoint refused it for good
	code, text string // the last error, for people
}

func (v *view) refreshable() bool { return v.hasRefresh && !v.dead }

// left returns how long the token is still served. A token whose end nothing
// tells counts as ended if it can be refreshed, and as endless otherwise.
func (v *view) left(now time.Time) time.Duration {
	switch {
	case v.token.IsZero():
		return 0
	case !v.end.IsZero():
		return v.end.Sub(now)
	case v.refreshable():
		return 0
	}
	return 1<<63 - 1
}

func (v *view) reply(source events.Source) events.TokenReply {
	return events.TokenReply{
		Key: v.key, Version: v.version, AccessToken: v.token, TokenType: v.tokenType,
		ExpiresAt: v.expires, Source: source, Extra: v.extra,
	}
}

// viewOf reads a document. The extra fields are cut down to the allowed ones.
func viewOf(a *account.Account, c account.Credentials, p Policy) *view {
	v := &view{
		key: a.Key, status: a.Status, version: a.Version, rev: a.Rev, gone: a.Deleted(),
		token: c.AccessToken, tokenType: c.TokenType, expires: a.ExpiresAt,
		end: ends(a.ExpiresAt, a.IssuedAt, a.Lifetime), lifetime: a.Lifetime,
		issued: a.IssuedAt, streak: a.ForcedStreak, earliest: tooEarlyUntil(a, p),
		hasRefresh: a.HasRefreshToken(), dead: a.Fingerprints.NotToBeSent(),
	}
	if v.tokenType == "" {
		v.tokenType = "Bearer"
	}
	for _, name := range p.ExtraFields {
		if raw, ok := c.Extra[name]; ok {
			if v.extra == nil {
				v.extra = account.Extra{}
			}
			v.extra[name] = raw
		}
	}
	if a.LastError != nil {
		v.code, v.text = a.LastError.Code, a.LastError.Message
	}
	return v
}

// viewJSON is the plaintext of a shared-cache entry.
type viewJSON struct {
	Status     account.Status `json:"status"`
	Gone       bool           `json:"gone,omitempty"`
	Token      string         `json:"token,omitempty"`
	TokenType  string         `json:"token_type,omitempty"`
	Extra      account.Extra  `json:"extra,omitempty"`
	Expires    time.Time      `json:"expires,omitzero"`
	End        time.Time      `json:"end,omitzero"`
	Lifetime   time.Duration  `json:"lifetime,omitempty"`
	Issued     time.Time      `json:"issued,omitzero"`
	Streak     int            `json:"streak,omitempty"`
	Earliest   time.Time      `json:"earliest,omitzero"`
	HasRefresh bool           `json:"has_refresh,omitempty"`
	Dead       bool           `json:"dead,omitempty"`
	Code       string         `json:"code,omitempty"`
	Text       string         `json:"text,omitempty"`
}

// Fields of an account's data that are sealed apart.
const (
	fieldCredentials = "credentials"
	fieldCache       = "cache"
	fieldAnswer      = "answer"
)

// associated binds sealed bytes to their account and field, so that none can
// be put in another's place.
func associated(key account.Key, field string) []byte {
	return []byte(key.String() + "|" + field + "|" + strconv.Itoa(account.SchemaVersion))
}

// sealView returns the shared-cache entry of v.
func (p *Provider) sealView(v *view) (Entry, error) {
	plain, err := json.Marshal(viewJSON{
		v.status, v.gone, v.token.Reveal(), v.tokenType, v.extra, v.expires, v.end, v.lifetime, v.issued, v.streak,
		v.earliest, v.hasRefresh, v.dead, v.code, v.text,
	})
	if err != nil {
		return Entry{}, fmt.Errorf("encode cache entry of %s: %w", v.key, err)
	}
	value, err := p.sealer.Seal(plain, associated(v.key, fieldCache))
	if err != nil {
		return Entry{}, fmt.Errorf("seal cache entry of %s: %w", v.key, err)
	}
	until := p.clock.Now().Add(LifetimeUnknown)
	if !v.end.IsZero() {
		until = v.end.Add(-p.timing.cacheSkew(v.lifetime))
	}
	return Entry{Rev: v.rev, Version: v.version, Value: value, Until: millis(until)}, nil
}

// openView reads a shared-cache entry.
func (p *Provider) openView(key account.Key, e Entry) (*view, error) {
	plain, err := p.sealer.Open(e.Value, associated(key, fieldCache))
	if err != nil {
		return nil, fmt.Errorf("open cache entry of %s: %w", key, err)
	}
	var j viewJSON
	if err := json.Unmarshal(plain, &j); err != nil {
		return nil, fmt.Errorf("decode cache entry of %s: not of the expected form", key)
	}
	return &view{
		key: key, status: j.Status, version: e.Version, rev: e.Rev, gone: j.Gone,
		token: account.NewSecret(j.Token), tokenType: j.TokenType, extra: j.Extra, expires: j.Expires, end: j.End,
		lifetime: j.Lifetime, issued: j.Issued, streak: j.Streak, earliest: j.Earliest,
		hasRefresh: j.HasRefresh, dead: j.Dead, code: j.Code, text: j.Text,
	}, nil
}

// open decrypts a document's credentials. The fingerprints are computed anew:
// another program may have written the document.
func (p *Provider) open(a *account.Account) (account.Credentials, error) {
	if len(a.Credentials) == 0 {
		return account.Credentials{}, nil
	}
	plain, err := p.sealer.Open(a.Credentials, associated(a.Key, fieldCredentials))
	if err != nil {
		return account.Credentials{}, fmt.Errorf("open credentials of %s: %w", a.Key, err)
	}
	c, err := account.DecodeCredentials(plain)
	if err != nil {
		return account.Credentials{}, fmt.Errorf("decode credentials of %s: %w", a.Key, err)
	}
	a.Fingerprints.Access = p.sealer.Fingerprint(c.AccessToken)
	a.Fingerprints.Refresh = p.sealer.Fingerprint(c.RefreshToken)
	return c, nil
}

// setCredentials seals c into a and sets what follows from c alone.
func (p *Provider) setCredentials(a *account.Account, c account.Credentials) error {
	sealed, err := p.sealer.Seal(c.Encode(), associated(a.Key, fieldCredentials))
	if err != nil {
		return fmt.Errorf("seal credentials of %s: %w", a.Key, err)
	}
	a.Credentials = sealed
	a.ExpiresAt = millis(c.ExpiresAt)
	if c.ExpiresAt.IsZero() {
		a.ExpiresAt = time.Time{}
	}
	a.Fingerprints.Access = p.sealer.Fingerprint(c.AccessToken)
	a.Fingerprints.Refresh = p.sealer.Fingerprint(c.RefreshToken)
	return nil
}
