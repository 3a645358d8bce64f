package explore

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

// do carries out f as the scheduler decides.
func do[T any](ctx context.Context, w *worker, op string, f func() (T, error)) (T, error) {
	var zero T
	switch w.at(ctx, op, failBefore, failAfter) {
	case doIt:
		return f()
	case failAfter:
		_, _ = f()
	}
	return zero, errSim
}

// look is do for operations that change nothing: done and reported as failed
// is the same as failed. But what was read may arrive late.
func look[T any](ctx context.Context, w *worker, op string, f func() (T, error)) (T, error) {
	var zero T
	switch w.at(ctx, op, failBefore, late) {
	case doIt:
		return f()
	case late:
		v, err := f()
		if w.at(ctx, op+" arrives") == doIt {
			return v, err
		}
	}
	return zero, errSim
}

type none = struct{}

func act(ctx context.Context, w *worker, op string, f func() error) error {
	_, err := do(ctx, w, op, func() (none, error) { return none{}, f() })
	return err
}

type storePort struct{ *worker }

func (p storePort) Get(ctx context.Context, k account.Key) (account.Account, error) {
	return look(ctx, p.worker, "store get", func() (account.Account, error) { return p.s.store.Get(ctx, k) })
}

func (p storePort) Create(ctx context.Context, a account.Account) error {
	return act(ctx, p.worker, "store create", func() error { return p.s.store.Create(ctx, a) })
}

func (p storePort) Update(ctx context.Context, k account.Key, g account.Guard, c account.Change) (account.Account, error) {
	return do(ctx, p.worker, "store update"+updateName(c), func() (account.Account, error) {
		a, err := p.s.store.Update(ctx, k, g, c)
		if err == nil {
			p.s.check.written(p.worker, &a, c)
		}
		return a, err
	})
}

// updateName tells what a change is about.
func updateName(c account.Change) string {
	switch {
	case c.Fields&account.FieldCredentials != 0:
		return " (credentials)"
	case c.Fields == account.FieldAnnounce:
		return " (announced)"
	case c.Fields&account.FieldStatus != 0:
		return " (status)"
	case c.Fields&account.FieldFailure != 0:
		return " (failure)"
	case c.Fields&account.FieldRotation != 0 && c.To.Rotation != nil && c.To.Rotation.Heartbeat > 0:
		return " (heartbeat)"
	case c.Fields&account.FieldRotation != 0:
		return " (rotation)"
	}
	return ""
}

func (p storePort) Due(ctx context.Context, now time.Time, limit int, except ...string) ([]account.Key, error) {
	return p.s.store.Due(ctx, now, limit, except...)
}

func (p storePort) Pending(ctx context.Context, limit int) ([]account.Key, error) {
	return p.s.store.Pending(ctx, limit)
}

func (p storePort) List(ctx context.Context, q ledger.ListQuery) ([]account.Account, error) {
	return p.s.store.List(ctx, q)
}

type cachePort struct{ *worker }

func (p cachePort) Get(ctx context.Context, k account.Key) (ledger.Entry, error) {
	return look(ctx, p.worker, "cache get", func() (ledger.Entry, error) { return p.s.cache.Get(ctx, k) })
}

func (p cachePort) Put(ctx context.Context, k account.Key, e ledger.Entry) (bool, error) {
	put := func() (bool, error) { return p.s.cache.Put(ctx, k, e) }
	return do(ctx, p.worker, "cache put", func() (bool, error) {
		defer p.s.check.cached()
		return put()
	})
}

type lockPort struct{ *worker }

func (p lockPort) Acquire(ctx context.Context, k account.Key) (refresh.Lease, error) {
	l, err := do(ctx, p.worker, "lease acquire", func() (refresh.Lease, error) {
		p.s.mu.Lock()
		defer p.s.mu.Unlock()
		if p.s.leaseEnds > 0 && p.s.now >= p.s.leaseEnds {
			p.s.locker.Expire(k)
		}
		l, err := p.s.locker.Acquire(ctx, k)
		if err == nil {
			p.s.leaseEnds, p.s.leaseOf = 0, p.worker // renewed from here on
		}
		return l, err
	})
	if err != nil {
		p.s.abandon(p.worker) // perhaps taken, and nobody knows
		return nil, err
	}
	return leasePort{p.worker, l}, nil
}

type leasePort struct {
	*worker
	refresh.Lease
}

func (p leasePort) Release(ctx context.Context) {
	if v := p.at(ctx, "lease release", failBefore); v == doIt {
		p.Lease.Release(ctx)
		return
	}
	p.s.abandon(p.worker)
}

// abandon lets a lease that w no longer renews run out.
func (s *sim) abandon(w *worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abandonLocked(w)
}

func (s *sim) abandonLocked(w *worker) {
	if s.leaseOf == w && s.leaseEnds == 0 {
		s.leaseEnds = s.now + leaseTTL
	}
}

type journalPort struct {
	*worker
	name   string
	shared bool
	j      interface {
		refresh.Journal
		refresh.Spool
	}
}

func (p journalPort) Put(ctx context.Context, r rotation.Record) error {
	return act(ctx, p.worker, p.name+" put", func() error { p.s.check.saved(p.worker, r, p.shared); return p.j.Put(ctx, r) })
}

func (p journalPort) Check() error { return nil }

func (p journalPort) Reserve(k account.Key, id string) (refresh.Place, error) {
	place, err := p.j.Reserve(k, id)
	return placePort{p, place}, err
}

// placePort is where one answer goes into the spool.
type placePort struct {
	spool journalPort
	refresh.Place
}

