package main

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/oauth"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

func TestProviderMetrics(t *testing.T) {
	m := newProviderMetrics(metricSources{stats: func() provider.Stats {
		return provider.Stats{
			Lookups:   map[events.Source]int64{events.SourceL1: 7, events.SourceRefresh: 2},
			Errors:    map[events.Code]int64{events.CodeNotFound: 1, events.CodeUnavailable: 2},
			Exchanges: map[refresh.Exchange]int64{{Platform: "openai", Outcome: rotation.Granted}: 2},
			Bumps:     3, Journaled: 4, Replayed: 5, JournalWaiting: 6, JournalUnreadable: 1, Flights: 8, L1Entries: 9,
			Circuits: map[string]bool{"openai": true},
		}
	}, platforms: func() []string { return []string{"acme"} }, refused: func() int64 { return 40 }})
	want := `
# HELP tokenbus_bumps_total Version bumps that were heard and were news to this worker.
# TYPE tokenbus_bumps_total counter
tokenbus_bumps_total 3
# HELP tokenbus_circuit_open 1 while a token endpoint fails for everybody and is left alone.
# TYPE tokenbus_circuit_open gauge
tokenbus_circuit_open{platform="acme"} 0
tokenbus_circuit_open{platform="openai"} 1
# HELP tokenbus_exchanges_total Requests to token endpoints, by what came of them.
# TYPE tokenbus_exchanges_total counter
tokenbus_exchanges_total{outcome="fenced",platform="acme"} 0
tokenbus_exchanges_total{outcome="granted",platform="acme"} 0
tokenbus_exchanges_total{outcome="granted",platform="openai"} 2
tokenbus_exchanges_total{outcome="misconfigured",platform="acme"} 0
tokenbus_exchanges_total{outcome="not_sent",platform="acme"} 0
tokenbus_exchanges_total{outcome="rejected",platform="acme"} 0
tokenbus_exchanges_total{outcome="throttled",platform="acme"} 0
tokenbus_exchanges_total{outcome="transient",platform="acme"} 0
tokenbus_exchanges_total{outcome="unknown",platform="acme"} 0
# HELP tokenbus_journal_records Answers that wait in the journal.
# TYPE tokenbus_journal_records gauge
tokenbus_journal_records 6
# HELP tokenbus_journal_unreadable What could not be read at the last look into the journals, and may hold up accounts.
# TYPE tokenbus_journal_unreadable gauge
tokenbus_journal_unreadable 1
# HELP tokenbus_journaled_total Answers of token endpoints that had to wait in the journal.
# TYPE tokenbus_journaled_total counter
tokenbus_journaled_total 4
# HELP tokenbus_l1_entries Accounts in this worker's own cache.
# TYPE tokenbus_l1_entries gauge
tokenbus_l1_entries 9
# HELP tokenbus_lookup_errors_total Token requests that were answered with an error, by its code.
# TYPE tokenbus_lookup_errors_total counter
tokenbus_lookup_errors_total{code="bad_request"} 0
tokenbus_lookup_errors_total{code="cooling_down"} 0
tokenbus_lookup_errors_total{code="disabled"} 0
tokenbus_lookup_errors_total{code="not_found"} 1
tokenbus_lookup_errors_total{code="reauth_required"} 0
tokenbus_lookup_errors_total{code="timeout"} 0
tokenbus_lookup_errors_total{code="unavailable"} 42
# HELP tokenbus_lookups_total Token requests that were answered with a token, by where it was found.
# TYPE tokenbus_lookups_total counter
tokenbus_lookups_total{source="l1"} 7
tokenbus_lookups_total{source="refresh"} 2
# HELP tokenbus_refreshes_running Refreshes that run in this worker.
# TYPE tokenbus_refreshes_running gauge
tokenbus_refreshes_running 8
# HELP tokenbus_replayed_total Answers that were settled from the journal.
# TYPE tokenbus_replayed_total counter
tokenbus_replayed_total 5
`
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	_, body := get(t, promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), "/metrics")
	if strings.TrimSpace(body) != strings.TrimSpace(want) {
		t.Errorf("got:\n%s\nwant:%s", body, want)
	}
}

func TestRegistryTellsWorkerAndProcess(t *testing.T) {
	_, body := get(t, promhttp.HandlerFor(newRegistry("w-1"), promhttp.HandlerOpts{}), "/metrics")
	for _, want := range []string{`tokenbus_worker_info{version="` + version() + `",worker="w-1"} 1`, "go_goroutines ", "process_start_time_seconds "} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("no line %s", want)
		}
	}
}

// A worker shows every series before its first event, of the platforms that are
// defined now.
func TestMetricsBeginAtZero(t *testing.T) {
	noLeaks(t)
	w := start(t, testConfig(t, nil), hooks{})
	w.serves(t)
	wants := func(when string, there, gone []string) {
		t.Helper()
		_, body := get(t, promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{}), "/metrics")
		for _, line := range there {
			if !strings.Contains(body, "\n"+line+"\n") {
				t.Errorf("%s: no line %s", when, line)
			}
		}
		for _, part := range gone {
			if strings.Contains(body, part) {
				t.Errorf("%s: there is %s", when, part)
			}
		}
	}
	wants("at the start", []string{
		`tokenbus_exchanges_total{outcome="rejected",platform="openai"} 0`,
		`tokenbus_lookup_errors_total{code="unavailable"} 0`,
	}, nil)
	other := oauth.Builtin()["xai"]
	client, err := oauth.New(oauth.Config{Definitions: oauth.Definitions{"acme": other}})
	if err != nil {
		t.Fatal(err)
	}
	w.endpoint.set(&readEndpoints{Client: client})
	wants("after a reload", []string{`tokenbus_exchanges_total{outcome="rejected",platform="acme"} 0`}, []string{`platform="openai"`})
	w.stop()
	w.ends(t)
}
