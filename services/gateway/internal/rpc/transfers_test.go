package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

func TestHowATransferStands(t *testing.T) {
	t.Parallel()
	statuses := map[paymentsv1.PaymentState]mobilev1.TransferStatus{
		paymentsv1.PaymentState_PAYMENT_STATE_CREATED:   mobilev1.TransferStatus_TRANSFER_STATUS_PENDING,
		paymentsv1.PaymentState_PAYMENT_STATE_ASSESSED:  mobilev1.TransferStatus_TRANSFER_STATUS_PENDING,
		paymentsv1.PaymentState_PAYMENT_STATE_HELD:      mobilev1.TransferStatus_TRANSFER_STATUS_PENDING,
		paymentsv1.PaymentState_PAYMENT_STATE_UNKNOWN:   mobilev1.TransferStatus_TRANSFER_STATUS_PENDING,
		paymentsv1.PaymentState_PAYMENT_STATE_RELEASING: mobilev1.TransferStatus_TRANSFER_STATUS_PENDING,
		paymentsv1.PaymentState_PAYMENT_STATE_POSTED:    mobilev1.TransferStatus_TRANSFER_STATUS_DONE,
		paymentsv1.PaymentState_PAYMENT_STATE_REFUSED:   mobilev1.TransferStatus_TRANSFER_STATUS_REFUSED,
		paymentsv1.PaymentState_PAYMENT_STATE_IN_REVIEW: mobilev1.TransferStatus_TRANSFER_STATUS_HELD,
	}
	if n := paymentsv1.PaymentState_PAYMENT_STATE_UNSPECIFIED.Descriptor().Values().Len(); len(statuses) != n-1 { // that is no state
		t.Errorf("%d states are tested, the contract has %d", len(statuses), n-1)
	}
	for state, want := range statuses {
		t.Run(state.String(), func(t *testing.T) {
			t.Parallel()
			b, mobile := newBank(t)
			b.payment = &paymentsv1.Payment{
				PaymentId: "pay-x", RequestId: "internal", Kind: paymentsv1.PaymentKind_PAYMENT_KIND_TRANSFER,
				PayerAccountId: aliceAccount, PayeeAccountId: bobAccount, Amount: eur(100), Reference: "rent", State: state,
				Reasons: []*paymentsv1.Reason{{Code: "CODE", Message: "too much"}}, CreateTime: noon, UpdateTime: noon,
			}
			got, err := mobile.Transfer(as(t.Context(), "alice"), transferRequest("request-1", aliceAccount, bobAccount))
			if err != nil {
				t.Fatal(err)
			}
			transfer := &mobilev1.Transfer{
				PaymentId: "pay-x", PayerAccountId: aliceAccount, PayeeAccountId: bobAccount, Amount: eur(100), Reference: "rent",
				Status: want, UpdateTime: noon,
			}
			if want != mobilev1.TransferStatus_TRANSFER_STATUS_PENDING { // why is told when it is so
				transfer.Reasons = []string{"too much"}
			}
			if diff := cmp.Diff(transfer, got.GetTransfer(), protocmp.Transform()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestALargeTransferTakesAOneTimeCode(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	for _, c := range []struct {
		amount int64
		acr    string
		code   codes.Code
	}{
		{stepUpFrom - 1, "urn:bank:acr:1", codes.OK},
		{stepUpFrom, "urn:bank:acr:1", codes.Unauthenticated},
		{stepUpFrom, "", codes.Unauthenticated},
		{stepUpFrom, "urn:bank:acr:2", codes.OK},
	} {
		request := transferRequest("request-1", aliceAccount, bobAccount)
		request.Amount.MinorUnits = c.amount
		before := len(b.asked)
		_, err := mobile.Transfer(with(t.Context(), "alice", c.acr, "transfer"), request)
		if status.Code(err) != c.code {
			t.Errorf("%d with %q: %v", c.amount, c.acr, err)
		}
		if c.code == codes.OK {
			continue
		}
		if !errors.Is(err, userauth.ErrInsufficientUserAuthentication) || len(b.asked) != before {
			t.Errorf("%d with %q: %v, and %d were asked", c.amount, c.acr, err, len(b.asked)-before)
		}
	}
}

func TestAWatchIsRelayedFromItsCursorAndEndsWithItsReader(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	states := []paymentsv1.PaymentState{
		paymentsv1.PaymentState_PAYMENT_STATE_CREATED, paymentsv1.PaymentState_PAYMENT_STATE_ASSESSED,
		paymentsv1.PaymentState_PAYMENT_STATE_REFUSED, paymentsv1.PaymentState_PAYMENT_STATE_IN_REVIEW,
		paymentsv1.PaymentState_PAYMENT_STATE_POSTED,
	}
	for n := range 20 {
		b.changes = append(b.changes, &paymentsv1.WatchPaymentsResponse{Cursor: fmt.Sprintf("cursor-%d", n), Payment: &paymentsv1.Payment{
			PaymentId: "pay-x", PayerAccountId: aliceAccount, PayeeAccountId: bobAccount, Amount: eur(1), State: states[n%len(states)],
			Reasons: []*paymentsv1.Reason{{Code: "INSUFFICIENT_FUNDS", Message: "there is not enough money in the account"}},
		}})
	}
	for customer, want := range map[string]struct {
		account  string
		messages []int
		reasons  []string
	}{
		"alice": {aliceAccount, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, []string{"there is not enough money in the account"}},
		// Money that has come in, each with its own cursor. What alice has in her account is not bob's to know, nor what she wrote
		// without sending money.
		"bob": {bobAccount, []int{4, 9, 14, 19}, nil},
	} {
		ctx, leave := context.WithCancel(t.Context())
		t.Cleanup(leave)
		stream, err := mobile.WatchActivity(as(ctx, customer), &mobilev1.WatchActivityRequest{AccountId: want.account, Cursor: "from here"})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range want.messages {
			message, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if got := message.GetCursor(); got != fmt.Sprintf("cursor-%d", n) {
				t.Errorf("%s: message %d has cursor %s", customer, n, got)
			}
			reasons := want.reasons
			if n%len(states) < 2 { // it is under way, and nothing has been decided
				reasons = nil
			}
			if diff := cmp.Diff(reasons, message.GetTransfer().GetReasons()); diff != "" {
				t.Errorf("%s: reasons: -want +got:\n%s", customer, diff)
			}
		}
		leave()
	}
	for _, asked := range questions[*paymentsv1.WatchPaymentsRequest](b) {
		if asked.GetCursor() != "from here" {
			t.Errorf("payments was asked from cursor %q", asked.GetCursor())
		}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		b.mu.Lock()
		left := b.watchers
		b.mu.Unlock()
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d watches behind did not end", left)
		}
	}
}
