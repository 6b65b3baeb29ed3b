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

// ScrubberMetrics are what a Scrubber reports.
type ScrubberMetrics struct {
	Read     prometheus.Counter
	Passes   prometheus.Counter
	Repaired prometheus.Counter
	Failed   prometheus.Counter
}

// NewScrubberMetrics returns metrics that are registered nowhere yet.
func NewScrubberMetrics() *ScrubberMetrics {
	return &ScrubberMetrics{
		Read: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "covey_scrub_read_bytes_total", Help: "Bytes of bodies read and compared with their checksums by the scrubber.",
		}),
		Passes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "covey_scrub_passes_total", Help: "Times that the scrubber has read all bodies.",
		}),
		Repaired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "covey_bodies_repaired_total", Help: "Damaged bodies that were replaced by what another replica had.",
		}),
		Failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "covey_bodies_unrepaired_total", Help: "Tries to repair a damaged body that failed, each time that it was met.",
		}),
	}
}

// Collectors returns all metrics, for registration.
func (m *ScrubberMetrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.Read, m.Passes, m.Repaired, m.Failed}
}
