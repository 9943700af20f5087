package compose

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// testScale runs payments three times. Which of them has served a call is in the audit: each process records its decisions as a run of its own.
func testScale(t *testing.T, p *project, l *load) {
	p.run(t, everyProfile, "up", "--detach", "--no-build", "--pull=never", "--no-recreate", "--wait", "--wait-timeout=90", "--scale=payments=3", "payments")
	replicas := p.containers(t, "payments")
	if len(replicas) != 3 {
		t.Fatalf("want three replicas, got %v", replicas)
	}
	begin := time.Now()
	t.Logf("three replicas after %v: %v", p.balanced(t, 3).Round(100*time.Millisecond), p.served(t, begin))
	_, failed := l.count()
	docker(t, "kill", replicas[0])
	killed := time.Now()
	l.goesOn(t)
	p.balanced(t, 2)
	_, now := l.count()
	t.Logf("two replicas after %v: %v; %d attempts were answered with an error", time.Since(killed).Round(100*time.Millisecond), p.served(t, killed), now-failed)
	docker(t, "start", replicas[0])
	p.healthy(t, replicas[0])
	p.balanced(t, 3)
}

// balanced waits until so many processes of payments have served the same number of recent calls, give or take a third, and returns how long
// that took. gRPC looks for new replicas when a connection ends, and in this mesh each ends at half of an SVID's life.
func (p *project) balanced(t *testing.T, replicas int) time.Duration {
	t.Helper()
	begin := time.Now()
	bank.Eventually(t, 100*time.Second, func() string {
		recent := p.served(t, time.Now().Add(-4*time.Second))
		sum, few := 0, -1
		for _, n := range recent {
			if sum += n; few < 0 || n < few {
				few = n
			}
		}
		if len(recent) != replicas || sum < 10*replicas || few*replicas*3 < sum*2 {
			return fmt.Sprintf("want the calls of 4 s on %d replicas alike, got %v", replicas, recent)
		}
		return ""
	})
	return time.Since(begin)
}

// served returns how many payments each process of payments has been asked for since a time.
func (p *project) served(t *testing.T, since time.Time) map[string]int {
	t.Helper()
	response := &auditv1.ListDecisionsResponse{}
	if err := p.call(t.Context(), "audit", "ListDecisions", &auditv1.ListDecisionsRequest{
		Filter: &auditv1.DecisionFilter{
			ServerId: "spiffe://bank.test/payments", Method: "/bank.payments.v1.PaymentService/CreatePayment", StartTime: timestamppb.New(since),
		},
		PageSize: 1000,
	}, response); err != nil {
		t.Fatal(err)
	}
	count := make(map[string]int)
	for _, record := range response.GetRecords() {
		count[record.GetRunId()[:8]]++
	}
	return count
}
