package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// Create makes a payment and runs it as far as it goes. The same order again answers the same payment. One that cannot go on at the moment
// is returned as it stands, and goes on by itself. The error is ctx's own when the caller did not wait; it then is not known whether there
// is a payment.
func (m *Machine) Create(ctx context.Context, order payment.Order) (payment.Payment, error) {
	p, err := m.store.ByRequest(ctx, order)
	if errors.Is(err, payment.ErrNotFound) {
		p, err = m.begin(ctx, order)
	}
	if err == nil && order.Kind == payment.Transfer && p.PayerCustomerID != order.Mandate.CustomerID {
		err = notTheirs() // though the content is the same
	}
	if err != nil {
		return payment.Payment{}, err
	}
	if !p.Unfinished() || !m.due(p.ID) {
		return p, nil // a caller who asks all the time does not make it be tried all the time
	}
	return m.carry(ctx, p)
}

// Review stores what a person decided on a payment in review, at the review's version and now, and runs it as far as it goes. The error is
// payment.ErrNotFound or payment.ErrNotInReview.
func (m *Machine) Review(ctx context.Context, id string, review payment.Review) (payment.Payment, error) {
	review.Time = m.now()
	p, err := m.store.Review(ctx, id, review)
	if err != nil {
		return payment.Payment{}, err
	}
	m.news.Changed(p.Accounts()...)
	if !p.Unfinished() {
		return p, nil
	}
	m.forget(id) // that risk could not be asked is of the past
	return m.carry(ctx, p)
}

// begin checks that both sides may take part, and stores the payment.
func (m *Machine) begin(ctx context.Context, order payment.Order) (payment.Payment, error) {
	now := m.now()
	p := payment.Payment{Order: order, ID: payment.NewID(), State: payment.Created, Version: 1, CreateTime: now, UpdateTime: now}
	if order.Kind == payment.Transfer {
		payer, err := m.participant(ctx, "paying", order.PayerAccountID, order.Amount)
		if err != nil {
			return payment.Payment{}, err
		}
		if payer.CustomerID != order.Mandate.CustomerID {
			return payment.Payment{}, notTheirs()
		}
		p.PayerCustomerID, p.ID = payer.CustomerID, order.Mandate.PaymentID
	}
	if _, err := m.participant(ctx, "paid", order.PayeeAccountID, order.Amount); err != nil {
		return payment.Payment{}, err
	}
	stored, err := m.store.Create(ctx, p)
	if err != nil {
		// A caller who left during the commit leaves open whether the payment is stored. Work finds out.
		m.wakeWork()
		return payment.Payment{}, err
	}
	m.news.Changed(stored.Accounts()...)
	return stored, nil
}

// notTheirs is for an account of somebody else's than who asks. To them it is like none.
func notTheirs() error { return &payment.AccountError{Side: "paying", Err: payment.ErrNoAccount} }

// participant returns an account that may take part. The error is a *payment.AccountError when it may not, and another one when that is not
// known.
func (m *Machine) participant(ctx context.Context, side, accountID string, amount payment.Amount) (payment.Account, error) {
	account, err := m.neighbours.Accounts.Account(ctx, accountID)
	if err == nil {
		err = account.Accepts(amount)
	}
	switch {
	case err == nil:
		return account, nil
	case errors.Is(err, payment.ErrNoAccount), errors.Is(err, payment.ErrAccountClosed), errors.Is(err, payment.ErrAccountFrozen),
		errors.Is(err, payment.ErrOtherCurrency):
		return payment.Account{}, &payment.AccountError{Side: side, Err: err}
	default:
		return payment.Account{}, fmt.Errorf("check the %s account: %w", side, err)
	}
}
