package explore

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
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
	rotations map[string]*rotationSeen
	version   account.Version // the store's newest
	cache     account.Version // the shared cache's newest
	known     map[*worker]*knows
	issued    map[string]time.Duration // access tokens, by when the endpoint gave them
	excused   bool                     // what nobody could have saved is lost: the account may be lost
	resent    bool                     // a refresh token was used twice, as the rule permits
	logins    int                      // each ends the grant before it
	deleted   bool                     // an operator deleted the account
	wentBack  bool                     // the store is a restored backup
	bad       []string
}

// exchange is one refresh token that the endpoint took.
type exchange struct {
	w         *worker
	token     string // that was spent
	refresh   string // that was given
	rotation  string
	reached   bool          // in the memory of w
	reachedAt time.Duration // and when
	idle      time.Duration // w's, then
	spoolDown bool          // w tried to put it on its disk
	spooled   bool          // on the disk of w
	journaled int           // the step at which it came to where every worker finds it; 0: it did not
	committed account.Version
	step      int             // of the commit
	erased    bool            // the store has gone back since, and has nothing of it
	was       account.Version // in the store that has gone back
	lost      bool            // it never reached a process that lived
}

// rotationSeen is what the store had of a rotation.
type rotationSeen struct {
	beat     time.Duration // its last sign of life
	noAnswer bool          // its worker says that no answer can come
	buried   bool          // its account was deleted since
}

// knows is what a worker was told, or told others.
type knows struct {
	heard  account.Version // by a bump
	news   int             // bumps that it has heard
	looked int             // the step of its last look into the shared journal; 0: none
	begun  time.Duration   // when its last rotation was
	step   int             // the step of that
	id     string          // of that
	erased bool            // the store has gone back since, and has no record of it
	hand   inHand
	ending *ending
}

// inHand is a token that a worker has served.
type inHand struct {
	version account.Version
	expires time.Time
	news    int // bumps that it had heard before
}

// ending is an exchange that ends the old access token, where the endpoint
// does that, as far as one worker knows.
type ending struct {
	over  account.Version
	until time.Duration // nobody waits longer for it
}

func newCheck(s *sim) check {
	return check{s: s, known: map[*worker]*knows{}, issued: map[string]time.Duration{}, rotations: map[string]*rotationSeen{}}
}

func (c *check) fail(format string, args ...any) {
	c.bad = append(c.bad, fmt.Sprintf(format, args...))
}

// of returns what w knows; the caller holds mu.
func (c *check) of(w *worker) *knows {
	k := c.known[w]
	if k == nil {
		k = &knows{}
		c.known[w] = k
	}
	return k
}

func (c *check) seen(id string) *rotationSeen {
	r := c.rotations[id]
	if r == nil {
		r = &rotationSeen{}
		c.rotations[id] = r
	}
	return r
}

// doc is the store's document; zero where it has none.
func (c *check) doc() account.Account {
	docs := c.s.store.Snapshot()
	return docs[theKey]
}

// announced is the version that the fleet has been told of.
func (c *check) announced() account.Version {
	b, _ := c.s.bus.LastBump(c.s.ctx, theKey)
	return b.Version
}

func (c *check) owns(w *worker, a *account.Account) bool {
	return a.Rotation != nil && a.Rotation.Worker == w.name && a.Rotation.State != account.RotationInDoubt
}

// arrives: a refresh token comes to the endpoint.
func (c *check) arrives(w *worker, token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.logf("      the endpoint gets %s from %s", token, w.name)
	a := c.doc()
	k := c.of(w)
	k.ending = &ending{a.Version, k.begun + patience}
	left := a.ExpiresAt.Sub(w.Now())
	for _, e := range c.exchanges {
		if e.token != token {
			continue
		}
		r := c.seen(e.rotation)
		silence := c.s.elapsed() - r.beat
		switch {
		case k.erased: // by the restore: it can't know that another has begun anew
		case e.erased && (e.committed == 0 || e.step >= k.step): // nobody could know when w began
		case e.committed > 0, e.journaled > 0 && (k.looked == 0 || e.journaled <= k.looked):
			c.fail("P1: %s was sent again by %s although its answer was saved", token, w.name)
		case r.buried:
			c.fail("P1: %s was sent again by %s although its account was deleted since", token, w.name)
		case c.holds(e):
			c.fail("P1: %s was sent again by %s while %s lives and holds the answer", token, w.name, e.w.name)
		case !r.noAnswer && silence < leaseTTL:
			c.fail("P1: %s was sent again by %s after only %s of silence", token, w.name, silence)
		case c.s.scenario.grace:
		case !r.noAnswer && silence < leaseTTL+patience:
			c.fail("P1: %s was sent again by %s after only %s of silence", token, w.name, silence)
		case left > rotation.DefaultTiming().RefreshSkew:
			c.fail("P1: %s was sent again by %s while a token lived for %s more", token, w.name, left)
		}
		c.excused, c.resent = true, true // what a permitted second use costs is the endpoint's decision
	}
}

