package serve

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what listeners do, by the listener's name.
type Metrics struct {
	Accepted     *prometheus.CounterVec
	Refused      *prometheus.CounterVec
	Expired      *prometheus.CounterVec
	AcceptErrors *prometheus.CounterVec
	Open         *prometheus.GaugeVec
}

// NewMetrics returns metrics that no registry knows yet.
func NewMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"listener"}, labels...))
	}
	return &Metrics{
		Accepted:     counter("covey_connections_accepted_total", "Connections admitted."),
		Refused:      counter("covey_connections_refused_total", "Connections turned away: over the cap in total or by address, or while closing.", "reason"),
		Expired:      counter("covey_connections_expired_total", "Connections that overstepped a time limit or fell below the least data rate.", "limit"),
		AcceptErrors: counter("covey_accept_errors_total", "Failed tries to accept a connection, as for lack of descriptors."),
		Open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "covey_connections_open", Help: "Connections open now."}, []string{"listener"}),
	}
}

// Collectors returns all of them, for a registry.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.Accepted, m.Refused, m.Expired, m.AcceptErrors, m.Open}
}
