package explore

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/oauth/oauthtest"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

func refuse503() oauthtest.Fault { return oauthtest.Refuse(503, "", "Retry-After", "1") }
func refuseClient() oauthtest.Fault {
	return oauthtest.Refuse(401, `{"error":"invalid_client","error_description":"not invalid_grant"}`, "Content-Type", "application/json")
}

// check watches one world and notes what must never happen.
type check struct {
	s *sim

	mu        sync.Mutex // guards what follows: a healed world runs without a scheduler
	exchanges []*exchange
	version   account.Version // the store's newest
	cache     account.Version // the shared cache's newest
	heardBy   map[*worker]account.Version
	issued    map[string]time.Duration // access tokens, by when the endpoint gave them
	beat      map[string]time.Duration // when a rotation's record was last seen to live
	excused   bool                     // an answer never reached a process: the account may be lost
	resent    bool                     // a refresh token was used twice, as the rule permits
	logins    int                      // each ends the grant before it
	bad       []string
}

// exchange is one refresh token that the endpoint took.
type exchange struct {
	w         *worker
	token     string // that was spent
	refresh   string // that was given
	rotation  string
	reached   bool // in the memory of w
	spoolDown bool // w tried to put it on its disk
	spooled   bool // on the disk of w
	journaled bool // where every worker finds it
	committed bool
	lost      bool // it never reached a process that lived
}

func (c *check) fail(format string, args ...any) {
	c.bad = append(c.bad, fmt.Sprintf(format, args...))
}

// arrives: a refresh token comes to the endpoint.
func (c *check) arrives(w *worker, token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.logf("      the endpoint gets %s from %s", token, w.name)
	for _, e := range c.exchanges {
		if e.token != token {
			continue
		}
		silence := c.s.elapsed() - c.beat[e.rotation]
		a := c.doc()
		left := a.ExpiresAt.Sub(w.wall())
		switch {
		case e.journaled || e.committed:
			c.fail("P1: %s was sent again by %s although its answer was saved", token, w.name)
		case c.s.scenario.grace:
		case !e.lost && silence < leaseTTL+patience:
			c.fail("P1: %s was sent again by %s after only %s of silence", token, w.name, silence)
		case left > rotation.DefaultTiming().RefreshSkew:
			c.fail("P1: %s was sent again by %s while a token lived for %s more", token, w.name, left)
		}
		c.excused, c.resent = true, true // what a permitted second use costs is the endpoint's decision
	}
}

// answered: the endpoint has answered.
func (c *check) answered(w *worker, token string, raw refresh.RawAnswer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.logf("      the endpoint answers %d", raw.Status)
	if raw.Status != 200 {
		return
	}
	var body struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	_ = json.Unmarshal(raw.Body, &body)
	if _, ok := c.issued[body.Access]; !ok {
		c.issued[body.Access] = c.s.elapsed()
	}
	e := &exchange{w: w, token: token, refresh: body.Refresh}
	if a := c.doc(); a.Rotation != nil {
		e.rotation = a.Rotation.ID
	}
	c.exchanges = append(c.exchanges, e)
}

func (c *check) of(w *worker) *exchange {
	for i := len(c.exchanges) - 1; i >= 0; i-- {
		if c.exchanges[i].w == w {
			return c.exchanges[i]
		}
	}
	return nil
}

// lost: the answer will never come.
func (c *check) lost(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.of(w); e != nil {
		e.lost, c.excused = true, true
	}
}

// reached: the answer is in the process that asked.
func (c *check) reached(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.of(w); e != nil {
		e.reached = true
	}
}

// crashed: what w had not put on its disk is lost. That excuses it only if the
// disk was the very next thing, or failed.
func (c *check) crashed(w *worker, stashing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.exchanges {
		if e.w == w && !e.spooled && !e.journaled && !e.committed {
			e.lost = true
			c.excused = c.excused || !e.reached || stashing || e.spoolDown
		}
	}
}

// saved: an answer is in a journal.
func (c *check) saved(w *worker, r rotation.Record, shared bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.exchanges {
		if e.w == w && e.rotation == r.RotationID {
			e.spooled = true
			e.journaled = e.journaled || shared
		}
	}
}

// unsaved: the worker's disk refuses an answer.
func (c *check) unsaved(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.of(w); e != nil {
		e.spoolDown = true
	}
}

