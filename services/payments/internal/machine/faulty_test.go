package machine_test

import (
	"context"
	"errors"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
	"github.com/countersign-mesh/countersign/services/payments/internal/store"
)

// faultyStore is a store whose calls fail where the bank says.
type faultyStore struct {
	*store.Store
	bank *bank
}

func (s faultyStore) ByRequest(ctx context.Context, o payment.Order) (payment.Payment, error) {
	if err := s.bank.fault(ctx, atByRequest, ""); err != nil {
		return payment.Payment{}, err
	}
	return s.Store.ByRequest(ctx, o)
}

func (s faultyStore) Create(ctx context.Context, p payment.Payment) (payment.Payment, error) {
	if err := s.bank.fault(ctx, beforeCreate, p.ID); err != nil {
		return payment.Payment{}, err
	}
	stored, err := s.Store.Create(ctx, p)
	s.bank.store(stored)
	return stored, errors.Join(err, s.bank.fault(ctx, afterCreate, p.ID))
}

func (s faultyStore) Get(ctx context.Context, id string) (payment.Payment, error) {
	if err := s.bank.fault(ctx, atGet, id); err != nil {
		return payment.Payment{}, err
	}
	p, err := s.Store.Get(ctx, id)
	s.bank.store(p) // the other process may have stored it, and not come to say so
	return p, err
}

func (s faultyStore) Advance(ctx context.Context, seen payment.Payment, step payment.Step) (payment.Payment, error) {
	if err := s.bank.fault(ctx, beforeAdvance, seen.ID); err != nil {
		return payment.Payment{}, err
	}
	stored, err := s.Store.Advance(ctx, seen, step)
	s.bank.store(stored)
	return stored, errors.Join(err, s.bank.fault(ctx, afterAdvance, seen.ID))
}

func (s faultyStore) Review(ctx context.Context, id string, review payment.Review) (payment.Payment, error) {
	if err := s.bank.fault(ctx, beforeAdvance, id); err != nil {
		return payment.Payment{}, err
	}
	stored, err := s.Store.Review(ctx, id, review)
	s.bank.store(stored)
	return stored, errors.Join(err, s.bank.fault(ctx, afterAdvance, id))
}
