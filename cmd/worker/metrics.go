package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tokenbus/tokenbus/provider"
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

// providerMetrics turns a provider's counters into metrics.
type providerMetrics struct {
	stats func() provider.Stats

	lookups, errors, exchanges, bumps, journaled, replayed *prometheus.Desc
	waiting, running, entries                              *prometheus.Desc
}

func newProviderMetrics(stats func() provider.Stats) *providerMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tokenbus_"+name, help, labels, nil)
	}
	return &providerMetrics{
		stats:     stats,
		lookups:   desc("lookups_total", "Token requests that were answered with a token, by where it was found.", "source"),
		errors:    desc("lookup_errors_total", "Token requests that were answered with an error, by its code.", "code"),
		exchanges: desc("exchanges_total", "Requests to token endpoints, by what came of them.", "platform", "outcome"),
		bumps:     desc("bumps_total", "Version bumps that were heard and were news to this worker."),
		journaled: desc("journaled_total", "Answers of token endpoints that had to wait in the journal."),
		replayed:  desc("replayed_total", "Answers that were settled from the journal."),
		waiting:   desc("journal_records", "Answers that wait in the journal."),
		running:   desc("refreshes_running", "Refreshes that run in this worker."),
		entries:   desc("l1_entries", "Accounts in this worker's own cache."),
	}
}

// Describe implements [prometheus.Collector].
func (m *providerMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.lookups, m.errors, m.exchanges, m.bumps, m.journaled, m.replayed, m.waiting, m.running, m.entries} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (m *providerMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.stats()
	counter := func(d *prometheus.Desc, n int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n) }
	for source, n := range s.Lookups {
		counter(m.lookups, n, string(source))
	}
	for code, n := range s.Errors {
		counter(m.errors, n, string(code))
	}
	for e, n := range s.Exchanges {
		counter(m.exchanges, n, e.Platform, string(e.Outcome))
	}
	counter(m.bumps, s.Bumps)
	counter(m.journaled, s.Journaled)
	counter(m.replayed, s.Replayed)
	gauge(m.waiting, float64(s.JournalWaiting))
	gauge(m.running, float64(s.Flights))
	gauge(m.entries, float64(s.L1Entries))
}
