package main

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// How often dependencies are probed, and how long one probe may take.
const (
	probeInterval = 2 * time.Second
	probeTimeout  = 2 * time.Second
)

// starting is the reason of a dependency that nobody has heard of yet.
const starting = "starting"

// health knows which dependencies are at hand. It is safe for concurrent use.
type health struct {
	log    *slog.Logger
	scrub  func(string) string
	up     *prometheus.GaugeVec
	mu     sync.Mutex // guards states
	states map[string]string
}

// check is what health reports of one dependency.
type check struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"`
	// Reason says why it isn't ready. It holds no secret.
	Reason string `json:"reason,omitempty"`
}

// newHealth returns the health of the named dependencies, none of which is
// ready yet. scrub takes secrets out of a text.
func newHealth(log *slog.Logger, scrub func(string) string, registry prometheus.Registerer, names ...string) *health {
	h := &health{log: log, scrub: scrub, states: make(map[string]string, len(names))}
	h.up = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tokenbus_dependency_up", Help: "1 if the dependency answered the last probe, 0 if it didn't.",
	}, []string{"dependency"})
	registry.MustRegister(h.up)
	for _, name := range names {
		h.states[name] = starting
		h.up.WithLabelValues(name).Set(0)
	}
	return h
}

// set notes what is known of a dependency; nil means that it is at hand.
// Changes are logged.
func (h *health) set(name string, err error) {
	before, now := h.note(name, err)
	switch {
	case now == "" && before == starting:
		h.log.Debug("dependency is ready", "dependency", name)
	case now == "" && before != "":
		h.log.Info("dependency is ready again", "dependency", name)
	case now != "" && (before == "" || before == starting):
		h.log.Warn("dependency is not ready", "dependency", name, "reason", now)
	}
}

// note is set without a log line. It returns the reasons before and now why
// the dependency isn't ready.
func (h *health) note(name string, err error) (before, now string) {
	if err != nil {
		now = cmp.Or(h.scrub(strings.Join(strings.Fields(err.Error()), " ")), "unknown")
	}
	up := 0.0
	if now == "" {
		up = 1
	}
	h.up.WithLabelValues(name).Set(up)
	h.mu.Lock()
	defer h.mu.Unlock()
	before, h.states[name] = h.states[name], now
	return before, now
}

// checks returns the state of every dependency by name, and whether all are
// ready.
func (h *health) checks() (list []check, ready bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ready = true
	for name, reason := range h.states {
		list = append(list, check{name, reason == "", reason})
		ready = ready && reason == ""
	}
	slices.SortFunc(list, func(a, b check) int { return cmp.Compare(a.Name, b.Name) })
	return list, ready
}

// watch probes a dependency until ctx ends.
func (h *health) watch(ctx context.Context, name string, probe func(context.Context) error) {
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for {
		probing, cancel := context.WithTimeout(ctx, probeTimeout)
		err := probe(probing)
		cancel()
		if ctx.Err() != nil {
			return
		}
		h.set(name, err)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
