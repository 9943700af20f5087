package own_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/services/audit/internal/own"
)

// The audit service's own decisions that wait or were lost show like those of every other service.
func TestMetricsTellOfTheQueue(t *testing.T) {
	t.Parallel()
	queue := own.NewQueue("spiffe://bank.test/audit", nil)
	queue.Record(audit.Decision{})
	want := `
# HELP countersign_audit_queued Decisions that the audit service has not stored yet.
# TYPE countersign_audit_queued gauge
countersign_audit_queued 1
`
	if err := testutil.CollectAndCompare(own.NewMetrics(queue), strings.NewReader(want), "countersign_audit_queued"); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(own.NewMetrics(queue)); n != 3 {
		t.Errorf("%d series, want 3", n)
	}
}
