package mesh

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// gauge is one time series that is read when it is asked for.
type gauge struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func() float64
}

func newGauge(name, help string, value func() float64) gauge {
	return gauge{desc: prometheus.NewDesc(name, help, nil, nil), kind: prometheus.GaugeValue, value: value}
}

func newCounter(name, help string, value func() float64) gauge {
	return gauge{desc: prometheus.NewDesc(name, help, nil, nil), kind: prometheus.CounterValue, value: value}
}

// gauges is a prometheus.Collector.
type gauges []gauge

// Describe implements prometheus.Collector.
func (g gauges) Describe(descs chan<- *prometheus.Desc) {
	for _, one := range g {
		descs <- one.desc
	}
}

// Collect implements prometheus.Collector.
func (g gauges) Collect(metrics chan<- prometheus.Metric) {
	for _, one := range g {
		metrics <- prometheus.MustNewConstMetric(one.desc, one.kind, one.value())
	}
}

// newProcessMetrics tells how identity, policy and connections stand.
func newProcessMetrics(id *identity.Source, policy *authz.File, conns *transport.Registry) prometheus.Collector {
	return gauges{
		newGauge("countersign_svid_expiry_timestamp_seconds", "When the own SVID expires.",
			func() float64 { return float64(id.Status().NotAfter.Unix()) }),
		newGauge("countersign_svid_rotated_timestamp_seconds", "When the own SVID was received.",
			func() float64 { return float64(id.Status().Rotated.Unix()) }),
		newCounter("countersign_svid_rotations_total", "SVIDs received after the first.",
			func() float64 { return float64(id.Status().Rotations) }),
		newGauge("countersign_identity_state", "1 fresh, 2 stale (Workload API away), 3 expired, 4 withdrawn.",
			func() float64 { return float64(id.Status().State) }),
		newGauge("countersign_policy_loaded_timestamp_seconds", "When the policy in force came into force.",
			func() float64 { return float64(policy.Status().Loaded.Unix()) }),
		newCounter("countersign_policy_failures_total", "Policy files that were not usable; the last good one stayed in force.",
			func() float64 { return float64(policy.Status().Failures) }),
		newGauge("countersign_policy_stale", "1 while the policy file as it is now is not the one in force.",
			func() float64 {
				if policy.Status().Failure != nil {
					return 1
				}
				return 0
			}),
		newGauge("countersign_connections", "Live connections, both directions.",
			func() float64 { return float64(len(conns.Conns())) }),
	}
}

// newQueueMetrics tells how the way to the audit service stands.
func newQueueMetrics(queue *audit.Queue) prometheus.Collector {
	return gauges{
		newGauge("countersign_audit_queued", "Decisions that the audit service has not stored yet.",
			func() float64 { return float64(queue.Stats().Queued) }),
		newCounter("countersign_audit_lost_total", "Decisions that found no room; the audit service has a record of the gap.",
			func() float64 { return float64(queue.Stats().Lost) }),
		newCounter("countersign_audit_sent_total", "Decisions that the audit service has stored.",
			func() float64 { return float64(queue.Stats().Sent) }),
	}
}
