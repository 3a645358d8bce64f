package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tokenbus/tokenbus/account"
	"github.com/tokenbus/tokenbus/client"
	"github.com/tokenbus/tokenbus/events"
)

// The gateway's pace.
const (
	askers      = 4
	askEvery    = 20 * time.Millisecond
	reportEvery = time.Second
	calmAfter   = 10 * time.Second // then it reports less often
	calmEvery   = 5 * time.Second
)

// healWithin is how long a look-up may take if its token was refused.
const healWithin = time.Minute

var errStopped = errors.New("the demo ends")

// gateway asks for tokens all the time and uses each at the OAuth server's
// userinfo endpoint, as a gateway would at an API.
type gateway struct {
	story  *story
	client *client.Client
	api    string
	web    *http.Client

	mu      sync.Mutex // guards what follows
	lookups int
	failed  int
	recent  tally // since the last report
}

// tally is what happened in one stretch of time.
type tally struct {
	lookups int
	sources map[events.Source]int
	slowest time.Duration
	refused int // tokens, by the API
}

func newGateway(s *story) *gateway {
	return &gateway{story: s, web: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: askers}, Timeout: 5 * time.Second}}
}

func (g *gateway) connect(url, nkey, api string) (err error) {
	g.api = api
	g.client, err = client.New(client.Config{URL: url, NKey: nkey, Name: "tokenbus demo gateway"})
	return err
}

func (g *gateway) close() {
	_ = g.client.Close()
	g.web.CloseIdleConnections()
}

// run asks until ctx ends.
func (g *gateway) run(ctx context.Context, keys []account.Key) {
	var tasks sync.WaitGroup
	for range askers {
		tasks.Go(func() { g.ask(ctx, keys) })
	}
	tasks.Go(func() { g.report(ctx) })
	tasks.Wait()
}

func (g *gateway) ask(ctx context.Context, keys []account.Key) {
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		g.askOnce(ctx, keys[rand.N(len(keys))])
	}
}

// askOnce makes one look-up and carries it to its end, also when ctx ends, which
// only ends the wait for a token in place of one that the API has refused.
func (g *gateway) askOnce(ctx context.Context, key account.Key) {
	start := time.Now()
	token, err := g.client.Token(context.WithoutCancel(ctx), key)
	took := time.Since(start)
	refused := 0
	if err == nil {
		refused, err = g.use(ctx, token)
	}
	if errors.Is(err, errStopped) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lookups++
	g.recent.refused += refused
	if err != nil {
		g.failed++
		g.story.tell(red, "gateway", "look-up of %s failed: %s", key, err)
		return
	}
	g.recent.lookups++
	if g.recent.sources == nil {
		g.recent.sources = map[events.Source]int{}
	}
	g.recent.sources[token.Source]++
	g.recent.slowest = max(g.recent.slowest, took)
}

// use calls the API with the token. As long as the API refuses it before its
// time, a newer one is asked for. It returns how many were refused.
func (g *gateway) use(ctx context.Context, token client.Token) (refused int, err error) {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), healWithin)
	defer cancel()
	for ; ; refused++ {
		status, err := g.call(late, token)
		switch {
		case err != nil:
			return refused, errors.New("userinfo did not answer")
		case status == http.StatusOK:
			return refused, nil
		case status != http.StatusUnauthorized:
			return refused, fmt.Errorf("userinfo answers version %d with %d", token.Version, status)
		}
		if token, err = g.newer(ctx, late, token); err != nil {
			return refused, err
		}
	}
}

// call makes one request to the API and returns its status.
func (g *gateway) call(ctx context.Context, token client.Token) (status int, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, g.api, nil)
	if err != nil {
		return 0, err
	}
	token.SetAuthHeader(r)
	answer, err := g.web.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, nil
}

// newer asks for a token in place of one that the API refuses. One that is
// refused moments after it was made is not replaced at once.
func (g *gateway) newer(ctx, late context.Context, refused client.Token) (client.Token, error) {
	for {
		token, err := g.client.Token(late, refused.Key, client.WithRejectedVersion(refused.Version))
		e, ok := errors.AsType[*client.Error](err)
		if !ok || !errors.Is(err, client.ErrCoolingDown) {
			return token, err
		}
		select {
		case <-time.After(e.RetryAfter):
		case <-late.Done():
			return token, err
		case <-ctx.Done():
			return token, errStopped
		}
	}
}

// report tells what the gateway got, every second at first.
func (g *gateway) report(ctx context.Context) {
	start := time.Now()
	timer := time.NewTimer(reportEvery)
	defer timer.Stop()
	for last := start; ; {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		g.reportOnce(time.Since(last))
		last = time.Now()
		next := reportEvery
		if time.Since(start) > calmAfter {
			next = calmEvery
		}
		timer.Reset(next)
	}
}

func (g *gateway) reportOnce(over time.Duration) {
	g.mu.Lock()
	t := g.recent
	g.recent = tally{}
	g.mu.Unlock()
	var parts []string
	for _, s := range []events.Source{client.SourceClient, events.SourceL1, events.SourceShared, events.SourceStore, events.SourceRefresh} {
		if n := t.sources[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	verdict := "userinfo took every token"
	if t.refused > 0 {
		verdict = fmt.Sprintf("userinfo took every token in the end, and refused %d before", t.refused)
	}
	g.story.tell(yellow, "gateway", "%s in %.0fs (%s), the slowest took %.1f ms; %s",
		plural(t.lookups, "look-up"), over.Seconds(), strings.Join(parts, ", "), float64(t.slowest.Microseconds())/1000, verdict)
}

func (g *gateway) totals() (lookups, failed int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lookups, g.failed
}
