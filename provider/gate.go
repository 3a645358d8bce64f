package provider

import (
	"context"
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/backoff"
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
	slots   chan struct{}
	breaker *backoff.Breaker
}

func (p *Provider) gate(platform string, policy Policy) *gate {
	p.gates.mu.Lock()
	defer p.gates.mu.Unlock()
	g := p.gates.m[platform]
	if g == nil {
		breaker, err := backoff.NewBreaker(backoff.BreakerConfig{Rand: p.random, ProbeTimeout: policy.Timeout + time.Minute})
		if err != nil {
			panic("provider: breaker: " + err.Error()) // its defaults are valid
		}
		g = &gate{make(chan struct{}, max(1, policy.MaxConcurrent)), breaker}
		p.gates.m[platform] = g
	}
	return g
}

// slot lets an exchange with the platform's endpoint pass, or says why not.
// The caller reports to judgeProvider what came of the exchange, or to spare
// that there was none, and releases the slot. patient says that somebody waits.
func (p *Provider) slot(ctx context.Context, a *reading, policy Policy, patient bool) (release func(), err error) {
	key := a.Key
	g := p.gate(key.Platform(), policy)
	select {
	case g.slots <- struct{}{}:
	default:
		if !patient {
			return nil, unavailable(retrySoon, "%s: as many exchanges with its endpoint run as are allowed", key)
		}
		select {
		case g.slots <- struct{}{}:
		case <-p.clock.After(slotPatience):
			return nil, unavailable(retrySoon, "%s: as many exchanges with its endpoint run as are allowed", key)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if ok, after := g.breaker.Allow(p.clock.Now()); !ok {
		<-g.slots
		hold := unavailable(after, "%s: its provider's endpoint fails for everybody and is left alone for a while", key)
		p.holdOff(a, p.clock.Now().Add(after), hold)
		return nil, hold
	}
	return sync.OnceFunc(func() { <-g.slots }), nil
}

// spare reports that an exchange that was let pass was not made.
func (p *Provider) spare(key account.Key, policy Policy) {
	p.gate(key.Platform(), policy).breaker.Cancel(p.clock.Now())
}

// ownClient reports whether the account brings its own client or proxy: what
// goes wrong with those says nothing of the platform.
func (a *reading) ownClient() bool {
	c := a.credentials
	return c.ClientID != "" || !c.ClientSecret.IsZero() || !c.ProxyURL.IsZero()
}

// judgeProvider draws from one exchange what it says of the endpoint. What an
// account's own client or proxy runs into says nothing.
func (p *Provider) judgeProvider(a *reading, v Verdict) {
	key := a.Key
	policy, _ := p.endpoint.Policy(key.Platform())
	breaker := p.gate(key.Platform(), policy).breaker
	now := p.clock.Now()
	if a.ownClient() && (v.Outcome == Misconfigured || v.Outcome == notSent) {
		breaker.Cancel(now)
		return
	}
	switch v.Outcome {
	case Misconfigured:
		breaker.Trip(now, v.RetryAfter)
		p.log.Error("provider is misconfigured; its circuit is open", "platform", key.Platform(), "code", v.Code, "message", v.Message)
	case Transient, notSent, Unknown:
		breaker.Failure(now, key.String())
	case Granted, Rejected, Throttled:
		breaker.Success()
	default:
		breaker.Cancel(now)
	}
}

// closedFor is how long the platform's circuit stays open.
func (p *Provider) closedFor(platform string) time.Duration {
	policy, _ := p.endpoint.Policy(platform)
	ok, after := p.gate(platform, policy).breaker.Allow(p.clock.Now())
	if ok {
		p.gate(platform, policy).breaker.Cancel(p.clock.Now())
		return retrySoon
	}
	return after
}
