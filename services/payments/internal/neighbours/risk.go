package neighbours

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// Risk asks the risk service. It is safe for concurrent use.
type Risk struct {
	client riskv1.RiskServiceClient
}

// NewRisk returns Risk over a connection.
func NewRisk(conn grpc.ClientConnInterface) *Risk {
	return &Risk{client: riskv1.NewRiskServiceClient(conn)}
}

// Assess returns risk's verdict; see machine.Risk.
func (r *Risk) Assess(ctx context.Context, p payment.Payment) (payment.Verdict, []payment.Reason, error) {
	response, err := r.client.AssessPayment(ctx, &riskv1.AssessPaymentRequest{
		PaymentId:       p.ID,
		PayerCustomerId: p.PayerCustomerID,
		PayerAccountId:  p.PayerAccountID,
		PayeeAccountId:  p.PayeeAccountID,
		Amount:          money(p.Amount.CurrencyCode, p.Amount.MinorUnits),
	})
	if err != nil {
		return 0, nil, fmt.Errorf("risk: %w", err)
	}
	var reasons []payment.Reason
	for _, reason := range response.GetReasons() {
		reasons = append(reasons, payment.Reason{Code: reason.GetCode(), Message: reason.GetMessage()})
	}
	return verdict(response.GetVerdict()), reasons, nil
}

// verdict returns the zero Verdict, which allows nothing, for what is no verdict, also one of a newer risk service.
func verdict(v riskv1.Verdict) payment.Verdict {
	switch v {
	case riskv1.Verdict_VERDICT_ALLOW:
		return payment.Allow
	case riskv1.Verdict_VERDICT_REFUSE:
		return payment.Refuse
	case riskv1.Verdict_VERDICT_HOLD:
		return payment.Hold
	default:
		return 0
	}
}
