package story

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

const (
	// auditWait bounds how long a decision may take on its way to the audit service; a second is usual.
	auditWait     = 10 * time.Second
	auditInterval = 100 * time.Millisecond
)

// trace is a W3C trace that starts here.
type trace struct{ id, span string }

func newTrace() trace {
	raw := make([]byte, 24)
	_, _ = rand.Read(raw) // never fails
	return trace{id: hex.EncodeToString(raw[:16]), span: hex.EncodeToString(raw[16:])}
}

// parent is the traceparent header (W3C Trace Context §3.2), sampled.
func (t trace) parent() string { return "00-" + t.id + "-" + t.span + "-01" }

// hop is one call that a payment is made of.
type hop struct{ caller, callee, method string }

// paymentHops are the calls that a payment cannot do without.
func paymentHops() []hop {
	return []hop{
		{"mobile", "gateway", "/bank.mobile.v1.MobileBankService/Transfer"},
		{"gateway", "accounts", "/bank.accounts.v1.AccountService/GetAccount"},
		{"gateway", "payments", "/bank.payments.v1.PaymentService/CreatePayment"},
		{"payments", "accounts", "/bank.accounts.v1.AccountService/GetAccount"},
		{"payments", "risk", "/bank.risk.v1.RiskService/AssessPayment"},
		{"payments", "ledger", "/bank.ledger.v1.LedgerService/ReserveFunds"},
		{"payments", "ledger", "/bank.ledger.v1.LedgerService/CaptureHold"},
	}
}

// hops waits until audit has every hop of a payment, shows the decisions in the order they were made, and checks that each was
// allowed and by which rule.
func (p *player) hops(ctx context.Context, t trace) error {
	var decisions []*auditv1.Decision
	missing := paymentHops()
	err := p.await(ctx, func() (done bool, err error) {
		decisions, err = p.decisions(ctx, &auditv1.DecisionFilter{TraceId: t.id})
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
	p.check(len(missing) == 0, fmt.Sprintf("audit has every hop of trace %s", t.id), fmt.Sprintf("missing: %v", missing))
	expect(p, "each was allowed, by a rule of the policy", 0, others)
	return nil
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
