package neighbours

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

const (
	// scopeTransfer is what a customer's token for a payment is for.
	scopeTransfer = "transfer"
	// timeLeft is how long a token has to be good still. It is the deadline of a call to the ledger: one that is tried again is to be let in at the
	// last attempt too.
	timeLeft = 5 * time.Second
)

// Verifier verifies transaction tokens.
type Verifier interface {
	Verify(ctx context.Context, raw string) (*txntoken.Token, error)
}

// Tokens finds the transaction token with which the ledger is asked for a payment. It keeps none. It is safe for concurrent use.
type Tokens struct {
	login    loginv1.TransactionTokenServiceClient
	verifier Verifier
	now      func() time.Time
}

// NewTokens returns Tokens over a connection to login.
func NewTokens(conn grpc.ClientConnInterface, verifier Verifier) *Tokens {
	return &Tokens{login: loginv1.NewTransactionTokenServiceClient(conn), verifier: verifier, now: time.Now}
}

// TransactionKeys returns what fetches the keys of transaction tokens over a connection to login, for a jwks.Set.
func TransactionKeys(conn grpc.ClientConnInterface) func(ctx context.Context) ([]byte, error) {
	client := loginv1.NewKeyServiceClient(conn)
	return func(ctx context.Context) ([]byte, error) {
		response, err := client.GetTransactionKeys(ctx, &loginv1.GetTransactionKeysRequest{})
		if err != nil {
			return nil, fmt.Errorf("ask login for its keys: %w", err)
		}
		return response.GetKeys(), nil
	}
}

// with returns a context that carries the token for a payment: the one that ctx has, which came with the order, while that is good for long enough, and a
// new one otherwise. The error is payment.ErrNoMandate when there is none to be had any more, and payment.ErrNotAsked while there is none.
func (t *Tokens) with(ctx context.Context, p payment.Payment) (context.Context, error) {
	if token, ok := txntoken.FromContext(ctx); ok && proves(token, p) && token.Expires.Sub(t.now()) >= timeLeft {
		return ctx, nil
	}
	if p.Mandate.Transaction == "" {
		return nil, fmt.Errorf("%w: it was made for no transaction", payment.ErrNoMandate)
	}
	token, err := t.renew(ctx, p.Mandate.Transaction)
	if err != nil {
		return nil, err
	}
	if !proves(token, p) {
		return nil, fmt.Errorf("%w: the renewed one is for something else", payment.ErrNotAsked)
	}
	return txntoken.NewContext(ctx, token), nil
}

// renew asks for a token with the content that the customer once asked for. It is verified here as well: payments sends on what it has read.
func (t *Tokens) renew(ctx context.Context, transaction string) (*txntoken.Token, error) {
	response, err := t.login.RenewTransactionToken(ctx, &loginv1.RenewTransactionTokenRequest{TransactionId: transaction})
	if status.Code(err) == codes.NotFound {
		return nil, fmt.Errorf("%w: login: %w", payment.ErrNoMandate, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: login: %w", payment.ErrNotAsked, err)
	}
	token, err := t.verifier.Verify(ctx, response.GetTransactionToken())
	if err != nil {
		return nil, fmt.Errorf("%w: verify the renewed one: %w", payment.ErrNotAsked, err)
	}
	return token, nil
}

// proves reports whether a token says that the customer asked for this very payment. The ledger asks the same, and more.
func proves(token *txntoken.Token, p payment.Payment) bool {
	asked := token.Context
	return token.Scope == scopeTransfer && token.Subject == p.PayerCustomerID && asked["payment_id"] == p.ID &&
		asked["payer"] == p.PayerAccountID && asked["payee"] == p.PayeeAccountID &&
		asked["amount"] == strconv.FormatInt(p.Amount.MinorUnits, 10) && asked["currency"] == p.Amount.CurrencyCode
}
