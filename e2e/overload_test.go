package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

// TestOverload pays with five times as many phones as payments has room for. Each call ends with an answer or a refusal that says when
// to come back, and whoever operates payments reaches it all the while. Afterwards all that was acknowledged is in the books, once; of what was refused
// nothing is, until it is sent again. ATTACKS 53.
func TestOverload(t *testing.T) {
	const (
		room   = 4
		phones = 5 * room
		enough = 100 // payments done and refused, each
	)
	home := dist.NewHome(t)
	mesh := home.Apart(t)
	mesh.Flags["payments"] = []string{fmt.Sprintf("--max-calls=%d", room)}
	mesh.StartAll(t)
	operator := mesh.Identity(t, "operator")
	customers := openFor(t, mesh, operator, phones, 1_000_000)
	health := mesh.Dial(t, operator, "payments")

	calling := bank.NewCallers(t)
	calling.Add(t.Context(), payFrom(customers...), customerNames(customers)...)
	calling.Add(t.Context(), func(ctx context.Context, _ string, _ int) error { return bank.Healthy(ctx, health) }, "operator")
	bank.Eventually(t, time.Minute, func() string {
		done, refused, _ := byOutcome(calling.Outcomes(customerNames(customers)...))
		if len(done) < enough || len(refused) < enough {
			return fmt.Sprintf("%d payments done, %d refused", len(done), len(refused))
		}
		return ""
	})
	calling.Stop()

	done, refused, other := byOutcome(calling.Outcomes(customerNames(customers)...))
	for _, o := range refused {
		if !saysWhen(o.Err) {
			t.Errorf("a refusal does not say when to come back: %v", o.Err)
		}
	}
	for _, o := range other {
		if status.Code(o.Err) != codes.Unavailable {
			t.Errorf("a call ended with %v", o.Err)
		}
	}
	if failed := bank.Failures(calling.Outcomes("operator")); len(failed) > 0 {
		t.Errorf("the operator does not reach payments while it is full:\n%s", bank.Describe(failed))
	}
	if took, limit := median(refused), median(done); took > limit {
		t.Errorf("half of the refusals took more than %v, half of the payments %v: they were not refused at once", took, limit)
	}
	if n := mesh.Metric(t, "payments", "countersign_calls_refused_total"); n < float64(len(refused)) {
		t.Errorf("payments counts %.0f refusals, its callers %d", n, len(refused))
	}
	t.Logf("%d payments done: %s", len(done), bank.Durations(done))
	t.Logf("%d refused: %s; %d others", len(refused), bank.Durations(refused), len(other))

	comeBack(t, customers, calling.Outcomes(customerNames(customers)...))
	checkBooks(t, mesh, operator, customers)
}

// byOutcome parts calls by how they ended: done, refused for lack of room, and all else.
func byOutcome(outcomes []bank.Outcome) (done, refused, other []bank.Outcome) {
	for _, o := range outcomes {
		switch status.Code(o.Err) {
		case codes.OK:
			done = append(done, o)
		case codes.ResourceExhausted:
			refused = append(refused, o)
		default:
			other = append(other, o)
		}
	}
	return done, refused, other
}

func saysWhen(err error) bool {
	return slices.ContainsFunc(status.Convert(err).Details(), func(detail any) bool {
		info, ok := detail.(*errdetails.RetryInfo)
		return ok && info.GetRetryDelay().AsDuration() > 0
	})
}

func median(outcomes []bank.Outcome) time.Duration {
	took := make([]time.Duration, len(outcomes))
	for i, o := range outcomes {
		took[i] = o.End.Sub(o.Begin)
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// comeBack sends what has no known outcome again, and some of what was refused, as the same requests, until it is done.
func comeBack(t *testing.T, customers []*customer, outcomes []bank.Outcome) {
	t.Helper()
	byName := make(map[string]*customer)
	for _, c := range customers {
		byName[c.name] = c
	}
	const some = 50
	refused := 0
	sent := make(map[string]int) // a caller's outcomes are in the order of its calls
	for _, o := range outcomes {
		c, n := byName[o.Caller], sent[o.Caller]
		sent[o.Caller]++
		if o.Err == nil {
			continue
		}
		if status.Code(o.Err) == codes.ResourceExhausted {
			if refused++; refused > some {
				continue
			}
		}
		bank.Eventually(t, 20*time.Second, func() string {
			response, err := c.phone.Bank().Transfer(t.Context(), c.nth(n))
			if got := response.GetTransfer().GetStatus(); got != mobilev1.TransferStatus_TRANSFER_STATUS_DONE {
				return fmt.Sprintf("payment %d of %s: %v, %v", n, c.name, got, err)
			}
			return ""
		})
		c.paid.Add(1)
	}
}
