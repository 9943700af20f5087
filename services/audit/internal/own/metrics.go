package own

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-mesh/countersign/pkg/audit"
)

// Metrics tells how the way from the own decisions to the store stands, under the names that every other service has for its way to the
// audit service. It is a prometheus.Collector. The zero value is not usable; see NewMetrics.
type Metrics struct {
	queue              *audit.Queue
	queued, lost, sent *prometheus.Desc
}

// NewMetrics returns the metrics of a queue.
func NewMetrics(queue *audit.Queue) *Metrics {
	return &Metrics{
		queue:  queue,
		queued: prometheus.NewDesc("countersign_audit_queued", "Decisions that the audit service has not stored yet.", nil, nil),
		lost: prometheus.NewDesc("countersign_audit_lost_total",
			"Decisions that found no room; the audit service has a record of the gap.", nil, nil),
		sent: prometheus.NewDesc("countersign_audit_sent_total", "Decisions that the audit service has stored.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(descs chan<- *prometheus.Desc) {
	descs <- m.queued
	descs <- m.lost
	descs <- m.sent
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(metrics chan<- prometheus.Metric) {
	stats := m.queue.Stats()
	metrics <- prometheus.MustNewConstMetric(m.queued, prometheus.GaugeValue, float64(stats.Queued))
	metrics <- prometheus.MustNewConstMetric(m.lost, prometheus.CounterValue, float64(stats.Lost))
	metrics <- prometheus.MustNewConstMetric(m.sent, prometheus.CounterValue, float64(stats.Sent))
}
