package membership

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what gossip does. One belongs to one Gossip.
type Metrics struct {
	refused *prometheus.CounterVec
	changes *prometheus.CounterVec
	health  prometheus.Gauge
}

// Why something that came was refused.
const (
	refusedLabel     = "label"     // a packet or stream of another cluster, or no gossip at all
	refusedForm      = "form"      // the right label on what no node of ours sends
	refusedStreams   = "streams"   // more streams at a time than are allowed
	refusedMember    = "member"    // a member whose description is wrong, or one too many
	refusedLeaders   = "leaders"   // leaders that cannot be decoded or make no sense
	refusedDecrypt   = "decrypt"   // nobody's key fits
	refusedConflict  = "conflict"  // a living member's id from another address
	refusedOtherwise = "otherwise" // what else memberlist complains of
)

// NewMetrics makes collectors that count from zero.
func NewMetrics() *Metrics {
	name := func(n, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "covey", Subsystem: "gossip", Name: n, Help: help}
	}
	return &Metrics{
		refused: prometheus.NewCounterVec(prometheus.CounterOpts(
			name("refused_total", "Gossip that was refused or went wrong, by reason.")), []string{"reason"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts(
			name("state_changes_total", "Changes of the state of members as seen here, by the state entered.")), []string{"state"}),
		health: prometheus.NewGauge(prometheus.GaugeOpts(
			name("health_score", "How badly this node keeps up with probing others; 0 is well."))),
	}
}

// Collectors returns everything that is to be registered.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.refused, m.changes, m.health}
}
