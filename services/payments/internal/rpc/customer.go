package rpc

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// mandateOf returns what the call's transaction token proves. The policy has compared its content with the request. That it has let in a call without is a mistake of
// whoever wrote it, and lets no payment through.
func mandateOf(ctx context.Context, paymentID string) (payment.Mandate, error) {
	token, ok := txntoken.FromContext(ctx)
	if !ok || token.Subject == "" || token.ID == "" {
		return payment.Mandate{}, status.Error(codes.PermissionDenied, "only a customer starts a payment")
	}
	return payment.Mandate{CustomerID: token.Subject, PaymentID: paymentID, Transaction: token.ID}, nil
}

// requireOwn returns an error unless an account is that of the customer for whom the call is made, if there is one.
func (s *Server) requireOwn(ctx context.Context, accountID string) error {
	token, ok := txntoken.FromContext(ctx)
	if !ok {
		return nil // the operator's, who sees all
	}
	account, err := s.owners.Account(ctx, accountID)
	switch {
	case err == nil && account.CustomerID == token.Subject:
		return nil
	case err == nil || errors.Is(err, payment.ErrNoAccount): // another's account is like none
		return status.Error(codes.NotFound, "no such account")
	default:
		return s.status(ctx, err)
	}
}
