package clienttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// minTTL is what tokens live at least when they are handed out; at most a quarter
// of their lifetime.
const minTTL = 30 * time.Second

// Login puts an account into the fleet, or gives it its next version. Its tokens
// live for ttl, and read "<key>-<version>".
func (f *Fleet) Login(key string, ttl time.Duration) account.Key {
	f.t.Helper()
	k, err := account.ParseKey(key)
	if err != nil {
		f.t.Fatal(err)
	}
	f.change(k, func(l *login) { l.ttl, l.err, l.refreshErr = ttl, nil, nil; f.next(l) })
	return k
}

// SetExtra gives the account extra fields.
func (f *Fleet) SetExtra(key account.Key, name string, value any) {
	raw, err := json.Marshal(value)
	if err != nil {
		f.t.Fatal(err)
	}
	f.change(key, func(l *login) {
		extra := account.Extra{name: raw}
		for n, v := range l.extra {
			if n != name {
				extra[n] = v
			}
		}
		l.extra = extra
		f.next(l)
	})
}

// Rotate gives the account its next version, announces it and returns it.
func (f *Fleet) Rotate(key account.Key) account.Version {
	return f.change(key, f.next).Version
}

// RotateUnheard is [Fleet.Rotate] without a word to anybody.
func (f *Fleet) RotateUnheard(key account.Key) account.Version {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.login(key)
	f.next(l)
	l.rev++
	return l.version
}

// FailRefresh makes refreshes of the account fail: what no living token serves is
// answered with the error. nil ends that.
func (f *Fleet) FailRefresh(key account.Key, err *events.Error) {
	f.change(key, func(l *login) { l.refreshErr = err })
}

// Fail answers all requests for the account with the error, as for one that was
// disabled. nil ends that.
func (f *Fleet) Fail(key account.Key, err *events.Error) {
	f.change(key, func(l *login) { l.err = err })
}

// Bump sends a bump that the fleet knows nothing of.
func (f *Fleet) Bump(b events.Bump) { f.publish(b) }

// Override, if not nil, answers requests with what it returns; nil means as
// always.
func (f *Fleet) Override(answer func(account.Key, events.TokenRequest) []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.override = answer
}

// Requests returns what the workers were asked about the account.
func (f *Fleet) Requests(key account.Key) []events.TokenRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked[key])
}

// Token returns what the account's current token reads.
func (f *Fleet) Token(key account.Key) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return text(key, f.login(key).version)
}

func text(key account.Key, v account.Version) string { return fmt.Sprintf("%s-%d", key, v) }

// login returns the account, which is made where there is none. The caller holds
// mu.
func (f *Fleet) login(key account.Key) *login {
	l := f.accounts[key]
	if l == nil {
		l = &login{}
		f.accounts[key] = l
	}
	return l
}

// next gives the account its next version. The caller holds mu.
func (f *Fleet) next(l *login) {
	l.version++
	l.expires = f.Now().Add(l.ttl)
}

// change changes the account and announces it.
func (f *Fleet) change(key account.Key, how func(*login)) events.Bump {
	f.mu.Lock()
	l := f.login(key)
	how(l)
	l.rev++
	b := events.Bump{Key: key, Version: l.version, Rev: l.rev, At: f.Now()}
	f.mu.Unlock()
	f.publish(b)
	return b
}

// serve answers one request.
func (f *Fleet) serve(w *worker, m *nats.Msg, answer func(*nats.Msg) ([]byte, error)) {
	w.frozen.Lock()
	defer w.frozen.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return
	}
	f.tasks.Go(func() { // others are answered meanwhile
		reply, err := answer(m)
		if err == nil {
			_ = m.Respond(reply) // who asked may be gone
			return
		}
		e, ok := errors.AsType[*events.Error](err)
		if !ok {
			e = events.Unavailable(time.Second, "%v", err)
		}
		_ = m.RespondMsg(&nats.Msg{Header: e.Header(), Data: e.Encode()})
	})
}

func (f *Fleet) reply(m *nats.Msg) ([]byte, error) {
	key, err := f.subjects.ParseRequest(m.Subject)
	if err != nil {
		return nil, events.BadRequest(err.Error())
	}
	req, err := events.DecodeTokenRequest(m.Data)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.asked[key] = append(f.asked[key], req)
	delay, override := f.delay, f.override
	f.mu.Unlock()
	wait := time.NewTimer(delay)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-f.over:
	}
	if override != nil {
		if body := override(key, req); body != nil {
			return body, nil
		}
	}
	reply, bump, err := f.lookup(key, req)
	if bump.Rev > 0 {
		f.publish(bump)
	}
	if err != nil {
		return nil, err
	}
	return reply.Encode(), nil
}

// lastBumps answers one request to catch up, from the stream.
func (f *Fleet) lastBumps(m *nats.Msg) ([]byte, error) {
	platform, _ := strings.CutPrefix(m.Subject, f.subjects.CatchUp(""))
	keys, err := events.DecodeCatchUpRequest(platform, m.Data)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	stream, err := f.js.Stream(ctx, events.StreamBumps)
	if err != nil {
		return nil, err
	}
	var reply events.CatchUpReply
	for _, key := range keys {
		last, err := stream.GetLastMsgForSubject(ctx, f.subjects.Bump(key))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		b, err := events.DecodeBump(last.Data)
		if err != nil {
			return nil, err
		}
		reply.Bumps = append(reply.Bumps, b)
	}
	return reply.Encode(), nil
}

// lookup does what a worker does.
func (f *Fleet) lookup(key account.Key, req events.TokenRequest) (reply events.TokenReply, bump events.Bump, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.accounts[key]
	if l == nil {
		return reply, bump, events.NotFound(key)
	}
	need := min(minTTL, l.ttl/4)
	if req.MinTTL > 0 {
		need = req.MinTTL
	}
	switch {
	case l.err != nil:
		return reply, bump, l.err
	case max(req.MinVersion, req.RejectedVersion) > l.version:
		return reply, bump, events.Unavailable(time.Second, "%s is at version %d", key, l.version)
	case req.MinTTL > l.ttl:
		return reply, bump, events.BadRequest("min_ttl: it is more than a token's lifetime")
	}
	reply = events.TokenReply{Key: key, TokenType: "Bearer", Source: events.SourceL1, Extra: l.extra}
	if req.RejectedVersion == l.version || l.expires.Sub(f.Now()) < need {
		if l.refreshErr != nil {
			return reply, bump, l.refreshErr
		}
		f.next(l)
		l.rev++
		reply.Source = events.SourceRefresh
		bump = events.Bump{Key: key, Version: l.version, Rev: l.rev, At: f.Now()}
	}
	reply.Version, reply.ExpiresAt = l.version, l.expires
	reply.AccessToken = account.NewSecret(text(key, l.version))
	reply.NotModified = req.KnownVersion == l.version
	return reply, bump, nil
}
