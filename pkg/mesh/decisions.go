package mesh

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-mesh/countersign/pkg/audit"
)

// countingRecorder counts decisions on their way to the recorder. A denied call ends before the metrics of calls see it.
type countingRecorder struct {
	next             audit.Recorder
	enforced, shadow verdicts
}

// verdicts counts decisions of one kind. The series are there from the start, so that a rate is known from the first decision.
type verdicts struct{ allowed, denied prometheus.Counter }

func newVerdicts(name, help string) (verdicts, *prometheus.CounterVec) {
	counts := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"verdict"})
	return verdicts{allowed: counts.WithLabelValues("allowed"), denied: counts.WithLabelValues("denied")}, counts
}

func (v verdicts) count(allowed bool) {
	if allowed {
		v.allowed.Inc()
	} else {
		v.denied.Inc()
	}
}

func newCountingRecorder(next audit.Recorder) (r countingRecorder, metrics prometheus.Collector) {
	enforced, decisions := newVerdicts("countersign_decisions_total", "Authorization decisions by verdict.")
	shadow, shadowDecisions := newVerdicts("countersign_shadow_decisions_total",
		"Decisions that a rule in shadow applies to, by what the verdict would be if the rules in shadow were enforced.")
	return countingRecorder{next: next, enforced: enforced, shadow: shadow}, group{decisions, shadowDecisions}
}

// Record implements audit.Recorder.
func (r countingRecorder) Record(d audit.Decision) {
	r.enforced.count(d.Allowed)
	if d.ShadowRule != "" {
		r.shadow.count(d.ShadowAllowed)
	}
	if r.next != nil {
		r.next.Record(d)
	}
}

// lateRecorder is a recorder for connections that are made before there is a way to the audit service, which is one of them. Until then nothing
// is recorded, and nothing is called.
type lateRecorder struct{ next atomic.Pointer[audit.Queue] }

// Record implements audit.Recorder.
func (r *lateRecorder) Record(d audit.Decision) {
	if queue := r.next.Load(); queue != nil {
		queue.Record(d)
	}
}
