package rpc_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
)

func TestPostTransferRefuses(t *testing.T) {
	t.Parallel()
	s := newTrusting(t)
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

// ATTACKS 64: a database that goes away in the middle of calls: the caller learns what is known, and nothing of the inside.
func TestAFailureOfTheDatabaseStaysInside(t *testing.T) {
	t.Parallel()
	server := databasetest.StartServer(t)
	dsn, err := server.Create(t.Context(), "books")
	if err != nil {
		t.Fatal(err)
	}
	s := trustingOn(t, dsn)
	payments, operator := s.as(t, "/payments"), s.as(t, "/operator")
	post(t, payments, pay("deposit-1", cash, alice, 5))
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	calls := map[string]func() error{
		"PostTransfer": func() error {
			_, err := payments.PostTransfer(t.Context(), pay("deposit-2", cash, alice, 5))
			return err
		},
		"ReserveFunds": func() error {
			_, err := payments.ReserveFunds(t.Context(), &ledgerv1.ReserveFundsRequest{HoldId: "hold-0001", AccountId: alice, Amount: eur(1)})
			return err
		},
		"CaptureHold": func() error {
			_, err := payments.CaptureHold(t.Context(), capture("payment-1", "hold-0001", alice, bob, 1))
			return err
		},
		"ReleaseHold": func() error {
			_, err := payments.ReleaseHold(t.Context(), &ledgerv1.ReleaseHoldRequest{HoldId: "hold-0001"})
			return err
		},
		"ListHolds": func() error {
			_, err := operator.ListHolds(t.Context(), &ledgerv1.ListHoldsRequest{AccountId: alice})
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
		message := status.Convert(call()).Message()
		if err := call(); status.Code(err) != codes.Unavailable || message != "the books are not available" {
			t.Errorf("%s = %v (%q at first), want UNAVAILABLE with a fixed text", name, err, message)
		}
	}
	if log := s.log.String(); !strings.Contains(log, "refused") {
		t.Errorf("the log does not say why: %s", log)
	}
	if err := server.Start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		post(t, payments, pay("deposit-2", cash, alice, 5))
	}
	if n := s.entryCount(t); n != 4 {
		t.Errorf("%d entries, want 4", n)
	}
}

// What the caller of a call learns of an error, whatever is in it.
func TestErrorsThatAreNotTheCallers(t *testing.T) {
	t.Parallel()
	s := newService(t)
	payments := s.as(t, "/payments")
	if _, err := s.db.ExecContext(t.Context(), "CREATE TRIGGER broken BEFORE INSERT ON transfers BEGIN SELECT RAISE(ABORT, 'secret'); END"); err != nil {
		t.Fatal(err)
	}
	_, err := payments.PostTransfer(t.Context(), pay("deposit-1", cash, alice, 5))
	if status.Code(err) != codes.Internal || status.Convert(err).Message() != "internal error" {
		t.Errorf("PostTransfer = %v, want INTERNAL with a fixed text", err)
	}
	if log := s.log.String(); !strings.Contains(log, "secret") {
		t.Errorf("the log does not say why: %s", log)
	}
	if err := s.books.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := payments.PostTransfer(t.Context(), pay("deposit-1", cash, alice, 5)); status.Code(err) != codes.Unavailable {
		t.Errorf("PostTransfer of closed books = %v, want UNAVAILABLE", err)
	}
}

// A commit whose outcome nobody knows is told as that, to programs too, and the same request again answers what became of it.
func TestAnUnknownOutcomeIsToldAsUnknown(t *testing.T) {
	t.Parallel()
	s := serviceOn(t, databasetest.Postgres(t))
	payments := s.as(t, "/payments")
	// The server ends the connection while it commits.
	if _, err := s.db.ExecContext(t.Context(), `
		CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END';
		CREATE CONSTRAINT TRIGGER die AFTER INSERT ON transfers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()`); err != nil {
		t.Fatal(err)
	}
	_, err := payments.PostTransfer(t.Context(), pay("deposit-1", cash, alice, 5))
	info, _ := errorInfo(err)
	if status.Code(err) != codes.Unavailable || info.GetReason() != "OUTCOME_UNKNOWN" || info.GetDomain() != "bank.test" {
		t.Errorf("PostTransfer = %v (%v), want UNAVAILABLE for OUTCOME_UNKNOWN", err, info)
	}
	if strings.Contains(status.Convert(err).Message(), "terminat") {
		t.Errorf("the caller reads what the database said: %v", err)
	}
	if _, err := s.db.ExecContext(t.Context(), "DROP TRIGGER die ON transfers"); err != nil {
		t.Fatal(err)
	}
	post(t, payments, pay("deposit-1", cash, alice, 5))
	if n := s.entryCount(t); n != 2 {
		t.Errorf("%d entries, want 2", n)
	}
}
