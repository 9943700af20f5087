package workload

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-mesh/countersign/services/authority/internal/ca"
	"github.com/countersign-mesh/countersign/services/authority/internal/registration"
)

// metrics is what a Workload API tells of itself. It is a prometheus.Collector.
type metrics struct {
	issued     *prometheus.CounterVec
	x509Issued prometheus.Counter
	jwtIssued  prometheus.Counter
	denied     prometheus.Counter
	streams    *prometheus.GaugeVec
	x509Expiry prometheus.GaugeFunc
	jwtExpiry  prometheus.GaugeFunc
	entries    prometheus.GaugeFunc
}

func newMetrics(authority *ca.CA, entries *registration.File) *metrics {
	m := &metrics{
		issued: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_authority_svids_issued_total", Help: "SVIDs that were signed.",
		}, []string{"kind"}),
		denied: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "countersign_authority_attestations_denied_total",
			Help: "Calls by processes that could not be attested or match no registration entry.",
		}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "countersign_authority_streams", Help: "Open streams of the Workload API.",
		}, []string{"method"}),
		entries: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "countersign_authority_registration_entries", Help: "Registration entries in force.",
		}, func() float64 { return float64(entries.Current().Len()) }),
	}
	m.x509Issued, m.jwtIssued = m.issued.WithLabelValues("x509"), m.issued.WithLabelValues("jwt")
	m.x509Expiry = expiryGauge("x509", func() float64 {
		x509, _, err := authority.Expiry()
		if err != nil {
			return 0
		}
		return float64(x509.Unix())
	})
	m.jwtExpiry = expiryGauge("jwt", func() float64 {
		_, jwt, err := authority.Expiry()
		if err != nil {
			return 0
		}
		return float64(jwt.Unix())
	})
	return m
}

func expiryGauge(kind string, value func() float64) prometheus.GaugeFunc {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "countersign_authority_expiry_timestamp_seconds",
		Help:        "When the active signing key expires; 0 while none can sign.",
		ConstLabels: prometheus.Labels{"kind": kind},
	}, value)
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.issued, m.denied, m.streams, m.x509Expiry, m.jwtExpiry, m.entries}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(ch)
	}
}
