package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// Patience of look-ups with things beside the store. A cache that is slower
// than this is worth no more than one that is down.
const (
	cacheTimeout   = 500 * time.Millisecond
	storeTimeout   = 5 * time.Second
	retrySoon      = time.Second // retry_after where nothing better is known
	negativeMaxAge = time.Second // how long "no such account" is believed
	maxRounds      = 4           // refreshes that one request waits for
	minVersionAge  = time.Second // no version is refreshed before, whatever its token says
)

// Cached answers from memory alone, with the encoded reply. It is the fast
// path of [Provider.Token], which gives every answer that Cached doesn't. It
// never blocks and may start a refresh beside the request.
func (p *Provider) Cached(key account.Key, req events.TokenRequest) ([]byte, bool) {
	e := p.l1.get(key)
	if e == nil || e.view == nil || e.view.gone {
		return nil, false
	}
	now := p.clock.Now()
	if !p.fresh(e, now) || e.busy.After(now) {
		return nil, false
	}
	j := p.judge(e.view, req, now)
	if j.err != nil || j.wait {
		return nil, false
	}
	if j.refresh {
		p.refreshBeside(e.view)
	}
	p.stats.lookup(events.SourceL1)
	if j.notModified {
		return events.TokenReply{Version: e.view.version, ExpiresAt: e.view.expires, NotModified: true}.Encode(), true
	}
	return e.body(), true
}

// fresh reports whether L1 may serve the entry without a look elsewhere.
func (p *Provider) fresh(e *l1Entry, now time.Time) bool {
	maxAge := p.timing.L1MaxAge
	if e.view.gone && e.view.rev == 0 {
		maxAge = negativeMaxAge
	}
	return e.view.rev >= e.floor && e.epoch == p.l1.epoch.Load() && now.Sub(e.checked) < maxAge
}

// judgement is what a view is good for, for one request.
type judgement struct {
	err         *events.Error // the answer is this error
	wait        bool          // a refresh is needed first
	refresh     bool          // serve, and refresh beside
	notModified bool
	reason      events.Reason // of the refresh that is waited for
	unsure      bool          // the view is too old for the request: ask the store
	join        bool          // only wait for the refresh that runs
}

// judge decides what to do with a request, given what is known of the account.
// It is a pure function of its arguments and the configuration.
func (p *Provider) judge(v *view, req events.TokenRequest, now time.Time) judgement {
	fail := func(code events.Code, after time.Duration, format string, args ...any) judgement {
		return judgement{err: &events.Error{Code: code, Message: fmt.Sprintf(format, args...), RetryAfter: after}}
	}
	switch {
	case v.gone:
		j := fail(events.CodeNotFound, 0, "no account %s", v.key)
		j.unsure = max(req.MinVersion, req.RejectedVersion) > v.version // somebody has seen it
		return j
	case req.MinVersion > v.version || req.RejectedVersion > v.version:
		j := fail(events.CodeUnavailable, retrySoon, "%s is at version %d, version %d was asked for", v.key, v.version, max(req.MinVersion, req.RejectedVersion))
		j.unsure = true
		return j
	case v.status == account.Disabled:
		return fail(events.CodeDisabled, 0, "%s was disabled by an operator", v.key)
	case v.lifetime > 0 && req.MinTTL > v.lifetime:
		return fail(events.CodeBadRequest, 0, "min_ttl: %s is more than the endpoint's lifetime of a token, %s", req.MinTTL, v.lifetime)
	}
	left, floor := v.left(now), p.timing.minTTL(v.lifetime)
	need, reason := floor, events.ReasonRequest
	if req.MinTTL > 0 {
		need = req.MinTTL
		if left >= floor {
			reason = events.ReasonForced // living, but not for long enough for this asker
		}
	}
	if req.RejectedVersion == v.version {
		if left >= floor {
			reason = events.ReasonRejected
		}
	} else if left >= need && !v.token.IsZero() {
		skew := p.timing.refreshSkew(v.lifetime)
		return judgement{
			refresh: left <= skew && v.refreshable() && !v.earliest.After(now), notModified: req.KnownVersion == v.version,
		}
	}
	if err := mayRefresh(v, reason, now); err != nil {
		return judgement{err: err}
	}
	return judgement{wait: true, reason: reason}
}

