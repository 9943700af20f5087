package neighbours

import (
	"context"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// cashAccount is where the books keep what is in the vault.
const cashAccount = "bank-cash"

// LedgerService is the only service to which transaction tokens are sent on.
const LedgerService = "bank.ledger.v1.LedgerService"

// Ledger asks the ledger. A payment's ID is the ID of its hold and of its transfer: however often the ledger is asked, it knows that it is
// the same one. It is safe for concurrent use.
type Ledger struct {
	client ledgerv1.LedgerServiceClient
	tokens *Tokens
}

// NewLedger returns Ledger over a connection that sends the transaction token of a call's context. A customer's money moves with one of tokens.
func NewLedger(conn grpc.ClientConnInterface, tokens *Tokens) *Ledger {
	return &Ledger{client: ledgerv1.NewLedgerServiceClient(conn), tokens: tokens}
}

// Reserve sets a payment's money aside; see machine.Ledger.
func (l *Ledger) Reserve(ctx context.Context, p payment.Payment) error {
	ctx, err := l.tokens.with(ctx, p)
	if err != nil {
		return err
	}
	response, err := l.client.ReserveFunds(ctx, &ledgerv1.ReserveFundsRequest{
		HoldId:    p.ID,
		AccountId: p.PayerAccountID,
		Amount:    money(p.Amount.CurrencyCode, p.Amount.MinorUnits),
	})
	if err != nil {
		return explainLedger(err)
	}
	switch hold := response.GetHold(); hold.GetState() {
	case ledgerv1.HoldState_HOLD_STATE_ACTIVE:
		return nil
	case ledgerv1.HoldState_HOLD_STATE_RELEASED:
		return payment.ErrHoldReleased
	case ledgerv1.HoldState_HOLD_STATE_CAPTURED:
		if hold.GetTransferId() != p.ID {
			return fmt.Errorf("%w: transfer %s has captured its hold", payment.ErrLedgerRejected, hold.GetTransferId())
		}
		return nil // by an earlier run of this payment; capturing it again tells so
	default:
		return fmt.Errorf("ledger: a hold in state %s", hold.GetState())
	}
}

// Capture posts a payment out of its hold; see machine.Ledger.
func (l *Ledger) Capture(ctx context.Context, p payment.Payment) error {
	ctx, err := l.tokens.with(ctx, p)
	if err != nil {
		return err
	}
	_, err = l.client.CaptureHold(ctx, &ledgerv1.CaptureHoldRequest{
		HoldId:      p.ID,
		TransferId:  p.ID,
		Postings:    postings(p.PayerAccountID, p),
		Description: description(p),
	})
	return explainLedger(err)
}

// Release makes what is set aside for a payment available again; see machine.Ledger. It gives back, and needs no token.
func (l *Ledger) Release(ctx context.Context, paymentID string) error {
	_, err := l.client.ReleaseHold(ctx, &ledgerv1.ReleaseHoldRequest{HoldId: paymentID})
	return explainLedger(err)
}

// Post posts a payment that has no hold; see machine.Ledger.
func (l *Ledger) Post(ctx context.Context, p payment.Payment) error {
	from := cashAccount
	if p.Kind != payment.CashDeposit {
		from = p.PayerAccountID
		var err error
		if ctx, err = l.tokens.with(ctx, p); err != nil {
			return err
		}
	}
	_, err := l.client.PostTransfer(ctx, &ledgerv1.PostTransferRequest{
		TransferId:  p.ID,
		Postings:    postings(from, p),
		Description: description(p),
	})
	return explainLedger(err)
}

func postings(from string, p payment.Payment) []*ledgerv1.Posting {
	return []*ledgerv1.Posting{
		{AccountId: from, Amount: money(p.Amount.CurrencyCode, -p.Amount.MinorUnits)},
		{AccountId: p.PayeeAccountID, Amount: money(p.Amount.CurrencyCode, p.Amount.MinorUnits)},
	}
}

// explainLedger tells the ledger's definite answers from all others, which leave open what it did. The code FAILED_PRECONDITION alone is
// not definite: another precondition may have failed.
func explainLedger(err error) error {
	switch s := status.Convert(err); s.Code() {
	case codes.OK:
		return nil
	case codes.InvalidArgument, codes.AlreadyExists:
		return fmt.Errorf("%w: %w", payment.ErrLedgerRejected, err)
	case codes.NotFound:
		return fmt.Errorf("%w: %w", payment.ErrNoHold, err)
	case codes.FailedPrecondition:
		switch reason(s) {
		case "INSUFFICIENT_FUNDS":
			return payment.ErrInsufficientFunds
		case "BALANCE_OUT_OF_RANGE":
			return payment.ErrBalanceOutOfRange
		case "HOLD_RELEASED":
			return payment.ErrHoldReleased
		case "HOLD_CAPTURED":
			return payment.ErrHoldCaptured
		}
	default: // open, as below
	}
	return fmt.Errorf("ledger: %w", err)
}

// reason returns the bank's machine-readable reason of an error, empty when it has none.
func reason(s *status.Status) string {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "bank.test" {
			return info.GetReason()
		}
	}
	return ""
}

// description is what both statements show.
func description(p payment.Payment) string {
	switch {
	case p.Reference != "":
		return p.Reference
	case p.Kind == payment.CashDeposit:
		return "Cash deposit"
	default:
		return "Transfer"
	}
}
