package main

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenbus/tokenbus/client"
)

// measured returns hooks that measure what the fleet does for us.
func measured(registry *prometheus.Registry) client.Hooks {
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "tokenbus_client_question_seconds", Help: "How long the fleet took, by where the token was found or the error's code.",
		Buckets: []float64{.001, .005, .025, .1, .5, 1, 2.5, 10, 30},
	}, []string{"outcome"})
	registry.MustRegister(took)
	return client.Hooks{Asked: func(a client.Asked) {
		outcome := string(a.Source)
		if e, ok := errors.AsType[*client.Error](a.Err); ok {
			outcome = string(e.Code)
		} else if a.Err != nil {
			outcome = "other"
		}
		took.WithLabelValues(outcome).Observe(a.Took.Seconds())
	}}
}

// counters registers the client's counts, and returns two more: of answers to
// callers, and of requests to the API. The 401s that are in the second alone were
// healed.
func counters(c *client.Client, registry *prometheus.Registry) (answered, asked *prometheus.CounterVec) {
	for _, m := range []struct {
		name, help string
		count      func(client.Stats) int64
	}{
		{"hits_total", "Look-ups answered from memory.", func(s client.Stats) int64 { return s.Hits }},
		{"questions_total", "Questions to the fleet.", func(s client.Stats) int64 { return s.Asked }},
		{"questions_failed_total", "Questions that ended with an error.", func(s client.Stats) int64 { return s.Failed }},
		{"requests_total", "Requests that the questions took.", func(s client.Stats) int64 { return s.Requests }},
		{"missed_total", "Times that bumps may have been missed.", func(s client.Stats) int64 { return s.Missed }},
	} {
		registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "tokenbus_client_" + m.name, Help: m.help},
			func() float64 { return float64(m.count(c.Stats())) }))
	}
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tokenbus_client_connected", Help: "1 while connected to NATS."}, func() float64 {
		if c.Stats().Connected {
			return 1
		}
		return 0
	}))
	answered = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gateway_requests_total", Help: "Requests of callers, by the status of the answer."}, []string{"code"})
	asked = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gateway_api_requests_total", Help: "Requests to the API, by the status of its answer."}, []string{"code"})
	registry.MustRegister(answered, asked)
	return answered, asked
}
