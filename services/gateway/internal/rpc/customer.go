package rpc

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
)

// stepUpACR is how a customer must have logged in for a large transfer: with a one-time code, too.
const stepUpACR = "urn:bank:acr:2"

// customer is the customer that a call acts for. Only customerOf makes one.
type customer string

// customerOf returns the customer that a call acts for: the subject of the access token that it came with, and nothing that a request says. It is the one
// place that reads it. That the token has the scope of the method was looked at before; here it is looked at once more, because a method that was put
// there without would else act for whoever comes.
func customerOf(ctx context.Context, scope string) (customer, error) {
	if err := userauth.RequireScope(ctx, scope); err != nil {
		return "", err
	}
	p, _ := userauth.FromContext(ctx)
	return customer(p.Subject), nil
}

// acting returns a context whose calls are made with a transaction token of the customer's.
func (s *Server) acting(ctx context.Context, scope string, content map[string]string) (context.Context, error) {
	acting, err := s.tokens.Acting(ctx, scope, content)
	if status.Code(err) == codes.Unauthenticated { // it was revoked in this very moment, or login knows better
		s.log.InfoContext(ctx, "an access token is not good for a transaction token", "error", err)
		return nil, errNotGood()
	}
	if err != nil {
		return nil, s.behind(ctx, err)
	}
	return acting, nil
}

// errNotGood is what userauth says of a token that is not good.
func errNotGood() error {
	st, err := status.New(codes.Unauthenticated, userauth.ErrInvalidToken.Error()).WithDetails(
		&errdetails.ErrorInfo{Domain: "countersign", Reason: "INVALID_TOKEN"})
	if err != nil { // it fails only for a status of OK
		return err
	}
	return st.Err()
}

// own returns an account of the customer. For the account of another one it returns what it returns for one that does not exist.
func (s *Server) own(ctx context.Context, who customer, accountID string) (*accountsv1.Account, error) {
	response, err := s.accounts.GetAccount(ctx, &accountsv1.GetAccountRequest{AccountId: accountID})
	if status.Code(err) == codes.NotFound {
		return nil, errNoAccount
	}
	if err != nil {
		return nil, s.behind(ctx, err)
	}
	if response.GetAccount().GetCustomerId() != string(who) {
		return nil, errNoAccount
	}
	return response.GetAccount(), nil
}

// requestKey is the key of idempotency that the services behind get: the customer's request ID, bound to the customer. They
// scope keys by their caller, which is this gateway for all customers, so without it one customer could meet another's
// payment by choosing the same ID. It has the 64 characters that a request_id may have. A customer ID has no line break, so no two
// pairs run into each other.
func requestKey(who customer, requestID string) string {
	sum := sha256.Sum256([]byte("countersign mobile request 1\n" + string(who) + "\n" + requestID))
	return hex.EncodeToString(sum[:])
}

// paymentID is the ID of the payment that a request becomes. It is made here and not where the payment is, so that the transaction token can name it: whoever is
// called for this payment then knows that it is this one.
func paymentID(requestKey string) string {
	sum := sha256.Sum256([]byte("countersign payment 1\n" + requestKey))
	return "pay-" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:26]
}
