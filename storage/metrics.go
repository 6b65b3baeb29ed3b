package storage

import "github.com/prometheus/client_golang/prometheus"

// CompactorMetrics are what a Compactor reports.
type CompactorMetrics struct {
	Moved     prometheus.Counter
	Removed   prometheus.Counter
	LogBytes  prometheus.Gauge
	LiveBytes prometheus.Gauge
}

// NewCompactorMetrics returns metrics that are registered nowhere yet.
func NewCompactorMetrics() *CompactorMetrics {
	return &CompactorMetrics{
		Moved: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "covey_compact_moved_bytes_total", Help: "Bytes of live bodies copied forward in the log.",
		}),
		Removed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "covey_compact_removed_segments_total", Help: "Segments of the log removed.",
		}),
		LogBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "covey_log_bytes", Help: "Size of the log's segments, as of the last compaction pass.",
		}),
		LiveBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "covey_log_live_bytes", Help: "Bytes of bodies that messages refer to, as of the last compaction pass.",
		}),
	}
}

// Collectors returns all metrics, for registration.
func (m *CompactorMetrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.Moved, m.Removed, m.LogBytes, m.LiveBytes}
}