// mayRefresh returns why a refresh can't be had, or nil.
func mayRefresh(v *view, reason events.Reason, now time.Time) *events.Error {
	reauth := func(code, text string) *events.Error {
		return &events.Error{Code: events.CodeReauthRequired, Message: fmt.Sprintf("%s: a person must log in again (%s: %s)", v.key, code, text)}
	}
	cooling := func(until time.Time, text string) *events.Error {
		return &events.Error{Code: events.CodeCoolingDown, Message: fmt.Sprintf("%s: %s", v.key, text), RetryAfter: atLeast(until.Sub(now))}
	}
	switch {
	case !v.hasRefresh:
		return reauth(events.StatusNoRefreshToken, "the account has no refresh token")
	case v.dead || v.status == account.ReauthRequired:
		return reauth(v.code, v.text)
	case v.earliest.After(now):
		return cooling(v.earliest, "the endpoint does not refresh a token this young")
	}
	if age := now.Sub(v.issued); age >= 0 && age < minVersionAge {
		return cooling(v.issued.Add(minVersionAge), "its token has just come from the endpoint")
	}
	if reason == events.ReasonRejected || reason == events.ReasonForced {
		if until := forcedHoldUntil(v.issued, v.streak); until.After(now) {
			return cooling(until, fmt.Sprintf("version %d came from the endpoint a moment ago and is not forced out yet", v.version))
		}
	}
	return nil
}

// atLeast makes a duration fit for retry_after.
func atLeast(d time.Duration) time.Duration {
	return max(d.Round(time.Millisecond), 100*time.Millisecond)
}

// Token answers a token request. It waits for a refresh only if no living
// token serves the request, and then no longer than ctx and the request's
// timeout allow; the refresh goes on without it. An error is always an
// [*events.Error].
func (p *Provider) Token(ctx context.Context, key account.Key, req events.TokenRequest) (events.TokenReply, error) {
	if req.Timeout == 0 {
		req.Timeout = events.DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, req.Timeout)
	defer cancel()
	reply, err := p.token(ctx, key, req)
	if err != nil {
		e := wireError(ctx, key, err)
		p.stats.failed(e.Code)
		return events.TokenReply{}, e
	}
	p.stats.lookup(reply.Source)
	return reply, nil
}

func (p *Provider) token(ctx context.Context, key account.Key, req events.TokenRequest) (events.TokenReply, error) {
	waited := false
	for range maxRounds {
		v, source, err := p.lookup(ctx, key, req)
		if err != nil {
			return events.TokenReply{}, err
		}
		j := p.judge(v, req, p.clock.Now())
		if e := p.l1.get(key); e != nil && e.busy.After(p.clock.Now()) && e.view != nil && e.view.version == v.version && j.err == nil {
			j = judgement{wait: true, reason: events.ReasonRequest, join: true}
		}
		if j.err != nil {
			return events.TokenReply{}, j.err
		}
		if !j.wait {
			if j.refresh {
				p.refreshBeside(v)
			}
			if waited {
				source = events.SourceRefresh
			}
			reply := v.reply(source)
			reply.NotModified = j.notModified
			return reply, nil
		}
		if err := p.await(ctx, p.refresh(key, want{over: v.version, reason: j.reason, join: j.join})); err != nil {
			return events.TokenReply{}, err
		}
		waited = true
	}
	return events.TokenReply{}, &events.Error{Code: events.CodeUnavailable, RetryAfter: retrySoon,
		Message: fmt.Sprintf("%s: no token that serves this request has come about", key)}
}

