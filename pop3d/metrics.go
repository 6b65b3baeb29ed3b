package pop3d

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what sessions do.
type Metrics struct {
	Commands  *prometheus.CounterVec // by command and result
	Retrieved prometheus.Counter
	Octets    prometheus.Counter
	Removed   prometheus.Counter
	Panics    prometheus.Counter

	ok map[string]prometheus.Counter // of Commands, by command: looking them up takes longer than counting
}

// NewMetrics returns metrics that no registry knows yet.
func NewMetrics() *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &Metrics{
		Commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "covey_pop3_commands_total",
			Help: "POP3 commands by name and result: ok, or the response code or kind of the refusal.",
		}, []string{"command", "result"}),
		Retrieved: counter("covey_pop3_retrieved_total", "Messages sent whole, by RETR."),
		Octets:    counter("covey_pop3_retrieved_octets_total", "Size of the messages sent whole."),
		Removed:   counter("covey_pop3_removed_total", "Messages removed at QUIT."),
		Panics:    counter("covey_pop3_panics_total", "Sessions ended by a fault of the server."),
		ok:        make(map[string]prometheus.Counter),
	}
	for _, verb := range []string{"CAPA", "QUIT", "USER", "PASS", "STAT", "LIST", "UIDL", "RETR", "TOP", "DELE", "NOOP"} {
		m.ok[verb] = m.Commands.WithLabelValues(verb, "ok")
	}
	return m
}

// done counts a command that was carried out.
func (m *Metrics) done(verb string) {
	if c := m.ok[verb]; c != nil {
		c.Inc()
		return
	}
	m.Commands.WithLabelValues(verb, "ok").Inc()
}

// Collectors returns all of them, for a registry.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.Commands, m.Retrieved, m.Octets, m.Removed, m.Panics}
}
