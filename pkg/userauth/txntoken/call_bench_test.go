package txntoken_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

// benchPolicy lets payments call by its name alone, and the gateway with a user's token for the content of the call.
const benchPolicy = `trust_domain: bank.test
services:
  bank.risk.v1.RiskService:
    served_by: [/risk]
    methods:
      AssessPayment:
        allow:
          - peer: /payments
          - peer: /gateway
            user: transfer
            when: request.payer_account_id == user.context.payer && request.payer_customer_id == user.subject
`

type assessor struct {
	riskv1.UnimplementedRiskServiceServer
}

func (assessor) AssessPayment(context.Context, *riskv1.AssessPaymentRequest) (*riskv1.AssessPaymentResponse, error) {
	return &riskv1.AssessPaymentResponse{}, nil
}

// BenchmarkCall is a call in the mesh, the whole chain included: by a peer that needs no token, with a token that is known by now, and with a new one each time. The
// three take turns, so that whatever else the machine does falls on all of them.
func BenchmarkCall(b *testing.B) {
	bank, m := newBank(b), meshtest.New(b, "bank.test", benchPolicy)
	addr := m.Serve(b, "/risk", func(s grpc.ServiceRegistrar) { riskv1.RegisterRiskServiceServer(s, assessor{}) }, mesh.WithUsers(bank.verifier))
	plain := riskv1.NewRiskServiceClient(m.Dial(b, "/payments", "/risk", addr))
	user := riskv1.NewRiskServiceClient(m.Dial(b, "/gateway", "/risk", addr, mesh.WithTransactionTokens("bank.risk.v1.RiskService")))
	asking := func() context.Context {
		raw := bank.issue(b, payer(accountA))
		return txntoken.NewContext(b.Context(), txntoken.Received(raw, bank.clock.now().Add(time.Minute)))
	}
	known := asking()
	call := func(ctx context.Context, client riskv1.RiskServiceClient) time.Duration {
		began := time.Now()
		if _, err := client.AssessPayment(ctx, assessment(accountA)); err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	}
	for range 100 { // until all that is made once is made
		call(b.Context(), plain)
		call(known, user)
	}
	var without, withKnown, withNew time.Duration
	for b.Loop() {
		fresh := asking()
		without += call(b.Context(), plain)
		withKnown += call(known, user)
		withNew += call(fresh, user)
	}
	micros := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(b.N) }
	b.ReportMetric(0, "ns/op") // of the three together, and of the issuer's signature
	b.ReportMetric(micros(without), "without-µs")
	b.ReportMetric(micros(withKnown), "known-µs")
	b.ReportMetric(micros(withNew), "new-µs")
	b.ReportMetric(micros(withKnown)/micros(without), "known/without")
	b.ReportMetric(micros(withNew)/micros(without), "new/without")
}
