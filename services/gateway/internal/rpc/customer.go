package rpc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
)

// customer is the customer that a call acts for. Only customerOf makes one.
type customer string

// customerOf returns the customer that a call acts for. It is the one place that believes the field: the mobile app, which alone may
// call here, vouches for it. What comes to vouch in its place, such as the subject of a token, is to be read from ctx here.
func customerOf(_ context.Context, req interface{ GetCustomerId() string }) (customer, error) {
	id := req.GetCustomerId()
	if id == "" {
		return "", status.Error(codes.Unauthenticated, "the call names no customer")
	}
	return customer(id), nil
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
