package rpc_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
)

func reserve(t *testing.T, c ledgerv1.LedgerServiceClient, id, account string, minor int64) *ledgerv1.Hold {
	t.Helper()
	resp, err := c.ReserveFunds(t.Context(), &ledgerv1.ReserveFundsRequest{HoldId: id, AccountId: account, Amount: eur(minor)})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetHold()
}

// capture is a request for a transfer of EUR out of a hold.
func capture(id, hold, from, to string, minor int64) *ledgerv1.CaptureHoldRequest {
	plain := pay(id, from, to, minor)
	return &ledgerv1.CaptureHoldRequest{HoldId: hold, TransferId: id, Description: plain.GetDescription(), Postings: plain.GetPostings()}
}

func TestAHoldIsMadeAndCaptured(t *testing.T) {
	t.Parallel()
	s := newTrusting(t)
	payments, operator, gateway := s.as(t, "/payments"), s.as(t, "/operator"), s.as(t, "/gateway")
	post(t, payments, pay("deposit-1", cash, alice, 500))
	made := reserve(t, payments, "hold-0001", alice, 200)
	if made.GetCreateTime() == nil || time.Since(made.GetCreateTime().AsTime()).Abs() > time.Minute {
		t.Errorf("the hold was made at %v", made.GetCreateTime())
	}
	want := &ledgerv1.Hold{HoldId: "hold-0001", AccountId: alice, Amount: eur(200), State: ledgerv1.HoldState_HOLD_STATE_ACTIVE, CreateTime: made.GetCreateTime()}
	if diff := cmp.Diff(want, made, protocmp.Transform()); diff != "" {
		t.Errorf("hold (-want +got):\n%s", diff)
	}
	balance, err := gateway.GetBalance(t.Context(), &ledgerv1.GetBalanceRequest{AccountId: alice})
	if err != nil {
		t.Fatal(err)
	}
	wantBalance := &ledgerv1.GetBalanceResponse{Balances: []*moneyv1.Money{eur(500)}, Held: []*moneyv1.Money{eur(200)}}
	if diff := cmp.Diff(wantBalance, balance, protocmp.Transform()); diff != "" {
		t.Errorf("balance (-want +got):\n%s", diff)
	}
	list, err := operator.ListHolds(t.Context(), &ledgerv1.ListHoldsRequest{AccountId: alice})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&ledgerv1.ListHoldsResponse{Holds: []*ledgerv1.Hold{want}}, list, protocmp.Transform()); diff != "" {
		t.Errorf("holds (-want +got):\n%s", diff)
	}
	captured, err := payments.CaptureHold(t.Context(), capture("payment-1", "hold-0001", alice, bob, 150))
	if err != nil {
		t.Fatal(err)
	}
	again, err := payments.CaptureHold(t.Context(), capture("payment-1", "hold-0001", alice, bob, 150))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(captured, again, protocmp.Transform()); diff != "" || captured.GetTransferId() != "payment-1" || len(captured.GetDigest()) != 64 {
		t.Errorf("captured %v, again (-first +again):\n%s", captured, diff)
	}
	want.State, want.TransferId, want.EndTime = ledgerv1.HoldState_HOLD_STATE_CAPTURED, "payment-1", captured.GetPostTime()
	if diff := cmp.Diff(want, reserve(t, payments, "hold-0001", alice, 200), protocmp.Transform()); diff != "" {
		t.Errorf("the captured hold (-want +got):\n%s", diff)
	}
	balance, err = gateway.GetBalance(t.Context(), &ledgerv1.GetBalanceRequest{AccountId: alice})
	if diff := cmp.Diff(&ledgerv1.GetBalanceResponse{Balances: []*moneyv1.Money{eur(350)}}, balance, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("balance (-want +got), %v:\n%s", err, diff)
	}
}

func TestAHoldIsReleased(t *testing.T) {
	t.Parallel()
	s := newService(t)
	payments := s.as(t, "/payments")
	post(t, payments, pay("deposit-1", cash, alice, 500))
	reserve(t, payments, "hold-0001", alice, 500)
	first, err := payments.ReleaseHold(t.Context(), &ledgerv1.ReleaseHoldRequest{HoldId: "hold-0001"})
	if err != nil || first.GetHold().GetState() != ledgerv1.HoldState_HOLD_STATE_RELEASED || first.GetHold().GetEndTime() == nil {
		t.Fatalf("ReleaseHold = %v, %v", first, err)
	}
	again, err := payments.ReleaseHold(t.Context(), &ledgerv1.ReleaseHoldRequest{HoldId: "hold-0001"})
	if diff := cmp.Diff(first, again, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("a second release (-first +again), %v:\n%s", err, diff)
	}
	post(t, payments, pay("payment-1", alice, bob, 500))
}

