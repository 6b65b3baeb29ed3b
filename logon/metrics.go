package logon

import "github.com/prometheus/client_golang/prometheus"

// Metrics are what a Service counts.
type Metrics struct {
	tries  *prometheus.CounterVec
	cached prometheus.Counter
}

func newMetrics() *Metrics {
	return &Metrics{
		tries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "covey_logon_tries_total",
			Help: "Tries to log in, by protocol and outcome: ok, denied, limited, unavailable.",
		}, []string{"protocol", "outcome"}),
		cached: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "covey_logon_cached_total",
			Help: "Log-ins whose password was verified within the last ten minutes and needed no hashing.",
		}),
	}
}

// Collectors returns all of them.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.tries, m.cached}
}
