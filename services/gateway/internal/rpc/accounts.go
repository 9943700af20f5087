package rpc

import (
	"context"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	"github.com/countersign-mesh/countersign/services/gateway/internal/scope"
)

// balancesAtOnce is how many balances are asked for at once for one list of accounts.
const balancesAtOnce = 8

// OpenAccount implements MobileBankService.
func (s *Server) OpenAccount(ctx context.Context, req *mobilev1.OpenAccountRequest) (*mobilev1.OpenAccountResponse, error) {
	who, err := customerOf(ctx, scope.Open)
	if err != nil {
		return nil, err
	}
	key := requestKey(who, req.GetRequestId())
	acting, err := s.acting(ctx, scope.Open, map[string]string{"request_id": key, "currency": req.GetCurrencyCode()})
	if err != nil {
		return nil, err
	}
	response, err := s.accounts.OpenAccount(acting, &accountsv1.OpenAccountRequest{
		RequestId:    key,
		CustomerId:   string(who),
		DisplayName:  req.GetDisplayName(),
		CurrencyCode: req.GetCurrencyCode(),
	})
	if err != nil {
		return nil, s.behind(ctx, err, codes.AlreadyExists, codes.InvalidArgument)
	}
	account, err := s.changed(ctx, response.GetAccount())
	if err != nil {
		return nil, err
	}
	return &mobilev1.OpenAccountResponse{Account: account}, nil
}

// ListAccounts implements MobileBankService.
func (s *Server) ListAccounts(ctx context.Context, req *mobilev1.ListAccountsRequest) (*mobilev1.ListAccountsResponse, error) {
	who, err := customerOf(ctx, scope.Read)
	if err != nil {
		return nil, err
	}
	ctx, err = s.acting(ctx, scope.Read, nil)
	if err != nil {
		return nil, err
	}
	page, err := s.accounts.ListAccounts(ctx, &accountsv1.ListAccountsRequest{
		CustomerId: string(who),
		PageSize:   req.GetPageSize(),
		PageToken:  req.GetPageToken(),
	})
	if err != nil {
		return nil, s.behind(ctx, err, codes.InvalidArgument)
	}
	response := &mobilev1.ListAccountsResponse{
		Accounts:      make([]*mobilev1.Account, len(page.GetAccounts())),
		NextPageToken: page.GetNextPageToken(),
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(balancesAtOnce)
	for i, account := range page.GetAccounts() {
		group.Go(func() (err error) {
			response.Accounts[i], err = s.withBalance(groupCtx, account)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return response, nil
}

// CloseAccount implements MobileBankService.
func (s *Server) CloseAccount(ctx context.Context, req *mobilev1.CloseAccountRequest) (*mobilev1.CloseAccountResponse, error) {
	who, err := customerOf(ctx, scope.Close)
	if err != nil {
		return nil, err
	}
	acting, err := s.acting(ctx, scope.Close, map[string]string{"account_id": req.GetAccountId()})
	if err != nil {
		return nil, err
	}
	if _, err := s.own(acting, who, req.GetAccountId()); err != nil {
		return nil, err
	}
	response, err := s.accounts.CloseAccount(acting, &accountsv1.CloseAccountRequest{AccountId: req.GetAccountId()})
	if err != nil {
		return nil, s.behind(ctx, err, codes.FailedPrecondition, codes.Aborted)
	}
	// Zero when it was closed; asked for all the same, because a payment that was under way may still have come in.
	account, err := s.changed(ctx, response.GetAccount())
	if err != nil {
		return nil, err
	}
	return &mobilev1.CloseAccountResponse{Account: account}, nil
}

// GetStatement implements MobileBankService.
func (s *Server) GetStatement(ctx context.Context, req *mobilev1.GetStatementRequest) (*mobilev1.GetStatementResponse, error) {
	who, err := customerOf(ctx, scope.Read)
	if err != nil {
		return nil, err
	}
	ctx, err = s.acting(ctx, scope.Read, map[string]string{"account_id": req.GetAccountId()})
	if err != nil {
		return nil, err
	}
	account, err := s.own(ctx, who, req.GetAccountId())
	if err != nil {
		return nil, err
	}
	page, err := s.ledger.ListEntries(ctx, &ledgerv1.ListEntriesRequest{
		AccountId: account.GetAccountId(),
		PageSize:  req.GetPageSize(),
		PageToken: req.GetPageToken(),
	})
	if err != nil {
		return nil, s.behind(ctx, err, codes.InvalidArgument)
	}
	response := &mobilev1.GetStatementResponse{NextPageToken: page.GetNextPageToken()}
	for _, entry := range page.GetEntries() {
		response.Lines = append(response.Lines, &mobilev1.StatementLine{
			Amount:       entry.GetAmount(),
			BalanceAfter: entry.GetBalanceAfter(),
			Description:  entry.GetDescription(),
			PostTime:     entry.GetPostTime(),
		})
	}
	return response, nil
}

// changed returns an account that the call has opened or closed, with its balance if the customer's token is good for reading, too.
func (s *Server) changed(ctx context.Context, account *accountsv1.Account) (*mobilev1.Account, error) {
	if who, ok := userauth.FromContext(ctx); !ok || !who.HasScope(scope.Read) {
		return seen(account, nil), nil
	}
	return s.withBalance(ctx, account)
}

// withBalance returns an account as its customer sees it. The token that shows the balance is for this one account.
func (s *Server) withBalance(ctx context.Context, account *accountsv1.Account) (*mobilev1.Account, error) {
	ctx, err := s.acting(ctx, scope.Read, map[string]string{"account_id": account.GetAccountId()})
	if err != nil {
		return nil, err
	}
	response, err := s.ledger.GetBalance(ctx, &ledgerv1.GetBalanceRequest{AccountId: account.GetAccountId()})
	if err != nil {
		return nil, s.behind(ctx, err)
	}
	// Without postings the ledger has no amount to tell; an account holds one currency.
	balance := &moneyv1.Money{CurrencyCode: account.GetCurrencyCode()}
	for _, b := range response.GetBalances() {
		if b.GetCurrencyCode() == account.GetCurrencyCode() {
			balance = b
		}
	}
	return seen(account, balance), nil
}

// seen is an account as its customer sees it.
func seen(account *accountsv1.Account, balance *moneyv1.Money) *mobilev1.Account {
	frozen := account.GetStatus() == accountsv1.AccountStatus_ACCOUNT_STATUS_FROZEN
	return &mobilev1.Account{
		AccountId:   account.GetAccountId(),
		DisplayName: account.GetDisplayName(),
		Balance:     balance,
		// A status that this version does not know is shown as one of no use, too.
		Closed:   !frozen && account.GetStatus() != accountsv1.AccountStatus_ACCOUNT_STATUS_OPEN,
		Frozen:   frozen,
		OpenTime: account.GetOpenTime(),
	}
}
