// Package rpc serves the register of accounts as bank.accounts.v1.AccountService.
package rpc

import (
	"context"
	"log/slog"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/pagetoken"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
)

const defaultPageSize = 50

// Server implements AccountService. It is safe for concurrent use.
type Server struct {
	accountsv1.UnimplementedAccountServiceServer
	register *register.Register
	log      *slog.Logger
}

// New returns a Server.
func New(r *register.Register, log *slog.Logger) *Server { return &Server{register: r, log: log} }

// OpenAccount implements AccountService.
func (s *Server) OpenAccount(ctx context.Context, req *accountsv1.OpenAccountRequest) (*accountsv1.OpenAccountResponse, error) {
	account, err := s.register.Open(ctx, register.Opening{
		RequestID:    req.GetRequestId(),
		CustomerID:   req.GetCustomerId(),
		DisplayName:  req.GetDisplayName(),
		CurrencyCode: req.GetCurrencyCode(),
	})
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &accountsv1.OpenAccountResponse{Account: message(account)}, nil
}

// GetAccount implements AccountService.
func (s *Server) GetAccount(ctx context.Context, req *accountsv1.GetAccountRequest) (*accountsv1.GetAccountResponse, error) {
	account, err := s.register.Get(ctx, req.GetAccountId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &accountsv1.GetAccountResponse{Account: message(account)}, nil
}

// ListAccounts implements AccountService.
func (s *Server) ListAccounts(ctx context.Context, req *accountsv1.ListAccountsRequest) (*accountsv1.ListAccountsResponse, error) {
	scope := accountsv1.AccountService_ListAccounts_FullMethodName + ":" + req.GetCustomerId()
	after, err := pagetoken.Decode(scope, req.GetPageToken())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	limit := int(req.GetPageSize())
	if limit == 0 {
		limit = defaultPageSize
	}
	page, err := s.register.List(ctx, req.GetCustomerId(), after, limit)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	response := &accountsv1.ListAccountsResponse{}
	for _, account := range page.Accounts {
		response.Accounts = append(response.Accounts, message(account))
	}
	if page.Next != 0 {
		response.NextPageToken = pagetoken.Encode(scope, page.Next)
	}
	return response, nil
}

// CloseAccount implements AccountService.
func (s *Server) CloseAccount(ctx context.Context, req *accountsv1.CloseAccountRequest) (*accountsv1.CloseAccountResponse, error) {
	account, err := s.register.Close(ctx, req.GetAccountId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &accountsv1.CloseAccountResponse{Account: message(account)}, nil
}

func message(a register.Account) *accountsv1.Account {
	m := &accountsv1.Account{
		AccountId:    a.ID,
		CustomerId:   a.CustomerID,
		DisplayName:  a.DisplayName,
		CurrencyCode: a.CurrencyCode,
		// What is frozen takes no part in payments, which is all that the status says.
		Status:   accountsv1.AccountStatus_ACCOUNT_STATUS_CLOSED,
		OpenTime: timestamppb.New(a.OpenTime),
	}
	if a.Usable() {
		m.Status = accountsv1.AccountStatus_ACCOUNT_STATUS_OPEN
	}
	if a.Closed() {
		m.CloseTime = timestamppb.New(a.CloseTime)
	}
	return m
}
