package peer

import "github.com/prometheus/client_golang/prometheus"

// Why a post was dropped.
const (
	droppedQueue   = "queue"      // too many octets wait for the peer
	droppedNoLink  = "no_link"    // the peer cannot be reached
	droppedBroken  = "broken"     // it waited when the link broke
	droppedSize    = "size"       // longer than MaxPayload
	droppedUnknown = "no_handler" // received, and nobody is there for its kind
)

// Metrics counts what a Net does. One belongs to one Net.
type Metrics struct {
	links     *prometheus.GaugeVec
	streams   prometheus.Gauge
	received  prometheus.Counter
	sent      prometheus.Counter
	dropped   *prometheus.CounterVec
	calls     *prometheus.CounterVec
	refused   *prometheus.CounterVec
	turned    prometheus.Counter
	panics    prometheus.Counter
	dials     *prometheus.CounterVec
	roundTrip prometheus.Histogram
}

// NewMetrics makes collectors that count from zero.
func NewMetrics() *Metrics {
	name := func(n, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "covey", Subsystem: "peer", Name: n, Help: help}
	}
	counter := func(n, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(name(n, help)))
	}
	vec := func(n, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts(name(n, help)), []string{label})
	}
	return &Metrics{
		links: prometheus.NewGaugeVec(prometheus.GaugeOpts(
			name("links", "Links to other nodes that are up, by class and by who dialled.")), []string{"class", "dialled_by"}),
		streams:  prometheus.NewGauge(prometheus.GaugeOpts(name("streams", "Connections for proxied sessions that are open."))),
		received: counter("received_bytes_total", "Octets received from other nodes, as on the wire."),
		sent:     counter("sent_bytes_total", "Octets sent to other nodes, as on the wire."),
		dropped:  vec("posts_dropped_total", "One-way messages that were dropped, by reason.", "reason"),
		calls:    vec("calls_total", "Calls to other nodes, by outcome: ok, or the kind of error.", "outcome"),
		refused:  vec("connections_refused_total", "Connections that were refused, by reason.", "reason"),
		turned:   counter("calls_turned_away_total", "Calls of other nodes that were refused because too many were being handled."),
		panics:   counter("handler_panics_total", "Handlers that panicked."),
		dials:    vec("dials_total", "Tries to make a link, by outcome.", "outcome"),
		roundTrip: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "covey", Subsystem: "peer", Name: "round_trip_seconds",
			Help:    "Time from a ping to its pong, over all links that we dialled.",
			Buckets: prometheus.ExponentialBuckets(0.00005, 2, 16),
		}),
	}
}

// Collectors returns everything that is to be registered.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		m.links, m.streams, m.received, m.sent, m.dropped, m.calls, m.refused, m.turned, m.panics, m.dials, m.roundTrip,
	}
}
