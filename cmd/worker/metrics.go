package main

import (
	"maps"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tokenbus/tokenbus/events"
	"github.com/tokenbus/tokenbus/provider"
	"github.com/tokenbus/tokenbus/refresh"
	"github.com/tokenbus/tokenbus/rotation"
)

// newRegistry returns the registry of one worker, with what is known of the
// process.
func newRegistry(workerID string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tokenbus_worker_info", Help: "Always 1; the labels tell which worker this is.",
			ConstLabels: prometheus.Labels{"version": version(), "worker": workerID},
		}, func() float64 { return 1 }),
	)
	return r
}

// outcomes and codes are what the labels of counters can be: a series that is
// there from the start shows its first event as an increase.
var (
	outcomes = []rotation.Outcome{
		rotation.Granted, rotation.Rejected, rotation.Misconfigured, rotation.Throttled,
		rotation.Transient, rotation.Unknown, rotation.NotSent, rotation.Fenced,
	}
	codes = []events.Code{
		events.CodeBadRequest, events.CodeNotFound, events.CodeDisabled, events.CodeReauthRequired,
		events.CodeCoolingDown, events.CodeUnavailable, events.CodeTimeout,
	}
)

// metricSources are where the metrics come from. All are called at every look.
type metricSources struct {
	stats     func() provider.Stats
	platforms func() []string // that are defined now
	refused   func() int64    // token requests that never reached the provider
}

// providerMetrics turns a provider's counters into metrics.
type providerMetrics struct {
	metricSources

	lookups, errors, exchanges, bumps, journaled, replayed *prometheus.Desc
	waiting, unreadable, running, circuits, entries        *prometheus.Desc
}

func newProviderMetrics(from metricSources) *providerMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tokenbus_"+name, help, labels, nil)
	}
	return &providerMetrics{
		metricSources: from,

		lookups:    desc("lookups_total", "Token requests that were answered with a token, by where it was found.", "source"),
		errors:     desc("lookup_errors_total", "Token requests that were answered with an error, by its code.", "code"),
		exchanges:  desc("exchanges_total", "Requests to token endpoints, by what came of them.", "platform", "outcome"),
		bumps:      desc("bumps_total", "Version bumps that were heard and were news to this worker."),
		journaled:  desc("journaled_total", "Answers of token endpoints that had to wait in the journal."),
		replayed:   desc("replayed_total", "Answers that were settled from the journal."),
		waiting:    desc("journal_records", "Answers that wait in the journal."),
		unreadable: desc("journal_unreadable", "What could not be read at the last look into the journals, and may hold up accounts."),
		circuits:   desc("circuit_open", "1 while a token endpoint fails for everybody and is left alone.", "platform"),
		running:    desc("refreshes_running", "Refreshes that run in this worker."),
		entries:    desc("l1_entries", "Accounts in this worker's own cache."),
	}
}

// Describe implements [prometheus.Collector].
func (m *providerMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.lookups, m.errors, m.exchanges, m.bumps, m.journaled, m.replayed, m.waiting, m.unreadable, m.running, m.circuits, m.entries} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (m *providerMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.stats()
	counter := func(d *prometheus.Desc, n int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	for source, n := range s.Lookups {
		counter(m.lookups, n, string(source))
	}
	for code, n := range m.allErrors(s) {
		counter(m.errors, n, string(code))
	}
	for e, n := range m.allExchanges(s) {
		counter(m.exchanges, n, e.Platform, string(e.Outcome))
	}
	counter(m.bumps, s.Bumps)
	counter(m.journaled, s.Journaled)
	counter(m.replayed, s.Replayed)
	gauge(m.waiting, float64(s.JournalWaiting))
	gauge(m.unreadable, float64(s.JournalUnreadable))
	for platform, open := range m.allCircuits(s) {
		gauge(m.circuits, map[bool]float64{true: 1}[open], platform)
	}
	gauge(m.running, float64(s.Flights))
	gauge(m.entries, float64(s.L1Entries))
}

func (m *providerMetrics) allErrors(s provider.Stats) map[events.Code]int64 {
	all := make(map[events.Code]int64, len(codes))
	for _, code := range codes {
		all[code] = 0
	}
	maps.Copy(all, s.Errors)
	all[events.CodeUnavailable] += m.refused()
	return all
}

func (m *providerMetrics) allCircuits(s provider.Stats) map[string]bool {
	all := map[string]bool{}
	for _, platform := range m.platforms() {
		all[platform] = false
	}
	maps.Copy(all, s.Circuits)
	return all
}

func (m *providerMetrics) allExchanges(s provider.Stats) map[refresh.Exchange]int64 {
	all := map[refresh.Exchange]int64{}
	for _, platform := range m.platforms() {
		for _, o := range outcomes {
			all[refresh.Exchange{Platform: platform, Outcome: o}] = 0
		}
	}
	maps.Copy(all, s.Exchanges)
	return all
}
