package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// answer is what follows from what somebody said about a payment, or did not say.
type answer struct {
	to      payment.State // 0 when the payment stays as it is
	reasons []payment.Reason
	stop    error // why the run ends here and the payment is taken up later; nil when it goes on
}

// ask asks whoever is next about an unfinished payment. It is the table in the package's comment.
func (m *Machine) ask(ctx context.Context, p payment.Payment) answer {
	transfer := p.Kind == payment.Transfer
	switch {
	case p.State == payment.InReview, transfer && p.State == payment.Created:
		return m.assess(ctx, p)
	case transfer && p.State == payment.Assessed:
		return m.reserve(ctx, p)
	case p.State == payment.Held, p.State == payment.Unknown && p.Hold:
		return m.capture(ctx, p)
	case p.State == payment.Releasing:
		return m.release(ctx, p)
	default:
		return m.post(ctx, p)
	}
}

// assess asks risk. Only a clear yes lets a payment go on, and only a clear no refuses it.
func (m *Machine) assess(ctx context.Context, p payment.Payment) answer {
	verdict, reasons, err := m.neighbours.Risk.Assess(ctx, p)
	if err == nil {
		// Nobody but this machine says that risk cannot be asked.
		reasons = slices.DeleteFunc(reasons, func(r payment.Reason) bool { return r.Code == payment.CodeRiskUnavailable })
		switch verdict {
		case payment.Allow:
			return answer{to: payment.Assessed}
		case payment.Refuse:
			return answer{to: payment.Refused, reasons: reasons}
		case payment.Hold:
			return answer{to: payment.InReview, reasons: reasons}
		}
		err = fmt.Errorf("no verdict that payments knows (%d)", verdict)
	}
	err = fmt.Errorf("assess: %w", err)
	if p.State == payment.InReview || ctx.Err() != nil { // it says so already, or the fault is on this side
		return answer{stop: err}
	}
	return answer{to: payment.InReview, reasons: payment.Because(payment.CodeRiskUnavailable), stop: err}
}

// reserve asks the ledger to set the money aside.
func (m *Machine) reserve(ctx context.Context, p payment.Payment) answer {
	switch err := m.neighbours.Ledger.Reserve(ctx, p); {
	case err == nil:
		return answer{to: payment.Held}
	case errors.Is(err, payment.ErrInsufficientFunds):
		return answer{to: payment.Refused, reasons: payment.Because(payment.CodeInsufficientFunds)}
	case errors.Is(err, payment.ErrHoldReleased):
		return m.released(ctx, p)
	case errors.Is(err, payment.ErrLedgerRejected), errors.Is(err, payment.ErrNoMandate):
		return m.rejected(ctx, p, err)
	default:
		return answer{stop: fmt.Errorf("reserve: %w", err)}
	}
}

// capture looks at both accounts once more, since a payment may have waited for long, and then asks the ledger to post. One that is unknown
// may be posted already, and then stays so, whatever its accounts are now: its release tells. If it is not, an account that went out of use
// meanwhile takes no part in it.
func (m *Machine) capture(ctx context.Context, p payment.Payment) answer {
	for _, account := range []struct{ side, id string }{{"paying", p.PayerAccountID}, {"paid", p.PayeeAccountID}} {
		_, err := m.participant(ctx, account.side, account.id, p.Amount)
		if refused, ok := errors.AsType[*payment.AccountError](err); ok {
			return answer{to: payment.Releasing, reasons: payment.Because(refused.Code())}
		}
		if err != nil {
			return answer{stop: err}
		}
	}
	return m.captured(ctx, p)
}

// captured asks the ledger to post out of the hold, or whether it has. The payment is refused only on the ledger's word that nothing moved
// and nothing will; what says nothing about the books leaves it unknown, and it is asked again, under the same ID.
func (m *Machine) captured(ctx context.Context, p payment.Payment) answer {
	switch err := m.neighbours.Ledger.Capture(ctx, p); {
	case err == nil:
		return answer{to: payment.Posted}
	case errors.Is(err, payment.ErrInsufficientFunds):
		return answer{to: payment.Releasing, reasons: payment.Because(payment.CodeInsufficientFunds)}
	case errors.Is(err, payment.ErrBalanceOutOfRange):
		return answer{to: payment.Releasing, reasons: payment.Because(payment.CodeBalanceOutOfRange)}
	case errors.Is(err, payment.ErrHoldReleased):
		return m.released(ctx, p)
	case errors.Is(err, payment.ErrHoldCaptured), errors.Is(err, payment.ErrNoHold), errors.Is(err, payment.ErrLedgerRejected),
		errors.Is(err, payment.ErrNoMandate):
		return m.rejected(ctx, p, err)
	default:
		return unanswered(p, fmt.Errorf("capture: %w", err))
	}
}

