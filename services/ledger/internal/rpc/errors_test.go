package rpc_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
)

func TestPostTransferRefuses(t *testing.T) {
	t.Parallel()
	s := newService(t)
	payments := s.as(t, "/payments")
	post(t, payments, pay("deposit-1", cash, alice, 500))
	before := s.entryCount(t)
	change := func(f func(*ledgerv1.PostTransferRequest)) *ledgerv1.PostTransferRequest {
		req := pay("payment-1", alice, bob, 100)
		f(req)
		return req
	}
	tests := map[string]struct {
		req  *ledgerv1.PostTransferRequest
		code codes.Code
		want string
	}{
		"postings that do not sum to zero": {change(func(r *ledgerv1.PostTransferRequest) { r.Postings[1].Amount.MinorUnits = 101 }), codes.InvalidArgument, "EUR sum to 1"},
		"one currency against another":     {change(func(r *ledgerv1.PostTransferRequest) { r.Postings[1].Amount.CurrencyCode = "USD" }), codes.InvalidArgument, "EUR sum to -100"},
		"an account twice":                 {change(func(r *ledgerv1.PostTransferRequest) { r.Postings[1].AccountId = alice }), codes.InvalidArgument, "more than once"},
		"one posting":                      {change(func(r *ledgerv1.PostTransferRequest) { r.Postings = r.Postings[:1] }), codes.InvalidArgument, "postings"},
		"an amount of zero":                {change(func(r *ledgerv1.PostTransferRequest) { r.Postings[1].Amount.MinorUnits = 0 }), codes.InvalidArgument, "zero"},
		"a posting without an amount":      {change(func(r *ledgerv1.PostTransferRequest) { r.Postings[1].Amount = nil }), codes.InvalidArgument, "amount"},
		"an account of no kind":            {change(func(r *ledgerv1.PostTransferRequest) { r.Postings[1].AccountId = "vault" }), codes.InvalidArgument, "account_id"},
		"an amount beyond all bounds":      {pay("payment-1", cash, bob, 1_000_000_000_000_001), codes.InvalidArgument, "minor_units"},
		"other content under a used ID":    {pay("deposit-1", cash, alice, 501), codes.AlreadyExists, "another transfer"},
		"more than there is":               {pay("payment-1", alice, bob, 501), codes.FailedPrecondition, "insufficient funds"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := payments.PostTransfer(t.Context(), tt.req)
			if status.Code(err) != tt.code || !strings.Contains(status.Convert(err).Message(), tt.want) {
				t.Errorf("PostTransfer = %v; want %v with %q", err, tt.code, tt.want)
			}
			if n := s.entryCount(t); n != before {
				t.Errorf("a refused transfer left %d entries", n-before)
			}
		})
	}
}

func TestInsufficientFundsAreForPrograms(t *testing.T) {
	t.Parallel()
	s := newService(t)
	_, err := s.as(t, "/payments").PostTransfer(t.Context(), pay("payment-1", alice, bob, 1))
	if status.Code(err) != codes.FailedPrecondition {
		t.Fatalf("PostTransfer = %v, want FAILED_PRECONDITION", err)
	}
	want := []any{&errdetails.ErrorInfo{
		Reason: "INSUFFICIENT_FUNDS", Domain: "bank.test",
		Metadata: map[string]string{"account_id": alice, "currency_code": "EUR"},
	}}
	if diff := cmp.Diff(want, status.Convert(err).Details(), protocmp.Transform()); diff != "" {
		t.Errorf("details (-want +got):\n%s", diff)
	}
}

func TestABalanceBeyondAllBoundsIsRefused(t *testing.T) {
	t.Parallel()
	s := newService(t)
	if _, err := s.db.ExecContext(t.Context(), "INSERT INTO balances VALUES (?, 'EUR', 9223372036854775807, 0)", alice); err != nil {
		t.Fatal(err)
	}
	_, err := s.as(t, "/payments").PostTransfer(t.Context(), pay("deposit-1", cash, alice, 1))
	info, ok := errorInfo(err)
	if status.Code(err) != codes.FailedPrecondition || !ok || info.GetReason() != "BALANCE_OUT_OF_RANGE" {
		t.Errorf("PostTransfer = %v (%v), want FAILED_PRECONDITION for BALANCE_OUT_OF_RANGE", err, info)
	}
}

func errorInfo(err error) (*errdetails.ErrorInfo, bool) {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info, true
		}
	}
	return nil, false
}

func TestDamagedBooksAreReported(t *testing.T) {
	t.Parallel()
	s := newService(t)
	post(t, s.as(t, "/payments"), pay("deposit-1", cash, alice, 500))
	operator := s.as(t, "/operator")
	if _, err := s.db.ExecContext(t.Context(), "UPDATE balances SET minor_units = 501 WHERE account_id = ?", alice); err != nil {
		t.Fatal(err)
	}
	_, err := operator.CheckTrialBalance(t.Context(), &ledgerv1.CheckTrialBalanceRequest{})
	if status.Code(err) != codes.DataLoss || !strings.Contains(status.Convert(err).Message(), "account "+alice+" in EUR") {
		t.Errorf("a balance that is not its entries' sum: %v; want DATA_LOSS that names the account", err)
	}
	if _, err := s.db.ExecContext(t.Context(), "DROP TRIGGER entries_update; UPDATE entries SET minor_units = 501 WHERE account_id = ?", alice); err != nil {
		t.Fatal(err)
	}
	trial, err := operator.CheckTrialBalance(t.Context(), &ledgerv1.CheckTrialBalanceRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := &ledgerv1.CheckTrialBalanceResponse{Sums: []*moneyv1.Money{eur(1)}, TransferCount: 1, EntryCount: 2}
	if diff := cmp.Diff(want, trial, protocmp.Transform()); diff != "" {
		t.Errorf("trial balance (-want +got):\n%s", diff)
	}
	if log := s.log.String(); !strings.Contains(log, "transfer deposit-1 does not sum to zero in EUR") {
		t.Errorf("the log does not say where the fault is: %s", log)
	}
}

// ATTACKS 64: a database that is gone: the caller learns that the outcome is unknown, and nothing of the inside.
func TestAFailureOfTheDatabaseStaysInside(t *testing.T) {
	t.Parallel()
	s := newService(t)
	payments, operator := s.as(t, "/payments"), s.as(t, "/operator")
	if err := s.books.Close(); err != nil {
		t.Fatal(err)
	}
	calls := map[string]func() error{
		"PostTransfer": func() error {
			_, err := payments.PostTransfer(t.Context(), pay("deposit-1", cash, alice, 5))
			return err
		},
		"GetBalance": func() error {
			_, err := operator.GetBalance(t.Context(), &ledgerv1.GetBalanceRequest{AccountId: alice})
			return err
		},
		"ListEntries": func() error {
			_, err := operator.ListEntries(t.Context(), &ledgerv1.ListEntriesRequest{AccountId: alice})
			return err
		},
		"CheckTrialBalance": func() error {
			_, err := operator.CheckTrialBalance(t.Context(), &ledgerv1.CheckTrialBalanceRequest{})
			return err
		},
	}
	for name, call := range calls {
		if err := call(); status.Code(err) != codes.Internal || status.Convert(err).Message() != "internal error" {
			t.Errorf("%s = %v, want INTERNAL with a fixed text", name, err)
		}
	}
	if log := s.log.String(); strings.Count(log, "database is closed") != len(calls) {
		t.Errorf("the log does not say why: %s", log)
	}
}
