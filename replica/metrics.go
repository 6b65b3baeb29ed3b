package replica

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what a Host does. One belongs to one Host.
type Metrics struct {
	proposals      prometheus.Counter
	refusals       *prometheus.CounterVec
	batchEntries   prometheus.Histogram
	batchBytes     prometheus.Histogram
	syncSeconds    prometheus.Histogram
	applySeconds   prometheus.Histogram
	checkpoints    *prometheus.CounterVec
	leaderChanges  prometheus.Counter
	applyQueue     prometheus.Gauge
	waiting        prometheus.Gauge
	inboundDropped prometheus.Counter
	stopped        prometheus.Gauge
	copies         *prometheus.CounterVec
	copyBytes      *prometheus.CounterVec
}

// Why a proposal or a read was refused.
const (
	refusedQueue     = "queue"      // too many wait already
	refusedBacklog   = "backlog"    // too much is in the log and not committed
	refusedNoLeader  = "no_leader"  // the group has none
	refusedElsewhere = "elsewhere"  // another node leads
	refusedDiskFull  = "disk_full"  // the log has no room
	refusedStopping  = "stopping"   // the host stops
	refusedStopped   = "stopped"    // the group has stopped
	refusedTimeout   = "no_quorum"  // nobody answered in time
	refusedOverlaid  = "overridden" // another leader's entry took its place
)

// NewMetrics makes collectors that count from zero.
func NewMetrics() *Metrics {
	name := func(n, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "covey", Subsystem: "replica", Name: n, Help: help}
	}
	counter := func(n, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(name(n, help)))
	}
	gauge := func(n, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts(name(n, help)))
	}
	histogram := func(n, help string, buckets []float64) prometheus.Histogram {
		o := name(n, help)
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: o.Namespace, Subsystem: o.Subsystem, Name: o.Name, Help: o.Help, Buckets: buckets,
		})
	}
	return &Metrics{
		proposals: counter("proposals_total", "Commands handed to Raft by this node."),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts(
			name("refusals_total", "Proposals and reads that were refused, by reason.")), []string{"reason"}),
		batchEntries: histogram("batch_entries", "Entries of all groups in one write of the log.",
			prometheus.ExponentialBuckets(1, 2, 12)),
		batchBytes: histogram("batch_bytes", "Bytes in one write of the log.",
			prometheus.ExponentialBuckets(256, 4, 10)),
		syncSeconds: histogram("sync_seconds", "Duration of a write of the log with its fsync.",
			prometheus.ExponentialBuckets(0.0001, 2, 16)),
		applySeconds: histogram("apply_seconds", "Duration of applying what was committed at once.",
			prometheus.ExponentialBuckets(0.00001, 4, 10)),
		checkpoints: prometheus.NewCounterVec(prometheus.CounterOpts(
			name("checkpoints_total", "Checkpoints of state machines, by outcome.")), []string{"outcome"}),
		leaderChanges:  counter("leader_changes_total", "Changes of the leader as seen here, over all groups."),
		applyQueue:     gauge("apply_queue_entries", "Entries committed and not yet applied, over all groups."),
		waiting:        gauge("waiting_proposals", "Proposals not yet answered, over all groups."),
		inboundDropped: counter("inbound_dropped_total", "Messages of peers that were dropped because too many waited or they made no sense."),
		copies: prometheus.NewCounterVec(prometheus.CounterOpts(
			name("copies_total", "Copies of a state that were to come from a leader, by outcome.")), []string{"outcome"}),
		copyBytes: prometheus.NewCounterVec(prometheus.CounterOpts(
			name("copy_bytes_total", "Bytes of such copies that were sent and received.")), []string{"direction"}),
		stopped: gauge("stopped_groups", "Groups that take no part any more because of a fault."),
	}
}

// Collectors returns everything that is to be registered.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		m.proposals, m.refusals, m.batchEntries, m.batchBytes, m.syncSeconds, m.applySeconds, m.checkpoints,
		m.leaderChanges, m.applyQueue, m.waiting, m.inboundDropped, m.stopped, m.copies, m.copyBytes,
	}
}