func (p placePort) Stash(r rotation.Record) error {
	w := p.spool.worker
	err := act(context.Background(), w, p.spool.name+" stash", func() error { w.s.check.saved(w, r, p.spool.shared); return p.Place.Stash(r) })
	if err != nil {
		w.s.check.unsaved(w)
	}
	return err
}

func (p journalPort) Records(ctx context.Context, k account.Key) ([]rotation.Record, error) {
	return look(ctx, p.worker, p.name+" read", func() ([]rotation.Record, error) {
		if p.shared {
			p.s.check.looked(p.worker)
		}
		return p.j.Records(ctx, k)
	})
}

func (p journalPort) Delete(ctx context.Context, k account.Key, id string) error {
	return act(ctx, p.worker, p.name+" delete", func() error { return p.j.Delete(ctx, k, id) })
}

type busPort struct{ *worker }

func (p busPort) Refreshed(ctx context.Context, e events.Refreshed) error {
	return act(ctx, p.worker, "publish refreshed", func() error { return p.s.bus.Refreshed(ctx, e) })
}

func (p busPort) Bump(ctx context.Context, e events.Bump) error {
	return act(ctx, p.worker, "publish bump", func() error { return p.s.bus.Bump(ctx, e) })
}

// Status events decide nothing: they are no point of their own.
func (p busPort) Status(ctx context.Context, e events.Status) error {
	return p.s.bus.Status(ctx, e)
}

func (p busPort) LastBump(ctx context.Context, k account.Key) (events.Bump, error) {
	return p.s.bus.LastBump(ctx, k)
}

// ear hears the fleet's bumps for a worker, each when the scheduler says so.
type ear struct{ *worker }

func (e ear) ObserveBump(b events.Bump) {
	go func() {
		if e.at(e.s.ctx, "hears the bump") == doIt {
			e.p.ObserveBump(b)
			e.s.check.heard(e.worker, b)
		}
	}()
}

// ObserveStatus hears status events too, where they decide something.
func (e ear) ObserveStatus(status events.Status) {
	if !e.s.scenario.ends {
		return
	}
	go func() {
		if e.at(e.s.ctx, "hears that it is "+status.Code) == doIt {
			e.p.ObserveStatus(status)
			e.s.check.told(e.worker, status)
		}
	}()
}

// endpointPort is the real client but for the socket: requests reach the real
// rules of the endpoint in process.
type endpointPort struct{ *worker }

func (p endpointPort) Policy(platform string) (rotation.Policy, bool) {
	return p.s.client.Policy(platform)
}

func (p endpointPort) Judge(platform string, raw refresh.RawAnswer) rotation.Verdict {
	return p.s.client.Judge(platform, raw)
}

func (p endpointPort) Describe(platform string, c account.Credentials) account.Credentials {
	return p.s.client.Describe(platform, c)
}

// Faults of an exchange beyond failing before and after.
const (
	answers503 verdict = iota + 100
	answersInvalidClient
	answerIsCut // answered, and the answer never arrives
)

func (p endpointPort) Send(ctx context.Context, req refresh.SendRequest) (refresh.RawAnswer, error) {
	if v := p.at(ctx, "connects", failBefore); v != doIt {
		return refresh.RawAnswer{}, &refresh.SendError{Err: errSim}
	}
	// The check and the write are one step here. A freeze between the two is
	// what can't be closed; docs/rotation.md names it.
	v := p.at(ctx, "sends the refresh token", failBefore, answers503, answersInvalidClient)
	if v == cancelled {
		return refresh.RawAnswer{}, &refresh.SendError{Err: ctx.Err()}
	}
	if err := req.BeforeFirstByte(); err != nil {
		return refresh.RawAnswer{}, &refresh.SendError{Err: err}
	}
	lost := refresh.RawAnswer{}
	switch v {
	case doIt:
	case answers503:
		p.s.endpoint.Inject(refuse503())
	case answersInvalidClient:
		p.s.endpoint.Inject(refuseClient())
	default: // on its way and never arrived: the sender can't know
		return lost, &refresh.SendError{Sent: true, Err: errSim}
	}
	sent, token := p.Now(), req.Credentials.RefreshToken.Reveal()
	p.s.check.arrives(p.worker, token)
	raw := p.post(token)
	p.s.check.answered(p.worker, token, raw)
	if p.at(ctx, "gets the answer", answerIsCut) != doIt {
		p.s.check.lost(p.worker)
		return lost, &refresh.SendError{Sent: true, Err: errSim}
	}
	p.s.check.reached(p.worker)
	raw.SentAt, raw.ReceivedAt = sent, p.Now()
	return raw, nil
}

func (p endpointPort) post(token string) refresh.RawAnswer {
	form := url.Values{"grant_type": {"refresh_token"}, "client_id": {"c"}, "refresh_token": {token}}.Encode()
	r := httptest.NewRequest(http.MethodPost, "/token", bytes.NewBufferString(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	out := httptest.NewRecorder()
	p.s.endpoint.ServeHTTP(out, r)
	return refresh.RawAnswer{
		Status: out.Code, Body: out.Body.Bytes(),
		Header: map[string]string{"Content-Type": out.Header().Get("Content-Type"), "Retry-After": out.Header().Get("Retry-After")},
	}
}

// Now, Elapsed and After are the worker's clock: its own wall time, off by its
// skew, and the world's elapsed time.
func (w *worker) Now() time.Time {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return time.Unix(epoch, 0).Add(w.s.now + w.skew).UTC()
}

func (w *worker) Elapsed() time.Duration {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.s.now
}

func (w *worker) After(d time.Duration) <-chan time.Time {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.timers++
	t := &timer{w, w.s.now + d, w.timers, make(chan time.Time, 1)}
	w.s.timers = append(w.s.timers, t)
	return t.ch
}
