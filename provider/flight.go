package provider

import (
	"context"
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/events"
)

// want is what a refresh is for.
type want struct {
	over     account.Version // something newer than this version
	reason   events.Reason
	operator bool // an operator asks: no hold on forced refreshes
	join     bool // only wait for a rotation that runs; begin none
	force    bool // and ends a wait in doubt
}

// flight is the one refresh of an account in this process. Whoever needs one
// joins it; whoever leaves cancels nothing.
type flight struct {
	done chan struct{} // closed when err is final
	err  error
}

// flights are the refreshes that run.
type flights struct {
	mu     sync.Mutex // guards what follows
	m      map[account.Key]*flight
	closed bool
	wg     sync.WaitGroup
}

// start runs f as the account's flight, or joins the one that runs (then
// joined is true). After close it returns nil.
func (fs *flights) start(key account.Key, f func() error) (fl *flight, joined bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fl := fs.m[key]; fl != nil {
		return fl, true
	}
	if fs.closed {
		return nil, false
	}
	fl = &flight{done: make(chan struct{})}
	fs.m[key] = fl
	fs.wg.Go(func() {
		fl.err = f()
		fs.mu.Lock()
		delete(fs.m, key)
		fs.mu.Unlock()
		close(fl.done)
	})
	return fl, false
}

func (fs *flights) len() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return len(fs.m)
}

// close lets no further flight start.
func (fs *flights) close() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.closed = true
}

// refresh starts or joins the account's refresh. A refresh that failed a
// moment ago and whose hold still runs is not started again.
func (p *Provider) refresh(key account.Key, w want) *flight {
	fl, _ := p.refreshOrJoin(key, w)
	return fl
}

func (p *Provider) refreshOrJoin(key account.Key, w want) (fl *flight, joined bool) {
	if e := p.l1.get(key); e != nil && e.hold != nil && !w.operator {
		if left := e.hold.until.Sub(p.clock.Now()); left > 0 {
			err := *e.hold.err
			err.RetryAfter = atLeast(left)
			return ended(&err), false
		}
	}
	fl, joined = p.flights.start(key, func() error { return p.rotate(key, w) })
	if fl == nil {
		return ended(errStopping()), false
	}
	return fl, joined
}

// refreshBeside starts a refresh that nobody waits for.
func (p *Provider) refreshBeside(v *view) {
	p.refresh(v.key, want{over: v.version, reason: events.ReasonRequest})
}

func ended(err error) *flight {
	fl := &flight{done: make(chan struct{}), err: err}
	close(fl.done)
	return fl
}

// await waits for the flight's result, as long as ctx allows.
func (p *Provider) await(ctx context.Context, fl *flight) error {
	select {
	case <-fl.done:
		return fl.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// holdOff remembers that a refresh of the account, as it was read, is not to be
// tried before until. What is newer starts without the hold.
func (p *Provider) holdOff(a *reading, until time.Time, err *events.Error) {
	p.l1.update(a.Key, func(e *l1Entry) {
		if e.floor > a.Rev || e.view != nil && e.view.rev > a.Rev {
			return
		}
		e.hold = &hold{until, err}
	})
}