func TestHoldsAreRefused(t *testing.T) {
	t.Parallel()
	s := newTrusting(t)
	payments := s.as(t, "/payments")
	deposit := post(t, payments, pay("deposit-1", cash, alice, 500))
	for _, id := range []string{"active-1", "captured-1", "released-1"} {
		reserve(t, payments, id, alice, 100)
	}
	if _, err := payments.CaptureHold(t.Context(), capture("payment-1", "captured-1", alice, bob, 100)); err != nil {
		t.Fatal(err)
	}
	if _, err := payments.ReleaseHold(t.Context(), &ledgerv1.ReleaseHoldRequest{HoldId: "released-1"}); err != nil {
		t.Fatal(err)
	}
	reserveCall := func(req *ledgerv1.ReserveFundsRequest) func() error {
		return func() error { _, err := payments.ReserveFunds(t.Context(), req); return err }
	}
	captureCall := func(req *ledgerv1.CaptureHoldRequest) func() error {
		return func() error { _, err := payments.CaptureHold(t.Context(), req); return err }
	}
	releaseCall := func(id string) func() error {
		return func() error {
			_, err := payments.ReleaseHold(t.Context(), &ledgerv1.ReleaseHoldRequest{HoldId: id})
			return err
		}
	}
	tests := map[string]struct {
		call   func() error
		code   codes.Code
		reason string
	}{
		"more than is available":        {reserveCall(&ledgerv1.ReserveFundsRequest{HoldId: "hold-0002", AccountId: alice, Amount: eur(301)}), codes.FailedPrecondition, "INSUFFICIENT_FUNDS"},
		"other content under a used ID": {reserveCall(&ledgerv1.ReserveFundsRequest{HoldId: "active-1", AccountId: alice, Amount: eur(99)}), codes.AlreadyExists, "HOLD_ID_REUSED"},
		"money of the bank's own":       {reserveCall(&ledgerv1.ReserveFundsRequest{HoldId: "hold-0002", AccountId: cash, Amount: eur(1)}), codes.InvalidArgument, ""},
		"nothing":                       {reserveCall(&ledgerv1.ReserveFundsRequest{HoldId: "hold-0002", AccountId: alice, Amount: eur(0)}), codes.InvalidArgument, ""},
		"the capture of no hold":        {captureCall(capture("payment-2", "hold-9999", alice, bob, 1)), codes.NotFound, ""},
		"the capture of a captured one": {captureCall(capture("payment-2", "captured-1", alice, bob, 1)), codes.FailedPrecondition, "HOLD_CAPTURED"},
		"the capture of a released one": {captureCall(capture("payment-2", "released-1", alice, bob, 1)), codes.FailedPrecondition, "HOLD_RELEASED"},
		"the capture of more":           {captureCall(capture("payment-2", "active-1", alice, bob, 101)), codes.InvalidArgument, ""},
		"the capture for another":       {captureCall(capture("payment-2", "active-1", cash, bob, 1)), codes.InvalidArgument, ""},
		"the capture under a used ID":   {captureCall(capture("deposit-1", "active-1", alice, bob, 1)), codes.AlreadyExists, "TRANSFER_ID_REUSED"},
		"the release of no hold":        {releaseCall("hold-9999"), codes.NotFound, ""},
		"the release of a captured one": {releaseCall("captured-1"), codes.FailedPrecondition, "HOLD_CAPTURED"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := tt.call()
			info, _ := errorInfo(err)
			if status.Code(err) != tt.code || info.GetReason() != tt.reason || tt.reason != "" && info.GetDomain() != "bank.test" {
				t.Errorf("it answers %v (%v); want %v for %q", err, info, tt.code, tt.reason)
			}
			if digest := info.GetMetadata()["digest"]; tt.reason == "TRANSFER_ID_REUSED" && digest != deposit.GetDigest() ||
				tt.reason == "HOLD_ID_REUSED" && len(digest) != 64 {
				t.Errorf("the first one's digest is %q, want %q", digest, deposit.GetDigest())
			}
		})
	}
}

func TestPagesOfHolds(t *testing.T) {
	t.Parallel()
	s := newService(t)
	payments, operator := s.as(t, "/payments"), s.as(t, "/operator")
	post(t, payments, pay("deposit-1", cash, alice, 500))
	for i := range 5 {
		reserve(t, payments, fmt.Sprintf("hold-000%d", i), alice, int64(i+1))
	}
	var amounts []int64
	req := &ledgerv1.ListHoldsRequest{AccountId: alice, PageSize: 2}
	for {
		page, err := operator.ListHolds(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range page.GetHolds() {
			amounts = append(amounts, h.GetAmount().GetMinorUnits())
		}
		if page.GetNextPageToken() == "" {
			break
		}
		req.PageToken = page.GetNextPageToken()
	}
	if diff := cmp.Diff([]int64{1, 2, 3, 4, 5}, amounts); diff != "" {
		t.Errorf("amounts (-want +got):\n%s", diff)
	}
	for name, bad := range map[string]*ledgerv1.ListHoldsRequest{
		"another account's token": {AccountId: bob, PageToken: req.GetPageToken()},
		"an invented token":       {AccountId: alice, PageToken: "7"},
	} {
		if _, err := operator.ListHolds(t.Context(), bad); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want INVALID_ARGUMENT", name, err)
		}
	}
	entries, err := operator.ListEntries(t.Context(), &ledgerv1.ListEntriesRequest{AccountId: alice, PageToken: req.GetPageToken()})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a token of another method: %v, %v; want INVALID_ARGUMENT", entries, err)
	}
}
