package mesh

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/overload"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// collector is a prometheus.Collector of something that can be asked how it stands. A scrape asks once, so that the figures of
// one scrape fit each other.
type collector[T any] struct {
	status  func() T
	metrics []metric[T]
}

// metric is one metric of a collector: each reads it from what status returned.
type metric[T any] struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	each func(status T, emit emit)
}

// emit takes the value of one series, with the values of the metric's labels in their order.
type emit func(value float64, labels ...string)

// gauges is a metric of any number of series; gauge is one of a single series.
func gauges[T any](name, help string, labels []string, each func(T, emit)) metric[T] {
	return metric[T]{desc: prometheus.NewDesc(name, help, labels, nil), kind: prometheus.GaugeValue, each: each}
}

func gauge[T any](name, help string, value func(T) float64) metric[T] {
	return gauges(name, help, nil, func(status T, emit emit) { emit(value(status)) })
}

// counters and counter are the same for what only grows.
func counters[T any](name, help string, labels []string, each func(T, emit)) metric[T] {
	return metric[T]{desc: prometheus.NewDesc(name, help, labels, nil), kind: prometheus.CounterValue, each: each}
}

func counter[T any](name, help string, value func(T) float64) metric[T] {
	return counters(name, help, nil, func(status T, emit emit) { emit(value(status)) })
}

// Describe implements prometheus.Collector.
func (c collector[T]) Describe(descs chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		descs <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c collector[T]) Collect(series chan<- prometheus.Metric) {
	status := c.status()
	for _, m := range c.metrics {
		m.each(status, func(value float64, labels ...string) {
			series <- prometheus.MustNewConstMetric(m.desc, m.kind, value, labels...)
		})
	}
}