// wireError turns whatever a look-up failed with into an error reply.
func wireError(ctx context.Context, key account.Key, err error) *events.Error {
	if e, ok := errors.AsType[*events.Error](err); ok {
		return e
	}
	if ctx.Err() != nil {
		return &events.Error{Code: events.CodeTimeout, Message: fmt.Sprintf("%s: no token within the request's deadline; a refresh that runs goes on", key)}
	}
	return &events.Error{Code: events.CodeUnavailable, Message: err.Error(), RetryAfter: retrySoon}
}

// lookup returns the newest view that is at hand and good enough to judge the
// request by: from L1, else the shared cache, else the store.
func (p *Provider) lookup(ctx context.Context, key account.Key, req events.TokenRequest) (*view, events.Source, error) {
	e := p.l1.get(key)
	if e != nil && e.view != nil && p.fresh(e, p.clock.Now()) && !p.judge(e.view, req, p.clock.Now()).unsure {
		return e.view, events.SourceL1, nil
	}
	m := p.l1.mark(key)
	if v := p.fromShared(ctx, key); v != nil {
		now := p.clock.Now()
		if j := p.judge(v, req, now); !j.unsure && !j.wait {
			newest, _ := p.l1.offer(v, now, m, false)
			return newest, events.SourceShared, nil
		}
	}
	// With something in hand that serves, a store that hangs is worth no more
	// than one that is down.
	serves := func(v *view) bool {
		j := p.judge(v, req, p.clock.Now())
		return j.err == nil && !j.wait
	}
	var held *view
	sctx := ctx
	if e != nil && e.view != nil && e.view.rev >= e.floor && serves(e.view) {
		held = e.view
		var cancel context.CancelFunc
		sctx, cancel = context.WithTimeout(ctx, cacheTimeout)
		defer cancel()
	}
	v, err := p.fromStore(sctx, key, req)
	switch {
	case err == nil:
		return v, events.SourceStore, nil
	case held != nil:
		p.l1.reprieve(held, p.clock.Now().Add(retrySoon-p.timing.L1MaxAge))
		return held, events.SourceL1, nil
	case ctx.Err() != nil:
		return nil, "", ctx.Err()
	case errors.Is(err, errUnreadable):
		return nil, "", unreadable(key)
	}
	if v := p.inHand(ctx, key); v != nil && serves(v) {
		return v, events.SourceL1, nil
	}
	p.log.Debug("look-up without store", "account", key.String(), "error", err)
	return nil, "", &events.Error{Code: events.CodeUnavailable, RetryAfter: retrySoon,
		Message: fmt.Sprintf("%s: the account store does not answer and no living token is at hand", key)}
}

// fromShared returns the shared cache's view if it may be served: not past its
// end there, and not below what was heard of the account.
func (p *Provider) fromShared(ctx context.Context, key account.Key) *view {
	v, until := p.sharedView(ctx, key)
	if v == nil || !p.clock.Now().Before(until) {
		return nil
	}
	if e := p.l1.get(key); e != nil && (v.rev < e.floor || e.view != nil && v.rev < e.view.rev) {
		return nil
	}
	return v
}

func (p *Provider) sharedView(ctx context.Context, key account.Key) (*view, time.Time) {
	ctx, cancel := context.WithTimeout(ctx, cacheTimeout)
	defer cancel()
	entry, err := p.cache.Get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return nil, time.Time{}
	}
	if err != nil {
		p.log.Debug("read shared cache", "account", key.String(), "error", err)
		return nil, time.Time{}
	}
	v, err := p.openView(key, entry)
	if err != nil {
		p.log.Warn("shared cache entry is unreadable", "account", key.String(), "error", err)
		return nil, time.Time{}
	}
	return v, entry.Until
}

