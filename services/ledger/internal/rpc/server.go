// Package rpc is the ledger's gRPC side: it turns requests into calls on the books and errors into codes. Requests have been
// authorized and validated when they get here.
package rpc

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/pagetoken"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
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
	t := ledger.Transfer{ID: req.GetTransferId(), Description: req.GetDescription()}
	for _, p := range req.GetPostings() {
		t.Postings = append(t.Postings, ledger.Posting{
			Account: p.GetAccountId(),
			Amount:  ledger.Money{Currency: p.GetAmount().GetCurrencyCode(), Minor: p.GetAmount().GetMinorUnits()},
		})
	}
	posted, err := s.books.Post(ctx, t)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &ledgerv1.PostTransferResponse{TransferId: t.ID, PostTime: timestamppb.New(posted)}, nil
}

// GetBalance implements LedgerServiceServer.
func (s *Server) GetBalance(ctx context.Context, req *ledgerv1.GetBalanceRequest) (*ledgerv1.GetBalanceResponse, error) {
	balances, err := s.books.Balances(ctx, req.GetAccountId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &ledgerv1.GetBalanceResponse{Balances: moneys(balances)}, nil
}

// ListEntries implements LedgerServiceServer.
func (s *Server) ListEntries(ctx context.Context, req *ledgerv1.ListEntriesRequest) (*ledgerv1.ListEntriesResponse, error) {
	scope := ledgerv1.LedgerService_ListEntries_FullMethodName + ":" + req.GetAccountId()
	before, err := pagetoken.Decode(scope, req.GetPageToken())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	size := int(req.GetPageSize())
	if size == 0 {
		size = defaultPageSize
	}
	entries, more, err := s.books.Entries(ctx, req.GetAccountId(), before, size)
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

func entry(e ledger.Entry) *ledgerv1.Entry {
	return &ledgerv1.Entry{
		Sequence:     e.Sequence,
		TransferId:   e.TransferID,
		AccountId:    e.Account,
		Amount:       money(e.Amount),
		BalanceAfter: money(e.BalanceAfter),
		Description:  e.Description,
		PostTime:     timestamppb.New(e.PostTime),
	}
}

func money(m ledger.Money) *moneyv1.Money {
	return &moneyv1.Money{CurrencyCode: m.Currency, MinorUnits: m.Minor}
}

func moneys(ms []ledger.Money) []*moneyv1.Money {
	out := make([]*moneyv1.Money, len(ms))
	for i, m := range ms {
		out[i] = money(m)
	}
	return out
}
