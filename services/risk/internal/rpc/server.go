// Package rpc is risk's gRPC side. Requests have been authorized and validated when they get here.
package rpc

import (
	"context"
	"log/slog"

	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
	"github.com/countersign-mesh/countersign/services/risk/internal/risk"
	"github.com/countersign-mesh/countersign/services/risk/internal/store"
)

// Server implements bank.risk.v1.RiskService. It is safe for concurrent use. The zero value is not usable; see New.
type Server struct {
	riskv1.UnimplementedRiskServiceServer

	rules  Rules
	memory *store.Store
	log    *slog.Logger
}

// Rules knows the rules in force.
type Rules interface {
	Rules() risk.Rules
}

// New returns the service that assesses by the rules in force, each payment by those that it finds. What speaks against a payment, and errors whose text callers are not told, go to log.
func New(rules Rules, memory *store.Store, log *slog.Logger) *Server {
	return &Server{rules: rules, memory: memory, log: log}
}

// AssessPayment implements RiskServiceServer.
func (s *Server) AssessPayment(ctx context.Context, req *riskv1.AssessPaymentRequest) (*riskv1.AssessPaymentResponse, error) {
	a, err := s.memory.Assess(ctx, s.rules.Rules(), risk.Payment{
		ID:       req.GetPaymentId(),
		Customer: req.GetPayerCustomerId(),
		Payer:    req.GetPayerAccountId(),
		Payee:    req.GetPayeeAccountId(),
		Currency: req.GetAmount().GetCurrencyCode(),
		Minor:    req.GetAmount().GetMinorUnits(),
	})
	if err != nil {
		return nil, s.status(ctx, err)
	}
	resp := &riskv1.AssessPaymentResponse{Verdict: verdict(a.Verdict)}
	for _, r := range a.Reasons {
		resp.Reasons = append(resp.Reasons, &riskv1.Reason{Code: string(r.Code), Message: r.Message})
		s.log.InfoContext(ctx, "a rule spoke against a payment",
			"payment_id", req.GetPaymentId(), "verdict", resp.GetVerdict().String(), "code", string(r.Code), "rules_version", a.Version)
	}
	return resp, nil
}

// verdict maps what is no verdict to UNSPECIFIED, at which a caller must not go on.
func verdict(v risk.Verdict) riskv1.Verdict {
	switch v {
	case risk.Allow:
		return riskv1.Verdict_VERDICT_ALLOW
	case risk.Hold:
		return riskv1.Verdict_VERDICT_HOLD
	case risk.Refuse:
		return riskv1.Verdict_VERDICT_REFUSE
	default:
		return riskv1.Verdict_VERDICT_UNSPECIFIED
	}
}
