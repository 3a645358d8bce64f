package explore

import (
	"errors"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/rotation"
)

// asked is a request that was made, with what its worker knew then.
type asked struct {
	w      *worker
	req    events.TokenRequest
	seen   account.Version // by the asker
	heard  account.Version // by its worker's bumps
	news   int
	ending *ending
	faults int
	plain  bool // nothing has gone wrong yet, and its worker's clock is right
}

// asks: a request is made.
func (c *check) asks(w *worker, req events.TokenRequest, seen account.Version) asked {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.of(w)
	return asked{w: w, req: req, seen: seen, heard: k.heard, news: k.news, ending: k.ending, faults: c.s.spent, plain: w.skew == 0}
}

// reply: a request was answered.
func (c *check) reply(q asked, r events.TokenReply, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.s.logf("      %s answers %v", q.w.name, err)
		c.refused(q, err)
		return
	}
	w, now := q.w, c.s.elapsed()
	c.s.logf("      %s answers version %d", w.name, r.Version)
	switch {
	case r.Version < q.heard && !c.wentBack: // a floor that the store refutes is none
		c.fail("P4: %s answers version %d after it heard the bump of %d", w.name, r.Version, q.heard)
	case r.Version < q.seen:
		c.fail("P3: an asker that has seen version %d gets %d", q.seen, r.Version)
	case !r.ExpiresAt.After(w.Now()):
		c.fail("P5: %s answers a token that ended at %s", w.name, r.ExpiresAt)
	}
	if at, ok := c.issued[r.AccessToken.Reveal()]; ok && now > at+tokenTTL+clocksApart {
		c.fail("P5: %s answers a token that ended %s ago", w.name, now-at-tokenTTL)
	}
	k := c.of(w)
	if e := q.ending; c.s.scenario.ends && e != nil && e == k.ending && r.Version == e.over && now < e.until && c.runs() {
		c.fail("%s answers version %d, which the exchange that it knows of ends", w.name, r.Version)
	}
	k.hand = inHand{r.Version, r.ExpiresAt, q.news}
}

// runs reports whether a rotation that has a worker is recorded.
func (c *check) runs() bool {
	a := c.doc()
	return a.Rotation != nil && a.Rotation.State != account.RotationInDoubt
}

// refused: a request got an error. The caller holds mu.
func (c *check) refused(q asked, err error) {
	e, ok := errors.AsType[*events.Error](err)
	if !ok {
		c.fail("P10: %s answers an error of another kind: %v", q.w.name, err)
		return
	}
	switch e.Code {
	case events.CodeUnavailable, events.CodeCoolingDown, events.CodeTimeout:
	case events.CodeNotFound:
		if !c.deleted && !c.wentBack {
			c.fail("P9: %s answers %v although nobody deleted it", q.w.name, err)
		}
	case events.CodeReauthRequired:
		if !c.excused {
			c.fail("P9: %s answers %v although nothing was lost", q.w.name, err)
		}
	default:
		c.fail("P9: %s answers %v", q.w.name, err)
	}
	if q.req != (events.TokenRequest{MinVersion: q.seen}) {
		return
	}
	needs := rotation.DefaultTiming().MinTTL
	if q.plain && c.s.scenario.left > needs && q.faults == 0 && c.s.spent == 0 && c.s.elapsed() < time.Second {
		c.fail("P6: %s answers %v although a living token was at hand", q.w.name, err)
	}
	k := c.of(q.w)
	had := k.hand.version > 0 && k.hand.version >= q.seen && k.hand.news == k.news && k.hand.expires.Sub(q.w.Now()) > needs
	if had && !c.deleted && !c.wentBack && !q.w.stops && !c.s.scenario.ends { // there they wait, and share what comes of it
		c.fail("P7: %s answers %v although it has served version %d, which still lives", q.w.name, err, k.hand.version)
	}
}

// heard: w has heard a bump.
func (c *check) heard(w *worker, b events.Bump) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.of(w)
	k.heard, k.ending = max(k.heard, b.Version), nil
	k.news++
}

// told: w has heard a status event.
func (c *check) told(w *worker, e events.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.of(w)
	if k.ending = nil; e.Code == events.StatusRefreshing {
		k.ending = &ending{c.doc().Version, c.s.elapsed() + patience}
	}
}

// end looks at the healed world. newest says that the last reply was the
// store's version at that time.
func (c *check) end(r events.TokenReply, err error, newest bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.doc()
	behind := c.behind(&a)
	_, refresh := c.s.endpoint.Current("a")
	held := a.Fingerprints.Refresh == c.fingerprint(refresh)
	e, _ := errors.AsType[*events.Error](err)
	switch {
	case e != nil && e.Code == events.CodeNotFound && (a.Deleted() || a.Key.IsZero()): // as it was left
	case behind && (err == nil || e != nil && (e.Code == events.CodeUnavailable || c.excused)): // nothing is sent before a person has looked
	case !c.excused && !held:
		c.fail("P2: the endpoint's newest refresh token is not in the store, and no answer was lost on the way")
	case !c.excused && a.Status != account.Active:
		c.fail("P9: the account is %s (%v) although nothing was lost", a.Status, a.LastError)
	case !newest || r.Version == a.Version && c.s.sealer.Fingerprint(r.AccessToken) != a.Fingerprints.Access:
		c.fail("P3: version %d comes out in the end and the store has %d", r.Version, a.Version)
	case err != nil && (e == nil || e.Code != events.CodeReauthRequired):
		c.fail("nobody can go on: %v", err)
	case c.logins == 1 && !c.resent && a.Status == account.ReauthRequired && a.LastError.Code != events.StatusRotationLost:
		c.fail("P9: a lost answer is called %s", a.LastError.Code)
	}
	if a.LastError != nil && a.LastError.Code == events.StatusSecondWriter && !c.wentBack {
		c.fail("P9: there is no second writer in this world, and the account has %v", *a.LastError)
	}
	if a.AnnouncePending {
		c.fail("P4: version %d was never announced", a.Version)
	}
	if entry, err := c.s.cache.Get(c.s.ctx, theKey); err == nil && entry.Version != a.Version && !behind {
		c.fail("P3: the shared cache ends with version %d and the store with %d", entry.Version, a.Version)
	}
	if !a.Key.IsZero() {
		c.nothingWaits()
	}
}

// nothingWaits: every answer is settled; the caller holds mu.
func (c *check) nothingWaits() {
	for _, w := range c.s.workers {
		if records, err := w.spool.Records(c.s.ctx, theKey); err != nil || len(records) > 0 {
			c.fail("P2: the spool of %s is not empty in the end: %v %v", w.name, records, err)
		}
	}
	if records, err := c.s.journal.Records(c.s.ctx, theKey); err != nil || len(records) > 0 {
		c.fail("P2: the journal is not empty in the end: %v %v", records, err)
	}
}

// behind reports whether the store has gone back behind what the fleet was
// told, by a bump or by the shared cache.
func (c *check) behind(a *account.Account) bool {
	return c.wentBack && a.Version < max(c.announced(), c.cache)
}

// hopeless reports whether no time heals this.
func (c *check) hopeless(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.doc()
	e, ok := errors.AsType[*events.Error](err)
	return ok && (e.Code == events.CodeReauthRequired || e.Code == events.CodeNotFound || c.behind(&a))
}

// stuck reports whether a person must log in before anything is refreshed.
func (c *check) stuck(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.doc()
	return err != nil || c.behind(&a)
}

// anew: a person has logged in to a world without faults. From here on nothing
// is excused.
func (c *check) anew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.excused, c.deleted, c.wentBack = false, false, false
}
