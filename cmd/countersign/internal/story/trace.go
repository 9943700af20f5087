package story

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

const (
	// auditWait bounds how long a decision may take on its way to the audit service; a second is usual.
	auditWait     = 10 * time.Second
	auditInterval = 100 * time.Millisecond
)

// hop is one call that a payment is made of.
type hop struct{ caller, callee, method string }

// paymentHops are the calls that a payment cannot do without.
func paymentHops() []hop {
	return []hop{
		{"gateway", "login", "/bank.login.v1.TransactionTokenService/IssueTransactionToken"},
		{"gateway", "accounts", "/bank.accounts.v1.AccountService/GetAccount"},
		{"gateway", "payments", "/bank.payments.v1.PaymentService/CreatePayment"},
		{"payments", "accounts", "/bank.accounts.v1.AccountService/GetAccount"},
		{"payments", "risk", "/bank.risk.v1.RiskService/AssessPayment"},
		{"payments", "ledger", "/bank.ledger.v1.LedgerService/ReserveFunds"},
		{"payments", "ledger", "/bank.ledger.v1.LedgerService/CaptureHold"},
	}
}

// hops waits until audit has every hop of the payment that was made since, shows the decisions in the order they were made, and checks that each was
// allowed and by which rule. They have one trace, which begins at the edge: a customer chooses none.
func (p *player) hops(ctx context.Context, since time.Time) error {
	var decisions []*auditv1.Decision
	missing, trace := paymentHops(), ""
	err := p.await(ctx, func() (done bool, err error) {
		if trace, err = p.traceOf(ctx, since); trace == "" {
			return false, err
		}
		decisions, err = p.decisions(ctx, &auditv1.DecisionFilter{TraceId: trace})
		missing = slices.DeleteFunc(paymentHops(), func(h hop) bool {
			return slices.ContainsFunc(decisions, func(d *auditv1.Decision) bool { return hopOf(d) == h })
		})
		return len(missing) == 0, err
	})
	if err != nil {
		return err
	}
	others := 0
	for _, d := range decisions {
		verdict := allowed
		if d.GetVerdict() != auditv1.Verdict_VERDICT_ALLOWED {
			verdict = denied
		}
		if verdict == denied || d.GetRule() == "" {
			others++
		}
		p.hop(hopOf(d), verdict, filepath.Base(d.GetRule()))
	}
	p.check(len(missing) == 0, fmt.Sprintf("audit has every hop of trace %s", or(trace)), fmt.Sprintf("missing: %v", missing))
	expect(p, "each was allowed, by a rule of the policy", 0, others)
	return nil
}

// traceOf returns the trace of the first payment that the gateway made since.
func (p *player) traceOf(ctx context.Context, since time.Time) (string, error) {
	list, err := p.decisions(ctx, &auditv1.DecisionFilter{
		Method: "/" + paymentService + "CreatePayment", PeerId: p.id("gateway"), StartTime: timestamppb.New(since),
	})
	if err != nil || len(list) == 0 {
		return "", err
	}
	return list[0].GetTraceId(), nil
}

// or is a trace that may not be known.
func or(trace string) string {
	if trace == "" {
		return "that is not known"
	}
	return trace
}

func hopOf(d *auditv1.Decision) hop {
	return hop{caller: short(d.GetPeerId()), callee: short(d.GetServerId()), method: d.GetMethod()}
}

// decisions lists what audit has, oldest first.
func (p *player) decisions(ctx context.Context, filter *auditv1.DecisionFilter) ([]*auditv1.Decision, error) {
	r, err := p.auditClient().ListDecisions(ctx, &auditv1.ListDecisionsRequest{Filter: filter, PageSize: 1000})
	if err != nil {
		return nil, err
	}
	var list []*auditv1.Decision
	for _, record := range r.GetRecords() {
		if d := record.GetDecision(); d != nil {
			list = append(list, d)
		}
	}
	slices.SortStableFunc(list, func(a, b *auditv1.Decision) int {
		return cmp.Compare(a.GetDecideTime().AsTime().UnixNano(), b.GetDecideTime().AsTime().UnixNano())
	})
	return list, nil
}

// await asks until done, within auditWait. That time is over is no error: what was found is then checked.
func (p *player) await(ctx context.Context, ask func() (done bool, err error)) error {
	ticker := time.NewTicker(auditInterval)
	defer ticker.Stop()
	for deadline := time.Now().Add(auditWait); time.Now().Before(deadline); {
		if done, err := ask(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
	return nil
}