// release asks the ledger to make what is set aside available again. When it was captured before, a capture tells by whom: it moves
// nothing, as there is nothing to capture any more.
func (m *Machine) release(ctx context.Context, p payment.Payment) answer {
	err := m.neighbours.Ledger.Release(ctx, p.ID)
	switch {
	case err == nil, errors.Is(err, payment.ErrNoHold):
		return answer{to: payment.Refused, reasons: p.Reasons}
	case !errors.Is(err, payment.ErrHoldCaptured):
		return answer{stop: fmt.Errorf("release: %w", err)}
	}
	switch err := m.neighbours.Ledger.Capture(ctx, p); {
	case err == nil:
		return answer{to: payment.Posted}
	case errors.Is(err, payment.ErrHoldCaptured), errors.Is(err, payment.ErrLedgerRejected), errors.Is(err, payment.ErrNoMandate):
		return m.rejected(ctx, p, err)
	default:
		return answer{stop: fmt.Errorf("release: who has captured it: %w", err)}
	}
}

// post asks the ledger to post a payment that has no hold.
func (m *Machine) post(ctx context.Context, p payment.Payment) answer {
	switch err := m.neighbours.Ledger.Post(ctx, p); {
	case err == nil:
		return answer{to: payment.Posted}
	case errors.Is(err, payment.ErrInsufficientFunds):
		return answer{to: payment.Refused, reasons: payment.Because(payment.CodeInsufficientFunds)}
	case errors.Is(err, payment.ErrBalanceOutOfRange):
		return answer{to: payment.Refused, reasons: payment.Because(payment.CodeBalanceOutOfRange)}
	case errors.Is(err, payment.ErrLedgerRejected), errors.Is(err, payment.ErrNoMandate):
		return m.rejected(ctx, p, err)
	default:
		return unanswered(p, fmt.Errorf("post: %w", err))
	}
}

// unanswered is for a payment that may be in the books, unless the ledger was not even asked.
func unanswered(p payment.Payment, err error) answer {
	if p.State == payment.Unknown || errors.Is(err, payment.ErrNotAsked) {
		return answer{stop: err}
	}
	return answer{to: payment.Unknown, stop: err}
}

// rejected is for a mistake in this service, somebody at the books, or an order that nothing proves any more: not the customer's doing, and nothing that
// becomes right by itself.
func (m *Machine) rejected(ctx context.Context, p payment.Payment, err error) answer {
	about := []any{"payment_id", p.ID, "state", p.State.String(), "error", err}
	switch {
	case !errors.Is(err, payment.ErrNoMandate):
		m.log.ErrorContext(ctx, "the ledger rejects a payment; it waits until a person has looked", about...)
	case p.State == payment.Unknown, p.State == payment.Releasing:
		m.log.ErrorContext(ctx, "nothing proves to the ledger that a customer asked for a payment that may be in the books; it stays as it is", about...)
		return answer{stop: err} // whatever a person decided could be wrong: the ledger was not asked
	default:
		m.log.ErrorContext(ctx, "nothing proves to the ledger that a customer asked for a payment; it waits until a person has looked", about...)
	}
	return answer{to: payment.InReview, reasons: payment.Because(payment.CodeLedgerRejected)}
}

// released is for a hold that somebody has released who has left no word of it here. Nothing was posted, and nothing can be any more.
func (m *Machine) released(ctx context.Context, p payment.Payment) answer {
	m.log.ErrorContext(ctx, "the hold of a payment was released by somebody else; it is refused", "payment_id", p.ID)
	return answer{to: payment.Refused, reasons: []payment.Reason{{
		Code: payment.CodeLedgerRejected, Message: "the money for this payment was not set aside any more",
	}}}
}
