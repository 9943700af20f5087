package rpc

import (
	"context"
	"encoding/hex"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/pagetoken"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

// ReserveFunds implements LedgerServiceServer.
func (s *Server) ReserveFunds(ctx context.Context, req *ledgerv1.ReserveFundsRequest) (*ledgerv1.ReserveFundsResponse, error) {
	made, err := s.books.Reserve(ctx, ledger.Hold{ID: req.GetHoldId(), Account: req.GetAccountId(), Amount: fromMoney(req.GetAmount())})
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &ledgerv1.ReserveFundsResponse{Hold: hold(made)}, nil
}

// CaptureHold implements LedgerServiceServer.
func (s *Server) CaptureHold(ctx context.Context, req *ledgerv1.CaptureHoldRequest) (*ledgerv1.CaptureHoldResponse, error) {
	posted, err := s.books.Post(ctx, ledger.Transfer{
		ID: req.GetTransferId(), HoldID: req.GetHoldId(), Postings: postings(req.GetPostings()), Description: req.GetDescription(),
	})
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &ledgerv1.CaptureHoldResponse{
		TransferId: req.GetTransferId(),
		PostTime:   timestamppb.New(posted.Time),
		Digest:     hex.EncodeToString(posted.Digest[:]),
	}, nil
}

// ReleaseHold implements LedgerServiceServer.
func (s *Server) ReleaseHold(ctx context.Context, req *ledgerv1.ReleaseHoldRequest) (*ledgerv1.ReleaseHoldResponse, error) {
	released, err := s.books.Release(ctx, req.GetHoldId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &ledgerv1.ReleaseHoldResponse{Hold: hold(released)}, nil
}

// ListHolds implements LedgerServiceServer.
func (s *Server) ListHolds(ctx context.Context, req *ledgerv1.ListHoldsRequest) (*ledgerv1.ListHoldsResponse, error) {
	scope := ledgerv1.LedgerService_ListHolds_FullMethodName + ":" + req.GetAccountId()
	after, err := pagetoken.Decode(scope, req.GetPageToken())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	holds, next, err := s.books.Holds(ctx, req.GetAccountId(), after, pageSize(req.GetPageSize()))
	if err != nil {
		return nil, s.status(ctx, err)
	}
	resp := &ledgerv1.ListHoldsResponse{}
	for _, h := range holds {
		resp.Holds = append(resp.Holds, hold(h))
	}
	if next != 0 {
		resp.NextPageToken = pagetoken.Encode(scope, next)
	}
	return resp, nil
}

// pageSize is what a request asks for, or the default.
func pageSize(asked int32) int {
	if asked == 0 {
		return defaultPageSize
	}
	return int(asked)
}
