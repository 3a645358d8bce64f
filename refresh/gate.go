package refresh

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbus/tokenbus/backoff"
	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/ledger"
	"github.com/tokenbus/tokenbus/rotation"
)

// slotPatience is how long a flight waits for its turn at an endpoint.
const slotPatience = 2 * time.Second

// gates guard the endpoints of this process: how many exchanges run at once,
// and whether any should.
type gates struct {
	mu sync.Mutex // guards m
	m  map[string]*gate
}

type gate struct {
	slots   chan struct{} // one taken by each exchange under way, or about to be
	breaker *backoff.Breaker
	passes  atomic.Int64 // that were given
	feeding atomic.Bool  // due accounts wait for their turn here
	failed  atomic.Value // a string: what the endpoint answered when it last failed
}

func (r *Refresher) gate(platform string) *gate {
	r.gates.mu.Lock()
	defer r.gates.mu.Unlock()
	g := r.gates.m[platform]
	if g == nil {
		policy, _ := r.cfg.Endpoint.Policy(platform)
		breaker, err := backoff.NewBreaker(backoff.BreakerConfig{Rand: r.cfg.Random, ProbeTimeout: policy.Timeout + time.Minute})
		if err != nil {
			panic("refresh: breaker: " + err.Error()) // its defaults are valid
		}
		g = &gate{slots: make(chan struct{}, max(1, policy.MaxConcurrent)), breaker: breaker}
		r.gates.m[platform] = g
	}
	return g
}

// EndpointsChanged is called when other definitions of token endpoints are in
// use: their circuits are closed, and their limits those of the new ones.
func (r *Refresher) EndpointsChanged() {
	r.gates.mu.Lock()
	clear(r.gates.m)
	r.gates.mu.Unlock()
	r.flights.mu.Lock()
	defer r.flights.mu.Unlock()
	for _, s := range r.flights.m {
		s.hold = hold{} // what is in a document is found there again
	}
}

// open tells of each platform whether its circuit is open.
func (gs *gates) open(now time.Time) map[string]bool {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	open := make(map[string]bool, len(gs.m))
	for platform, g := range gs.m {
		open[platform] = g.breaker.OpenFor(now) > 0
	}
	return open
}

// passedOver are the platforms for which nothing more can be begun now.
func (gs *gates) passedOver(now time.Time) (platforms []string) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for platform, g := range gs.m {
		if g.feeding.Load() || g.breaker.OpenFor(now) > 0 {
			platforms = append(platforms, platform)
		}
	}
	return platforms
}

// pass is leave to make one exchange with the account's endpoint.
type pass struct {
	*gate
	f    *flying
	used bool
	left bool
}

// enter returns a pass, or says why there is none now.
func (f *flying) enter(ctx context.Context) (p *pass, err error) {
	g := f.place
	if f.place = nil; g == nil {
		if g, err = f.wait(ctx); err != nil {
			return nil, err
		}
	}
	if ok, after := g.breaker.Allow(f.clock.Now()); !ok {
		<-g.slots
		return nil, f.hold(after, "its provider's endpoint fails for everybody and is left alone for a while; the last time: %v", g.failed.Load())
	}
	g.passes.Add(1)
	return &pass{gate: g, f: f}, nil
}

// wait waits for a place at the endpoint.
func (f *flying) wait(ctx context.Context) (*gate, error) {
	g := f.gate(f.key.Platform())
	select {
	case g.slots <- struct{}{}:
	default:
		full := events.Unavailable(events.RetrySoon, "%s: as many exchanges with its endpoint run as are allowed", f.key)
		if f.want.Reason == events.ReasonExpiry { // nobody waits
			return nil, full
		}
		select {
		case g.slots <- struct{}{}:
		case <-f.clock.After(slotPatience):
			return nil, full
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return g, nil
}

// yield gives back a place that was had from the start and is not used now.
func (f *flying) yield() {
	if f.place != nil {
		<-f.place.slots
		f.place = nil
	}
}

// leave gives the place back. A pass that was not used says nothing of the
// endpoint. It may be called again.
func (p *pass) leave() {
	if p.left {
		return
	}
	p.left = true
	if !p.used {
		p.breaker.Cancel(p.f.clock.Now())
	}
	<-p.slots
}

// ownClient reports whether the account brings its own client or proxy: what
// goes wrong with those says nothing of the platform.
func ownClient(d *ledger.Document) bool {
	c := d.Opened
	return c.ClientID != "" || !c.ClientSecret.IsZero() || !c.ProxyURL.IsZero()
}

// report draws from the exchange what it says of the endpoint.
func (p *pass) report(d *ledger.Document, v rotation.Verdict) {
	now := p.f.clock.Now()
	p.used = true
	switch {
	case ownClient(d) && (v.Outcome == rotation.Misconfigured || v.Outcome == rotation.NotSent), v.Outcome == rotation.Fenced:
		p.used = false
	case v.Outcome == rotation.Misconfigured:
		p.failed.Store(v.Message)
		p.breaker.Trip(now, v.RetryAfter)
		p.f.log.Error("provider is misconfigured; its circuit is open", "platform", d.Key.Platform(), "code", v.Code, "message", v.Message)
	case v.Outcome == rotation.Transient, v.Outcome == rotation.NotSent, v.Outcome == rotation.Unknown:
		p.failed.Store(v.Message)
		before := p.breaker.OpenFor(now)
		p.breaker.Failure(now, d.Key.String())
		if left := p.breaker.OpenFor(now); before == 0 && left > 0 {
			p.f.log.Warn("endpoint fails for everybody; its circuit is open", "platform", d.Key.Platform(), "code", v.Code, "message", v.Message, "for", left)
		}
	default: // granted, rejected, throttled: it works
		p.breaker.Success()
	}
}
