package rules

import "github.com/prometheus/client_golang/prometheus"

// Metrics tells how a rules file stands, as the process's own metrics tell of its policy. It is a prometheus.Collector. The zero value is not
// usable; see NewMetrics.
type Metrics struct {
	file                          *File
	info, loaded, failures, stale *prometheus.Desc
}

// NewMetrics returns the metrics of a file.
func NewMetrics(file *File) *Metrics {
	return &Metrics{
		file: file,
		info: prometheus.NewDesc("risk_rules_info", "1, with the version of the rules in force.", []string{"version"}, nil),
		loaded: prometheus.NewDesc("risk_rules_loaded_timestamp_seconds",
			"When the rules in force came into force.", nil, nil),
		failures: prometheus.NewDesc("risk_rules_failures_total",
			"Rules files that were not usable; the last good rules stayed in force.", nil, nil),
		stale: prometheus.NewDesc("risk_rules_stale", "1 while the rules file as it is now is not the one in force.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(descs chan<- *prometheus.Desc) {
	descs <- m.info
	descs <- m.loaded
	descs <- m.failures
	descs <- m.stale
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(metrics chan<- prometheus.Metric) {
	status := m.file.Status()
	stale := 0.0
	if status.Failure != nil {
		stale = 1
	}
	metrics <- prometheus.MustNewConstMetric(m.info, prometheus.GaugeValue, 1, status.Version)
	metrics <- prometheus.MustNewConstMetric(m.loaded, prometheus.GaugeValue, float64(status.Loaded.Unix()))
	metrics <- prometheus.MustNewConstMetric(m.failures, prometheus.CounterValue, float64(status.Failures))
	metrics <- prometheus.MustNewConstMetric(m.stale, prometheus.GaugeValue, stale)
}
