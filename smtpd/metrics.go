package smtpd

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what a Server does, by kind of listener.
type Metrics struct {
	Sessions *prometheus.CounterVec
	Messages *prometheus.CounterVec
	Octets   *prometheus.CounterVec
	Refused  *prometheus.CounterVec
	Seconds  *prometheus.HistogramVec
}

// NewMetrics returns metrics that no registry knows yet.
func NewMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"listener"}, labels...))
	}
	return &Metrics{
		Sessions: counter("covey_smtp_sessions_total", "Sessions ended."),
		Messages: counter("covey_smtp_messages_total", "Messages whose data came to its end, by the first digit of the reply."+
			" A reply of LMTP counts once for each message: 2 if it was 2 for all recipients.", "result"),
		Octets:  counter("covey_smtp_message_octets_total", "Octets of messages taken."),
		Refused: counter("covey_smtp_refused_total", "Commands refused, by the first digit of the reply.", "result"),
		Seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "covey_smtp_message_seconds", Help: "From DATA to the reply at the end of the message.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9)}, []string{"listener"}),
	}
}

// Collectors returns all of them, for a registry.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.Sessions, m.Messages, m.Octets, m.Refused, m.Seconds}
}