// holds reports whether the answer is in the hands of a worker that has been
// doing well since it came, for long enough to have saved it.
func (c *check) holds(e *exchange) bool {
	return e.reached && !e.w.dead && !e.w.frozen && e.w.idle == e.idle && c.s.elapsed()-e.reachedAt >= leaseTTL
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
	c.exchanges = append(c.exchanges, &exchange{w: w, token: token, refresh: body.Refresh, rotation: c.of(w).id, erased: c.of(w).erased})
}

// last returns w's last exchange, or nil; the caller holds mu.
func (c *check) last(w *worker) *exchange {
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
	if e := c.last(w); e != nil {
		e.lost, c.excused = true, true
	}
}

// reached: the answer is in the process that asked.
func (c *check) reached(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// One that is lost doesn't come: this is the refusal of a token that was sent again.
	if e := c.last(w); e != nil && !e.lost {
		e.reached, e.reachedAt, e.idle = true, c.s.elapsed(), w.idle
	}
}

// crashed: what w had not put on its disk is lost. That excuses it only if the
// disk was the very next thing, or failed.
func (c *check) crashed(w *worker, stashing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.exchanges {
		if e.w == w && !e.spooled && e.journaled == 0 && e.committed == 0 {
			e.lost = true
			c.excused = c.excused || !e.reached || stashing || e.spoolDown
		}
	}
}

// stopped: w has ended by itself, without waiting; err is what it left undone.
// It may give up an answer that has not reached it, and nothing else.
func (c *check) stopped(w *worker, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.logf("      %s has stopped: %v", w.name, err)
	a := c.doc()
	for _, e := range c.exchanges {
		switch {
		case e.w != w || e.committed > 0 || e.was > 0:
		case !e.reached:
			e.lost, c.excused = true, true
		case a.Fingerprints.Refresh != c.fingerprint(e.token) && !c.wentBack: // overtaken by something newer
		case !e.spooled && e.journaled == 0:
			c.fail("P2: %s stopped and dropped an answer that had reached it (%v)", w.name, err)
		case err == nil && !a.Key.IsZero(): // of an account that the store has lost nobody says anything
			c.fail("P2: %s says that it leaves nothing undone, and an answer waits", w.name)
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
			if shared && e.journaled == 0 {
				e.journaled = c.s.step
			}
		}
	}
}

// unsaved: the worker's disk refuses an answer.
func (c *check) unsaved(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.last(w); e != nil {
		e.spoolDown = true
	}
}

// looked: w has read the shared journal.
func (c *check) looked(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of(w).looked = c.s.step
}

// restored: the store has gone back. What it alone had is lost, and with the
// records of rotations the knowledge of what was sent.
func (c *check) restored() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wentBack = true
	for _, k := range c.known {
		k.erased = true
	}
	a := c.doc()
	for _, e := range c.exchanges {
		switch {
		case e.committed > a.Version:
			c.excused, e.was = true, e.committed
			if e.committed > c.announced() {
				e.committed, e.erased = 0, true
			}
		case e.committed == 0:
			// Also where it waits in a journal: that is looked into before each
			// exchange only where the store has the record of a rotation.
			e.erased = true
		}
	}
	c.s.logf("      the store has version %d, the fleet has heard of %d", a.Version, c.announced())
	c.version = a.Version
}

// written: the store has taken a change of w's.
func (c *check) written(w *worker, a *account.Account, change account.Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if change.Fields&account.FieldRotation != 0 {
		c.rotated(w, a)
	}
	if change.Fields&account.FieldDeleted != 0 && a.Deleted() {
		c.deleted = true
		for _, r := range c.rotations {
			r.buried = true
		}
	}
	if change.Fields&account.FieldVersion != 0 {
		c.renewed(a)
	}
}

// rotated: the record of a rotation has changed; the caller holds mu.
func (c *check) rotated(w *worker, a *account.Account) {
	k := c.of(w)
	switch {
	case !c.owns(w, a):
		k.ending = nil
	case a.Rotation.Heartbeat == 0:
		k.begun, k.step, k.id, k.erased = c.s.elapsed(), c.s.step, a.Rotation.ID, false
	}
	if a.Rotation != nil {
		r := c.seen(a.Rotation.ID)
		if r.noAnswer = a.Rotation.NoAnswer; a.Rotation.State != account.RotationInDoubt {
			r.beat = c.s.elapsed()
		}
	}
}

// renewed: the store has other credentials; the caller holds mu.
func (c *check) renewed(a *account.Account) {
	again := false // the very version that a restored store has lost
	for _, e := range c.exchanges {
		if a.Fingerprints.Refresh == c.fingerprint(e.refresh) {
			again = again || e.was == a.Version
			e.committed, e.step = a.Version, c.s.step
		}
	}
	if top := max(c.version, c.announced()); a.Version <= top && !again {
		c.fail("P3: the store's version is %d, after one of %d", a.Version, top)
	}
	c.version = a.Version
	c.s.logf("      the store has version %d", a.Version)
}

func (c *check) fingerprint(token string) string {
	return c.s.sealer.Fingerprint(account.NewSecret(token))
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
