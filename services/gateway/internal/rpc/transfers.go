package rpc

import (
	"context"
	"errors"
	"io"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	"github.com/countersign-mesh/countersign/services/gateway/internal/scope"
)

// Transfer implements MobileBankService.
func (s *Server) Transfer(ctx context.Context, req *mobilev1.TransferRequest) (*mobilev1.TransferResponse, error) {
	who, err := customerOf(ctx, scope.Transfer)
	if err != nil {
		return nil, err
	}
	if req.GetAmount().GetMinorUnits() >= s.stepUpFrom {
		if err := userauth.RequireACR(ctx, stepUpACR); err != nil {
			return nil, err
		}
	}
	key := requestKey(who, req.GetRequestId())
	id := paymentID(key)
	ctx, err = s.acting(ctx, scope.Transfer, map[string]string{
		"payment_id": id, "request_id": key, "payer": req.GetPayerAccountId(), "payee": req.GetPayeeAccountId(),
		"amount": strconv.FormatInt(req.GetAmount().GetMinorUnits(), 10), "currency": req.GetAmount().GetCurrencyCode(),
	})
	if err != nil {
		return nil, err
	}
	payer, err := s.own(ctx, who, req.GetPayerAccountId())
	if err != nil {
		return nil, err
	}
	response, err := s.payments.CreatePayment(ctx, &paymentsv1.CreatePaymentRequest{
		PaymentId:      id,
		RequestId:      key,
		PayerAccountId: payer.GetAccountId(),
		PayeeAccountId: req.GetPayeeAccountId(),
		Amount:         req.GetAmount(),
		Reference:      req.GetReference(),
	})
	if err != nil {
		return nil, s.behind(ctx, err, codes.NotFound, codes.FailedPrecondition, codes.AlreadyExists)
	}
	return &mobilev1.TransferResponse{Transfer: transfer(response.GetPayment(), payer.GetAccountId())}, nil
}

// WatchActivity implements MobileBankService. It holds one message at a time: a phone that reads slowly slows down its own watch.
func (s *Server) WatchActivity(req *mobilev1.WatchActivityRequest, stream grpc.ServerStreamingServer[mobilev1.WatchActivityResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel() // ends the watch behind
	who, err := customerOf(ctx, scope.Read)
	if err != nil {
		return err
	}
	ctx, err = s.acting(ctx, scope.Read, nil)
	if err != nil {
		return err
	}
	account, err := s.own(ctx, who, req.GetAccountId())
	if err != nil {
		return err
	}
	watch, err := s.payments.WatchPayments(ctx, &paymentsv1.WatchPaymentsRequest{AccountId: account.GetAccountId(), Cursor: req.GetCursor()})
	if err != nil {
		return s.behind(ctx, err, codes.InvalidArgument)
	}
	for {
		change, err := watch.Recv()
		if errors.Is(err, io.EOF) { // a watch has no end of its own
			return status.Error(codes.Unavailable, "the watch was interrupted; resume from the last cursor")
		}
		if err != nil {
			return s.behind(ctx, err, codes.InvalidArgument)
		}
		if !concerns(change.GetPayment(), account.GetAccountId()) {
			continue // the cursor of the next message covers this one; who resumes before there is one skips it once more
		}
		err = stream.Send(&mobilev1.WatchActivityResponse{
			Transfer: transfer(change.GetPayment(), account.GetAccountId()),
			Cursor:   change.GetCursor(),
		})
		if err != nil {
			return err
		}
	}
}

// concerns reports whether an account's customer is told of a payment's change of state. Payers see all of their payments' changes. Payees
// see the money that has come in and nothing else: whoever knows an account could otherwise send it texts with no money behind them,
// and that a payer has too little is nothing that payees should learn.
func concerns(p *paymentsv1.Payment, accountID string) bool {
	return accountID == p.GetPayerAccountId() || p.GetState() == paymentsv1.PaymentState_PAYMENT_STATE_POSTED
}

// transfer returns a payment as one of its accounts sees it. Why it was refused or held is for the payer alone, and only when it was.
func transfer(p *paymentsv1.Payment, accountID string) *mobilev1.Transfer {
	t := &mobilev1.Transfer{
		PaymentId:      p.GetPaymentId(),
		PayerAccountId: p.GetPayerAccountId(),
		PayeeAccountId: p.GetPayeeAccountId(),
		Amount:         p.GetAmount(),
		Reference:      p.GetReference(),
		Status:         transferStatus(p.GetState()),
		UpdateTime:     p.GetUpdateTime(),
	}
	if accountID == p.GetPayerAccountId() && t.GetStatus() != mobilev1.TransferStatus_TRANSFER_STATUS_PENDING {
		for _, reason := range p.GetReasons() {
			t.Reasons = append(t.Reasons, reason.GetMessage())
		}
	}
	return t
}

// transferStatus says how a payment stands. To its customer it is under way while the bank works on it, whichever way it turns out in the
// end; held is what waits for somebody to look at it, or for risk.
func transferStatus(state paymentsv1.PaymentState) mobilev1.TransferStatus {
	switch state {
	case paymentsv1.PaymentState_PAYMENT_STATE_CREATED, paymentsv1.PaymentState_PAYMENT_STATE_ASSESSED,
		paymentsv1.PaymentState_PAYMENT_STATE_HELD, paymentsv1.PaymentState_PAYMENT_STATE_UNKNOWN,
		paymentsv1.PaymentState_PAYMENT_STATE_RELEASING:
		return mobilev1.TransferStatus_TRANSFER_STATUS_PENDING
	case paymentsv1.PaymentState_PAYMENT_STATE_POSTED:
		return mobilev1.TransferStatus_TRANSFER_STATUS_DONE
	case paymentsv1.PaymentState_PAYMENT_STATE_REFUSED:
		return mobilev1.TransferStatus_TRANSFER_STATUS_REFUSED
	case paymentsv1.PaymentState_PAYMENT_STATE_IN_REVIEW:
		return mobilev1.TransferStatus_TRANSFER_STATUS_HELD
	default:
		return mobilev1.TransferStatus_TRANSFER_STATUS_UNSPECIFIED
	}
}
