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
		// A look-up that has begun is carried to its end.
		g.askOnce(context.WithoutCancel(ctx), keys[rand.N(len(keys))])
	}
}

func (g *gateway) askOnce(ctx context.Context, key account.Key) {
	start := time.Now()
	token, err := g.client.Token(ctx, key)
	took := time.Since(start)
	if err == nil {
		err = g.use(ctx, token)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lookups++
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

// use calls the API with the token.
func (g *gateway) use(ctx context.Context, token client.Token) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, g.api, nil)
	if err != nil {
		return err
	}
	token.SetAuthHeader(r)
	answer, err := g.web.Do(r)
	if err != nil {
		return errors.New("userinfo did not answer")
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("userinfo refuses version %d with %s", token.Version, answer.Status)
	}
	return nil
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
	g.story.tell(yellow, "gateway", "%s in %.0fs (%s), the slowest took %.1f ms; userinfo took every token",
		plural(t.lookups, "look-up"), over.Seconds(), strings.Join(parts, ", "), float64(t.slowest.Microseconds())/1000)
}

func (g *gateway) totals() (lookups, failed int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lookups, g.failed
}