// boolean is the value of a gauge that says yes (1) or no (0).
func boolean(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// group is several collectors that are registered as one.
type group []prometheus.Collector

// Describe implements prometheus.Collector.
func (g group) Describe(descs chan<- *prometheus.Desc) {
	for _, one := range g {
		one.Describe(descs)
	}
}

// Collect implements prometheus.Collector.
func (g group) Collect(series chan<- prometheus.Metric) {
	for _, one := range g {
		one.Collect(series)
	}
}

// newProcessMetrics tells how identity, policy and connections stand. The alert rules in deploy/observability are written for it.
func newProcessMetrics(id *identity.Source, policy *authz.File, conns *transport.Registry) prometheus.Collector {
	return group{newIdentityMetrics(id), newPolicyMetrics(policy), newConnectionMetrics(conns)}
}

func newIdentityMetrics(id *identity.Source) prometheus.Collector {
	return collector[identity.Status]{id.Status, []metric[identity.Status]{
		gauge("countersign_svid_remaining_seconds", "Until the own SVID expires; negative since it has.",
			func(s identity.Status) float64 { return time.Until(s.NotAfter).Seconds() }),
		gauge("countersign_svid_lifetime_seconds", "How long the own SVID is valid, from its first moment to its last.",
			func(s identity.Status) float64 { return s.Lifetime.Seconds() }),
		gauge("countersign_svid_expiry_timestamp_seconds", "When the own SVID expires.",
			func(s identity.Status) float64 { return float64(s.NotAfter.Unix()) }),
		gauge("countersign_svid_rotated_timestamp_seconds", "When the own SVID was received.",
			func(s identity.Status) float64 { return float64(s.Rotated.Unix()) }),
		counter("countersign_svid_rotations_total", "SVIDs received after the first.",
			func(s identity.Status) float64 { return float64(s.Rotations) }),
		gauge("countersign_identity_state", "1 fresh, 2 stale (Workload API away), 3 expired, 4 withdrawn.",
			func(s identity.Status) float64 { return float64(s.State) }),
		gauge("countersign_workload_api_connected", "1 while the watch of the Workload API is open and was answered.",
			func(s identity.Status) float64 { return boolean(s.Connected) }),
		counter("countersign_workload_api_failures_total", "Watches of the Workload API that ended or could not be opened.",
			func(s identity.Status) float64 { return float64(s.Failures) }),
		gauges("countersign_bundle_authority_remaining_seconds",
			"Until an authority of a trust bundle expires, by its subject key ID; negative since it has.",
			[]string{"trust_domain", "authority"},
			func(s identity.Status, emit emit) {
				for _, a := range s.Authorities {
					emit(time.Until(a.NotAfter).Seconds(), a.TrustDomain.Name(), a.SubjectKeyID)
				}
			}),
	}}
}

func newPolicyMetrics(policy *authz.File) prometheus.Collector {
	return collector[authz.FileStatus]{policy.Status, []metric[authz.FileStatus]{
		gauge("countersign_policy_loaded_timestamp_seconds", "When the policy in force came into force.",
			func(s authz.FileStatus) float64 { return float64(s.Loaded.Unix()) }),
		counter("countersign_policy_failures_total", "Policy files that were not usable; the last good one stayed in force.",
			func(s authz.FileStatus) float64 { return float64(s.Failures) }),
		gauge("countersign_policy_stale", "1 while the policy file as it is now is not the one in force.",
			func(s authz.FileStatus) float64 { return boolean(s.Failure != nil) }),
	}}
}

// connections is how the connections of a process stand.
type connections struct {
	transport.Stats
	live []transport.Conn
}

func newConnectionMetrics(conns *transport.Registry) prometheus.Collector {
	status := func() connections { return connections{conns.Stats(), conns.Conns()} }
	return collector[connections]{status, []metric[connections]{
		gauges("countersign_connections", "Live connections by direction and peer.", []string{"direction", "peer"},
			func(c connections, emit emit) {
				for end, n := range countEnds(c.live) {
					emit(float64(n), end.direction.String(), end.peer)
				}
			}),
		// Stats has an entry for every kind that there is, so that a rate is known from the first time that it happens.
		counters("countersign_connections_cut_total", "Connections that were cut before their ends closed them, by reason.",
			[]string{"direction", "reason"},
			func(c connections, emit emit) {
				for cut, n := range c.Cuts {
					emit(float64(n), cut.Direction.String(), string(cut.Reason))
				}
			}),
		counter("countersign_connections_renewed_total", "Connections that were renewed ahead of an expiry or of the end of an authority.",
			func(c connections) float64 { return float64(c.Renewed) }),
		counters("countersign_handshakes_total", "Handshakes that succeeded.", []string{"direction"},
			func(c connections, emit emit) {
				for direction, n := range c.Handshakes {
					emit(float64(n), direction.String())
				}
			}),
		counters("countersign_handshake_failures_total", "Handshakes that failed, by reason; the name of a rule where the peer's SVID broke it.",
			[]string{"direction", "reason"},
			func(c connections, emit emit) {
				for failure, n := range c.Failures {
					emit(float64(n), failure.Direction.String(), failure.Reason)
				}
			}),
	}}
}

// end is one end of connections: who is there, and who dialled.
type end struct {
	direction transport.Direction
	peer      string
}

const (
	// maxEnds bounds the series of one scrape. How many workloads there are is for the authorities of the trust domains to say, and those
	// of federated ones are other people's.
	maxEnds = 500
	// otherPeers stands for the peers beyond that. No SPIFFE ID looks like it.
	otherPeers = "other"
)

// countEnds counts connections by direction and peer: for those that have the most, and for all others together.
func countEnds(live []transport.Conn) map[end]int {
	counts := make(map[end]int)
	for _, c := range live {
		counts[end{c.Direction, c.Peer.ID.String()}]++
	}
	if len(counts) <= maxEnds {
		return counts
	}
	most := slices.SortedFunc(maps.Keys(counts), func(a, b end) int {
		return cmp.Or(counts[b]-counts[a], cmp.Compare(a.peer, b.peer), cmp.Compare(a.direction, b.direction))
	})
	for _, e := range most[maxEnds:] {
		counts[end{e.direction, otherPeers}] += counts[e]
		delete(counts, e)
	}
	return counts
}

// newOverloadMetrics tells how much a server has taken on, and what it sent away.
func newOverloadMetrics(gate *overload.Gate) prometheus.Collector {
	kinds := func(value func(overload.KindStatus) int) func(overload.Status, emit) {
		return func(s overload.Status, emit emit) {
			for kind, status := range s.Kinds {
				emit(float64(value(status)), kind)
			}
		}
	}
	return collector[overload.Status]{gate.Status, []metric[overload.Status]{
		gauges("countersign_calls_in_flight", "Calls in their handlers: unary, streams, and those of operators and watches of health, which have slots of their own.",
			[]string{"kind"}, kinds(func(s overload.KindStatus) int { return s.InFlight })),
		gauges("countersign_calls_limit", "How many calls may be in their handlers at once.",
			[]string{"kind"}, kinds(func(s overload.KindStatus) int { return s.Limit })),
		counters("countersign_calls_refused_total", "Calls that were refused for lack of room (full, share of one peer, rate) or time (deadline).",
			[]string{"kind", "reason"},
			func(s overload.Status, emit emit) {
				for kind, status := range s.Kinds {
					for reason, n := range status.Refused {
						emit(float64(n), kind, reason)
					}
				}
			}),
	}}
}

// newQueueMetrics tells how the way to the audit service stands.
func newQueueMetrics(queue *audit.Queue) prometheus.Collector {
	return collector[audit.Stats]{queue.Stats, []metric[audit.Stats]{
		gauge("countersign_audit_queued", "Decisions that the audit service has not stored yet.",
			func(s audit.Stats) float64 { return float64(s.Queued) }),
		counter("countersign_audit_lost_total", "Decisions that found no room; the audit service has a record of the gap.",
			func(s audit.Stats) float64 { return float64(s.Lost) }),
		counter("countersign_audit_sent_total", "Decisions that the audit service has stored.",
			func(s audit.Stats) float64 { return float64(s.Sent) }),
	}}
}
