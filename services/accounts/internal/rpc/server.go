// Package rpc serves the register of accounts as bank.accounts.v1.AccountService.
package rpc

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/pagetoken"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
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
	account, err := s.visible(ctx, req.GetAccountId())
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
	if _, ok := txntoken.FromContext(ctx); !ok { // a mistake of whoever wrote the policy; nobody else closes an account
		return nil, status.Error(codes.PermissionDenied, "only a customer closes an account")
	}
	account, err := s.visible(ctx, req.GetAccountId()) // owners do not change, so that it is the owner's when it is closed too
	if err == nil {
		account, err = s.register.Close(ctx, account.ID)
	}
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &accountsv1.CloseAccountResponse{Account: message(account)}, nil
}

// FreezeAccount implements AccountService.
func (s *Server) FreezeAccount(ctx context.Context, req *accountsv1.FreezeAccountRequest) (*accountsv1.FreezeAccountResponse, error) {
	actor, err := actorOf(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	account, err := s.register.Freeze(ctx, req.GetAccountId(), actor, req.GetReason())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	s.log.InfoContext(ctx, "an account is frozen", "account_id", account.ID, "since", account.FreezeTime, "asked_by", actor)
	return &accountsv1.FreezeAccountResponse{Account: message(account)}, nil
}

// UnfreezeAccount implements AccountService.
func (s *Server) UnfreezeAccount(ctx context.Context, req *accountsv1.UnfreezeAccountRequest) (*accountsv1.UnfreezeAccountResponse, error) {
	actor, err := actorOf(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	account, err := s.register.Unfreeze(ctx, req.GetAccountId(), actor, req.GetReason())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	s.log.InfoContext(ctx, "an account is not frozen any more", "account_id", account.ID, "asked_by", actor)
	return &accountsv1.UnfreezeAccountResponse{Account: message(account)}, nil
}

// visible returns an account. Whoever calls for a customer, as the call's transaction token says, is told of that customer's and of no other.
func (s *Server) visible(ctx context.Context, accountID string) (register.Account, error) {
	account, err := s.register.Get(ctx, accountID)
	if err != nil {
		return register.Account{}, err
	}
	if token, ok := txntoken.FromContext(ctx); ok && token.Subject != account.CustomerID {
		return register.Account{}, register.ErrNotFound
	}
	return account, nil
}

// actorOf returns who calls, for the history of an account: the identity that the connection proves, and nothing that a request says.
func actorOf(ctx context.Context) (string, error) {
	peer, ok := identity.FromContext(ctx)
	if !ok {
		return "", errors.New("the caller has no identity")
	}
	return peer.ID.String(), nil
}

func message(a register.Account) *accountsv1.Account {
	m := &accountsv1.Account{
		AccountId:    a.ID,
		CustomerId:   a.CustomerID,
		DisplayName:  a.DisplayName,
		CurrencyCode: a.CurrencyCode,
		Status:       statusOf(a),
		OpenTime:     timestamppb.New(a.OpenTime),
	}
	if a.Frozen() {
		m.FreezeTime = timestamppb.New(a.FreezeTime)
	}
	if a.Closed() {
		m.CloseTime = timestamppb.New(a.CloseTime)
	}
	return m
}

func statusOf(a register.Account) accountsv1.AccountStatus {
	switch {
	case a.Usable():
		return accountsv1.AccountStatus_ACCOUNT_STATUS_OPEN
	case a.Frozen():
		return accountsv1.AccountStatus_ACCOUNT_STATUS_FROZEN
	default: // what is being closed takes no part in payments, which is all that the status says
		return accountsv1.AccountStatus_ACCOUNT_STATUS_CLOSED
	}
}
