package bank

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// transactionKey is the metadata that a transaction token travels in.
const transactionKey = "txn-token"

// Exchange is what gets transaction tokens for what a phone asks for, as the gateway does: for tests that are in the gateway's place.
type Exchange struct {
	phone  *Phone
	tokens loginv1.TransactionTokenServiceClient
}

// NewExchange returns an Exchange on a connection of the gateway's identity to login.
func NewExchange(phone *Phone, login grpc.ClientConnInterface) *Exchange {
	return &Exchange{phone: phone, tokens: loginv1.NewTransactionTokenServiceClient(login)}
}

// Token returns a transaction token.
func (e *Exchange) Token(ctx context.Context, scope string, content map[string]string) (string, error) {
	access, err := e.phone.Session.Token(ctx)
	if err != nil {
		return "", err
	}
	issued, err := e.tokens.IssueTransactionToken(ctx, &loginv1.IssueTransactionTokenRequest{AccessToken: access, Scope: scope, Context: content})
	return issued.GetTransactionToken(), err
}

// For returns the context of a call that carries a token for exactly this request: one to open an account or to make a payment, and otherwise one
// that reads.
func (e *Exchange) For(ctx context.Context, request any) (context.Context, error) {
	scope, content := "accounts.read", map[string]string{}
	switch r := request.(type) {
	case *accountsv1.OpenAccountRequest:
		scope, content = "accounts.open", map[string]string{"request_id": r.GetRequestId(), "currency": r.GetCurrencyCode()}
	case *paymentsv1.CreatePaymentRequest:
		scope, content = "transfer", map[string]string{
			"payment_id": r.GetPaymentId(), "request_id": r.GetRequestId(), "payer": r.GetPayerAccountId(), "payee": r.GetPayeeAccountId(),
			"amount": strconv.FormatInt(r.GetAmount().GetMinorUnits(), 10), "currency": r.GetAmount().GetCurrencyCode(),
		}
	}
	token, err := e.Token(ctx, scope, content)
	return Carrying(ctx, token), err
}

// Carrying returns the context of a call that carries a transaction token.
func Carrying(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, transactionKey, token)
}

// PaymentID is the ID that the gateway derives for a payment.
func PaymentID(requestID string) string {
	sum := sha256.Sum256([]byte("countersign payment 1\n" + requestID))
	return "pay-" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:26]
}
