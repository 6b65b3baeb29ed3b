package delivery

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// QueueMetrics are what a Queue reports.
type QueueMetrics struct {
	Waiting   prometheus.Gauge
	Oldest    prometheus.Gauge
	Delivered prometheus.Counter
	Dropped   prometheus.Counter
	Failed    prometheus.Counter
}

// NewQueueMetrics returns metrics that are registered nowhere yet.
func NewQueueMetrics() *QueueMetrics {
	return &QueueMetrics{
		Waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "covey_queue_deliveries", Help: "Deliveries that wait in the queues of shards that this node leads.",
		}),
		Oldest: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "covey_queue_oldest_seconds", Help: "For how long the oldest of them has waited; 0 if there is none.",
		}),
		Delivered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "covey_queue_delivered_total", Help: "Recipients that got their message from a queue.",
		}),
		Dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "covey_queue_dropped_total", Help: "Recipients taken off a queue because their account was removed.",
		}),
		Failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "covey_queue_failed_tries_total", Help: "Tries to bring a queued delivery to a shard that did not take it.",
		}),
	}
}

// Collectors returns all metrics, for registration.
func (m *QueueMetrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.Waiting, m.Oldest, m.Delivered, m.Dropped, m.Failed}
}

func (m *QueueMetrics) report(waiting int, oldest, now time.Time) {
	m.Waiting.Set(float64(waiting))
	m.Oldest.Set(0)
	if waiting > 0 {
		m.Oldest.Set(max(0, now.Sub(oldest).Seconds()))
	}
}