// written: the store has taken a change.
func (c *check) written(w *worker, a *account.Account, change account.Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.Rotation != nil && change.Fields&account.FieldRotation != 0 && a.Rotation.State != account.RotationInDoubt {
		c.beat[a.Rotation.ID] = c.s.elapsed()
	}
	if change.Fields&account.FieldVersion == 0 {
		return
	}
	if a.Version <= c.version {
		c.fail("P3: the store's version went from %d to %d", c.version, a.Version)
	}
	c.version = a.Version
	for _, e := range c.exchanges {
		if a.Fingerprints.Refresh == c.s.sealer.Fingerprint(account.NewSecret(e.refresh)) {
			e.committed = true
		}
	}
	c.s.logf("      the store has version %d", a.Version)
}

// cached: the shared cache has taken or refused an entry.
func (c *check) cached() {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, err := c.s.cache.Get(c.s.ctx, theKey)
	if err != nil || e.Version < c.cache {
		c.fail("P3: the shared cache went from version %d to %d (%v)", c.cache, e.Version, err)
	}
	c.cache = e.Version
}

func (c *check) heard(w *worker, b events.Bump) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heardBy[w] = max(c.heardBy[w], b.Version)
}

func (c *check) floor(w *worker) account.Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heardBy[w]
}

// excuse: what was on its way to the fleet is lost by the scenario itself.
func (c *check) excuse() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.excused = true
}

func (c *check) login() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logins++
}

// reply: a request was answered. floor is the version whose bump its worker
// had heard before, seen what the asker had seen.
func (c *check) reply(w *worker, floor, seen account.Version, r events.TokenReply, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.s.logf("      %s answers %v", w.name, err)
		if e, ok := errors.AsType[*events.Error](err); !ok || e.Code == events.CodeReauthRequired && !c.excused {
			c.fail("P9: %s answers %v although nothing was lost", w.name, err)
		}
		return
	}
	c.s.logf("      %s answers version %d", w.name, r.Version)
	switch {
	case r.Version < floor:
		c.fail("P4: %s answers version %d after it heard the bump of %d", w.name, r.Version, floor)
	case r.Version < seen:
		c.fail("P3: an asker that has seen version %d gets %d", seen, r.Version)
	case !r.ExpiresAt.After(w.wall()):
		c.fail("P5: %s answers a token that ended at %s", w.name, r.ExpiresAt)
	}
	if at, ok := c.issued[r.AccessToken.Reveal()]; ok && c.s.elapsed() > at+tokenTTL+clocksApart {
		c.fail("P5: %s answers a token that ended %s ago", w.name, c.s.elapsed()-at-tokenTTL)
	}
}

// denied: a request for which a living token was at hand got an error.
func (c *check) denied(w *worker, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail("P6: %s answers %v although a living token was at hand", w.name, err)
}

func (c *check) doc() account.Account {
	docs := c.s.store.Snapshot()
	return docs[theKey]
}

// end looks at the healed world.
// newest says that the last reply was the store's version at that time.
func (c *check) end(r events.TokenReply, err error, newest bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.doc()
	_, refresh := c.s.endpoint.Current("a")
	held := a.Fingerprints.Refresh == c.s.sealer.Fingerprint(account.NewSecret(refresh))
	e, _ := errors.AsType[*events.Error](err)
	switch {
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
	if a.AnnouncePending {
		c.fail("P4: version %d was never announced", a.Version)
	}
	if entry, err := c.s.cache.Get(c.s.ctx, theKey); err == nil && entry.Version != a.Version {
		c.fail("P3: the shared cache ends with version %d and the store with %d", entry.Version, a.Version)
	}
	for _, w := range c.s.workers {
		if records, err := w.spool.Records(c.s.ctx, theKey); err != nil || len(records) > 0 {
			c.fail("P2: the spool of %s is not empty in the end: %v %v", w.name, records, err)
		}
	}
	if records, err := c.s.journal.Records(c.s.ctx, theKey); err != nil || len(records) > 0 {
		c.fail("P2: the journal is not empty in the end: %v %v", records, err)
	}
}

// wall is Now for those who hold no lock: checks run on scheduled goroutines,
// one at a time.
func (w *worker) wall() time.Time { return w.Now() }
