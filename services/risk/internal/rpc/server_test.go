package rpc_test

import (
	"database/sql"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
	"github.com/countersign-mesh/countersign/services/risk/internal/rpc"
	"github.com/countersign-mesh/countersign/services/risk/internal/rules"
	"github.com/countersign-mesh/countersign/services/risk/internal/store"
	"github.com/countersign-mesh/countersign/services/risk/internal/store/migrations"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(databasetest.Main{M: m}) }

// service is risk that serves over mutual TLS under the bank's own policy and rules.
type service struct {
	mesh *meshtest.Mesh
	addr string
	db   *sql.DB
}

func newService(t *testing.T) *service {
	t.Helper()
	return newServiceOn(t, databasetest.SQLite(t))
}

func newServiceOn(t *testing.T, dsn string) *service {
	t.Helper()
	held, err := rules.Open("../../../../deploy/risk/bank.yaml")
	if err != nil {
		t.Fatal(err)
	}
	db, err := database.Open(t.Context(), dsn, migrations.FS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // a test may have closed it before
	s := &service{mesh: meshtest.Open(t, "bank.test", "../../../../deploy/policy/bank.yaml"), db: db}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s.addr = s.mesh.Serve(t, "/risk", func(r grpc.ServiceRegistrar) {
		riskv1.RegisterRiskServiceServer(r, rpc.New(held, store.New(db), log))
	})
	return s
}

// as returns a client with the identity of a workload.
func (s *service) as(t *testing.T, path string) riskv1.RiskServiceClient {
	t.Helper()
	return riskv1.NewRiskServiceClient(s.mesh.Dial(t, path, "/risk", s.addr))
}

// request asks about the n-th payment of alice.
func request(n int, minor int64) *riskv1.AssessPaymentRequest {
	letters := "abcdefghijklmnopqrstuvwxyz234567"
	return &riskv1.AssessPaymentRequest{
		PaymentId:       "pay-" + strings.Repeat("a", 24) + string(letters[n/32]) + string(letters[n%32]),
		PayerCustomerId: "alice",
		PayerAccountId:  "acc-" + strings.Repeat("a", 26),
		PayeeAccountId:  "acc-" + strings.Repeat("b", 26),
		Amount:          &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: minor},
	}
}

func (s *service) assessments(t *testing.T) (n int) {
	t.Helper()
	if err := s.db.QueryRowContext(t.Context(), "SELECT count(*) FROM assessments").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestVerdictsOfTheBanksOwnRules(t *testing.T) {
	t.Parallel()
	payments := newService(t).as(t, "/payments")
	blocked := request(4, 1_000_001)
	blocked.PayeeAccountId = "acc-blockedblockedblockedblock"
	tests := []struct {
		name string
		req  *riskv1.AssessPaymentRequest
		want *riskv1.AssessPaymentResponse
	}{
		{"one euro", request(1, 100), &riskv1.AssessPaymentResponse{Verdict: riskv1.Verdict_VERDICT_ALLOW}},
		{"more than 5,000 euros", request(2, 500_001), &riskv1.AssessPaymentResponse{Verdict: riskv1.Verdict_VERDICT_HOLD, Reasons: []*riskv1.Reason{
			{Code: "AMOUNT_CEILING", Message: "a payment of this amount in EUR is looked at by a person"},
		}}},
		{"more than 10,000 euros", request(3, 1_000_001), &riskv1.AssessPaymentResponse{Verdict: riskv1.Verdict_VERDICT_REFUSE, Reasons: []*riskv1.Reason{
			{Code: "AMOUNT_CEILING", Message: "the amount is above what one payment in EUR may be"},
		}}},
		{"that to a blocked payee", blocked, &riskv1.AssessPaymentResponse{Verdict: riskv1.Verdict_VERDICT_REFUSE, Reasons: []*riskv1.Reason{
			{Code: "AMOUNT_CEILING", Message: "the amount is above what one payment in EUR may be"},
			{Code: "BLOCKED_PAYEE", Message: "payments to this account are blocked"},
		}}},
	}
	for _, tt := range tests {
		for range 2 { // the second time it is the first answer
			got, err := payments.AssessPayment(t.Context(), tt.req)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.name, diff)
			}
		}
	}
}

// Many small payments in a row are what the bank is for, and no velocity.
func TestManySmallPaymentsAreAllowed(t *testing.T) {
	t.Parallel()
	payments := newService(t).as(t, "/payments")
	for i := range 150 {
		got, err := payments.AssessPayment(t.Context(), request(i, 100))
		if err != nil || got.GetVerdict() != riskv1.Verdict_VERDICT_ALLOW {
			t.Fatalf("payment %d of 1 EUR: %v, %v", i, got, err)
		}
	}
}

// ATTACKS 42 and 46: every identity but that of payments is denied, and nothing has happened by then.
func TestOnlyPaymentsAsks(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for _, path := range []string{"/ledger", "/gateway", "/accounts", "/audit", "/operator", "/mobile", "/risk", "/unknown"} {
		_, err := s.as(t, path).AssessPayment(t.Context(), request(1, 100))
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("AssessPayment as %s = %v, want PERMISSION_DENIED", path, err)
		}
	}
	if n := s.assessments(t); n != 0 {
		t.Errorf("denied calls left %d assessments", n)
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	t.Parallel()
	s := newService(t)
	payments := s.as(t, "/payments")
	if _, err := payments.AssessPayment(t.Context(), request(0, 100)); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		change func(*riskv1.AssessPaymentRequest)
		code   codes.Code
		want   string
	}{
		"a payment that was another one": {func(r *riskv1.AssessPaymentRequest) { r.PaymentId = request(0, 1).PaymentId }, codes.AlreadyExists, "another payment"},
		"an amount of zero":              {func(r *riskv1.AssessPaymentRequest) { r.Amount.MinorUnits = 0 }, codes.InvalidArgument, "above zero"},
		"an amount below zero":           {func(r *riskv1.AssessPaymentRequest) { r.Amount.MinorUnits = -1 }, codes.InvalidArgument, "above zero"},
		"no amount":                      {func(r *riskv1.AssessPaymentRequest) { r.Amount = nil }, codes.InvalidArgument, "amount"},
		"a payee that is no customer":    {func(r *riskv1.AssessPaymentRequest) { r.PayeeAccountId = "bank-cash" }, codes.InvalidArgument, "payee_account_id"},
		"no payment":                     {func(r *riskv1.AssessPaymentRequest) { r.PaymentId = "" }, codes.InvalidArgument, "payment_id"},
	}
	for name, tt := range tests {
		req := request(1, 101)
		tt.change(req)
		_, err := payments.AssessPayment(t.Context(), req)
		if status.Code(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.want) {
			t.Errorf("%s: %v; want %v with %q", name, err, tt.code, tt.want)
		}
	}
	if n := s.assessments(t); n != 1 {
		t.Errorf("%d assessments, want 1", n)
	}
}

// ATTACKS 64: without its memory risk has no opinion, and above all none in favour.
func TestAFailureOfTheDatabaseIsNoVerdict(t *testing.T) {
	t.Parallel()
	s := newService(t)
	payments := s.as(t, "/payments")
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := payments.AssessPayment(t.Context(), request(1, 100))
	if status.Code(err) != codes.Internal || status.Convert(err).Message() != "internal error" || got.GetVerdict() == riskv1.Verdict_VERDICT_ALLOW {
		t.Errorf("AssessPayment = %v, %v; want INTERNAL with a fixed text", got, err)
	}
}