// inHand returns the best view that can be had without the store, however
// old, unless a bump says that there is a newer one: with the store down,
// tokens in hand are served until they end.
func (p *Provider) inHand(ctx context.Context, key account.Key) *view {
	v, _ := p.sharedView(ctx, key)
	if e := p.l1.get(key); e != nil {
		if e.view != nil && (v == nil || v.rev < e.view.rev) {
			v = e.view
		}
		if v != nil && v.rev < e.floor {
			return nil
		}
	}
	return v
}

// fromStore reads the account from the store, once for all that ask at the
// same time, and brings L1 and the shared cache up to it.
func (p *Provider) fromStore(ctx context.Context, key account.Key, req events.TokenRequest) (*view, error) {
	// Who knows of something newer doesn't join a read from before it.
	m := p.l1.mark(key)
	same := fmt.Sprintf("%s %d %d %d", key, m.floor, m.epoch, max(req.MinVersion, req.RejectedVersion))
	result := p.reads.DoChan(same, func() (any, error) {
		ctx, cancel := context.WithTimeout(p.base, storeTimeout)
		defer cancel()
		return p.readStore(ctx, key)
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*view), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *Provider) readStore(ctx context.Context, key account.Key) (*view, error) {
	r, err := p.read(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return &view{key: key, gone: true}, nil
	}
	if err == nil {
		err = r.unreadable
	}
	if err != nil {
		return nil, err
	}
	v := p.learn(&r)
	if !r.AnnouncePending {
		p.background(func(ctx context.Context) { p.shareView(ctx, v) })
	}
	return v, nil
}

// errUnreadable: the keyset doesn't open what the store has.
var errUnreadable = errors.New("credentials can't be opened")

func unreadable(key account.Key) *events.Error {
	return unavailable(time.Minute, "%s: its credentials can't be opened with this worker's keyset", key)
}

// reading is a document as the store has it, opened.
type reading struct {
	account.Account // with the fingerprints of the credentials that are in it
	credentials     account.Credentials
	unreadable      error                // why credentials is empty although the document has some
	stored          account.Fingerprints // as the document has them
	mark            mark                 // of L1 when the read or the write began
}

// opened reads the document's credentials into r.
func (p *Provider) opened(r reading) reading {
	r.stored = r.Fingerprints
	c, err := p.open(&r.Account)
	if r.credentials = c; err != nil {
		r.unreadable = fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return r
}

// read returns the document from the store, whether its credentials can be
// opened or not. ErrNotFound is noted in L1.
func (p *Provider) read(ctx context.Context, key account.Key) (reading, error) {
	r := reading{mark: p.l1.mark(key)}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	var err error
	if r.Account, err = p.store.Get(ctx, key); err != nil {
		if errors.Is(err, ErrNotFound) {
			p.l1.offer(&view{key: key, gone: true}, p.clock.Now(), r.mark, true)
		}
		return r, err
	}
	return p.opened(r), nil
}

// write is a compare-and-set on the document that was read.
func (p *Provider) write(ctx context.Context, r *reading, g account.Guard, c account.Change) (reading, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	doc, err := p.store.Update(ctx, r.Key, g, c)
	if err != nil {
		return reading{}, err
	}
	return p.opened(reading{Account: doc, mark: r.mark}), nil
}

// learn takes what was read from or written to the store into L1 and returns
// the newest view.
func (p *Provider) learn(a *reading) *view {
	policy, _ := p.endpoint.Policy(a.Key.Platform())
	v, refuted := p.l1.offer(viewOf(&a.Account, a.credentials, policy), p.clock.Now(), a.mark, true)
	if refuted {
		p.log.Warn("bump names a rev that the store does not have; ignored", "account", a.Key.String(), "rev", a.Rev)
	}
	return v
}

// shareView puts v into the shared cache, where it only replaces older ones.
func (p *Provider) shareView(ctx context.Context, v *view) {
	entry, err := p.sealView(v)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, cacheTimeout)
		defer cancel()
		_, err = p.cache.Put(ctx, v.key, entry)
	}
	if err != nil {
		p.log.Debug("write shared cache", "account", v.key.String(), "error", err)
	}
}
