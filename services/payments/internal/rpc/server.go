// Package rpc serves payments as bank.payments.v1.PaymentService.
package rpc

import (
	"context"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/pagetoken"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

const defaultPageSize = 50

// Maker makes payments.
type Maker interface {
	// Create makes a payment and runs it as far as it goes.
	Create(ctx context.Context, order payment.Order) (payment.Payment, error)
	// Review stores what a person decided on a payment in review, and runs it as far as it goes.
	Review(ctx context.Context, id string, review payment.Review) (payment.Payment, error)
}

// Reader finds payments.
type Reader interface {
	// Get returns one payment, or payment.ErrNotFound.
	Get(ctx context.Context, id string) (payment.Payment, error)
	// List returns at most limit payments of an account, newest first, before a position; 0 is after the newest.
	List(ctx context.Context, accountID string, before int64, limit int) (payment.Page, error)
}

// Feed follows payments.
type Feed interface {
	// Follow calls send with every change of an account's payments after a sequence, until ctx ends.
	Follow(ctx context.Context, accountID string, after int64, send func(payment.Change) error) error
}

// Owners knows whose account one is.
type Owners interface {
	// Account returns an account, or payment.ErrNoAccount.
	Account(ctx context.Context, accountID string) (payment.Account, error)
}

// Server implements PaymentService. It is safe for concurrent use.
type Server struct {
	paymentsv1.UnimplementedPaymentServiceServer
	maker  Maker
	reader Reader
	feed   Feed
	owners Owners
	log    *slog.Logger
}

// New returns a Server.
func New(maker Maker, reader Reader, feed Feed, owners Owners, log *slog.Logger) *Server {
	return &Server{maker: maker, reader: reader, feed: feed, owners: owners, log: log}
}

// CreatePayment implements PaymentService.
func (s *Server) CreatePayment(ctx context.Context, req *paymentsv1.CreatePaymentRequest) (*paymentsv1.CreatePaymentResponse, error) {
	mandate, err := mandateOf(ctx, req.GetPaymentId())
	if err != nil {
		return nil, err
	}
	p, err := s.create(ctx, payment.Order{
		RequestID:      req.GetRequestId(),
		Kind:           payment.Transfer,
		PayerAccountID: req.GetPayerAccountId(),
		PayeeAccountID: req.GetPayeeAccountId(),
		Amount:         amount(req.GetAmount()),
		Reference:      req.GetReference(),
		Mandate:        mandate,
	})
	if err != nil {
		return nil, err
	}
	return &paymentsv1.CreatePaymentResponse{Payment: message(p)}, nil
}

// DepositCash implements PaymentService.
func (s *Server) DepositCash(ctx context.Context, req *paymentsv1.DepositCashRequest) (*paymentsv1.DepositCashResponse, error) {
	p, err := s.create(ctx, payment.Order{
		RequestID:      req.GetRequestId(),
		Kind:           payment.CashDeposit,
		PayeeAccountID: req.GetAccountId(),
		Amount:         amount(req.GetAmount()),
		Reference:      req.GetReference(),
	})
	if err != nil {
		return nil, err
	}
	return &paymentsv1.DepositCashResponse{Payment: message(p)}, nil
}

// create makes a payment in the name of the calling service, which its certificate says and nothing in the request does.
func (s *Server) create(ctx context.Context, order payment.Order) (payment.Payment, error) {
	var err error
	if order.Caller, err = caller(ctx); err != nil {
		return payment.Payment{}, err
	}
	p, err := s.maker.Create(ctx, order)
	if err != nil {
		return payment.Payment{}, s.status(ctx, err)
	}
	return p, nil
}

// ReviewPayment implements PaymentService.
func (s *Server) ReviewPayment(ctx context.Context, req *paymentsv1.ReviewPaymentRequest) (*paymentsv1.ReviewPaymentResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	p, err := s.maker.Review(ctx, req.GetPaymentId(), payment.Review{Version: req.GetVersion(), Decision: decision(req.GetDecision()), By: by})
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &paymentsv1.ReviewPaymentResponse{Payment: message(p)}, nil
}

// caller returns the SPIFFE ID of the calling service.
func caller(ctx context.Context) (string, error) {
	peer, ok := identity.FromContext(ctx)
	if !ok {
		return "", status.Error(codes.Unauthenticated, "the caller's identity is not known")
	}
	return peer.ID.String(), nil
}

// GetPayment implements PaymentService.
func (s *Server) GetPayment(ctx context.Context, req *paymentsv1.GetPaymentRequest) (*paymentsv1.GetPaymentResponse, error) {
	p, err := s.reader.Get(ctx, req.GetPaymentId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &paymentsv1.GetPaymentResponse{Payment: message(p)}, nil
}

// ListPayments implements PaymentService.
func (s *Server) ListPayments(ctx context.Context, req *paymentsv1.ListPaymentsRequest) (*paymentsv1.ListPaymentsResponse, error) {
	scope := paymentsv1.PaymentService_ListPayments_FullMethodName + ":" + req.GetAccountId()
	before, err := pagetoken.Decode(scope, req.GetPageToken())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	limit := int(req.GetPageSize())
	if limit == 0 {
		limit = defaultPageSize
	}
	page, err := s.reader.List(ctx, req.GetAccountId(), before, limit)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	response := &paymentsv1.ListPaymentsResponse{}
	for _, p := range page.Payments {
		response.Payments = append(response.Payments, message(p))
	}
	if page.Next != 0 {
		response.NextPageToken = pagetoken.Encode(scope, page.Next)
	}
	return response, nil
}

// WatchPayments implements PaymentService.
func (s *Server) WatchPayments(req *paymentsv1.WatchPaymentsRequest, stream grpc.ServerStreamingServer[paymentsv1.WatchPaymentsResponse]) error {
	scope := paymentsv1.PaymentService_WatchPayments_FullMethodName + ":" + req.GetAccountId()
	after, err := pagetoken.Decode(scope, req.GetCursor())
	if err != nil {
		return status.Error(codes.InvalidArgument, "cursor was not issued for this account")
	}
	if err := s.requireOwn(stream.Context(), req.GetAccountId()); err != nil {
		return err
	}
	var sent error
	err = s.feed.Follow(stream.Context(), req.GetAccountId(), after, func(change payment.Change) error {
		sent = stream.Send(&paymentsv1.WatchPaymentsResponse{
			Payment: message(change.Payment),
			Cursor:  pagetoken.Encode(scope, change.Sequence),
		})
		return sent
	})
	return s.watchEnded(stream.Context(), sent, err)
}
