// Package rpc is the ledger's gRPC side: it turns requests into calls on the books and errors into codes. Requests have been
// authorized and validated when they get here.
package rpc

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/pagetoken"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
)

// defaultPageSize is the size of a page when the request names none.
const defaultPageSize = 50

// Server implements bank.ledger.v1.LedgerService. It is safe for concurrent use. The zero value is not usable; see New.
type Server struct {
	ledgerv1.UnimplementedLedgerServiceServer

	books *store.Store
	log   *slog.Logger
}

// New returns the service over books. Errors whose text callers are not told go to log.
func New(books *store.Store, log *slog.Logger) *Server { return &Server{books: books, log: log} }

// PostTransfer implements LedgerServiceServer.
func (s *Server) PostTransfer(ctx context.Context, req *ledgerv1.PostTransferRequest) (*ledgerv1.PostTransferResponse, error) {
	posted, err := s.books.Post(ctx, ledger.Transfer{
		ID: req.GetTransferId(), Postings: postings(req.GetPostings()), Description: req.GetDescription(),
	})
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &ledgerv1.PostTransferResponse{
		TransferId: req.GetTransferId(),
		PostTime:   timestamppb.New(posted.Time),
		Digest:     hex.EncodeToString(posted.Digest[:]),
	}, nil
}

// GetBalance implements LedgerServiceServer.
func (s *Server) GetBalance(ctx context.Context, req *ledgerv1.GetBalanceRequest) (*ledgerv1.GetBalanceResponse, error) {
	balances, err := s.books.Balances(ctx, req.GetAccountId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	resp := &ledgerv1.GetBalanceResponse{}
	for _, b := range balances {
		resp.Balances = append(resp.Balances, money(b.Money))
		if b.Held != 0 {
			resp.Held = append(resp.Held, money(ledger.Money{Currency: b.Currency, Minor: b.Held}))
		}
	}
	return resp, nil
}

// ListEntries implements LedgerServiceServer.
func (s *Server) ListEntries(ctx context.Context, req *ledgerv1.ListEntriesRequest) (*ledgerv1.ListEntriesResponse, error) {
	scope := ledgerv1.LedgerService_ListEntries_FullMethodName + ":" + req.GetAccountId()
	before, err := pagetoken.Decode(scope, req.GetPageToken())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	entries, more, err := s.books.Entries(ctx, req.GetAccountId(), before, pageSize(req.GetPageSize()))
	if err != nil {
		return nil, s.status(ctx, err)
	}
	resp := &ledgerv1.ListEntriesResponse{}
	for _, e := range entries {
		resp.Entries = append(resp.Entries, entry(e))
	}
	if more {
		resp.NextPageToken = pagetoken.Encode(scope, entries[len(entries)-1].Sequence)
	}
	return resp, nil
}

// CheckTrialBalance implements LedgerServiceServer.
func (s *Server) CheckTrialBalance(ctx context.Context, _ *ledgerv1.CheckTrialBalanceRequest) (*ledgerv1.CheckTrialBalanceResponse, error) {
	balance, err := s.books.Check(ctx)
	if errors.Is(err, ledger.ErrDamaged) && !balance.Balanced() {
		// Sums that are not zero are this method's answer. Where the fault lies goes to the log.
		s.log.ErrorContext(ctx, "the books do not balance", "error", err)
		err = nil
	}
	if errors.Is(err, ledger.ErrDamaged) { // the operator, who alone may ask, is told where
		s.log.ErrorContext(ctx, "the books are damaged", "error", err)
		return nil, status.Error(codes.DataLoss, err.Error())
	}
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &ledgerv1.CheckTrialBalanceResponse{
		Sums:          moneys(balance.Sums),
		TransferCount: balance.Transfers,
		EntryCount:    balance.Entries,
		Balanced:      balance.Balanced(),
	}, nil
}
