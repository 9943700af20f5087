// Package txn gets the transaction tokens that calls behind the gateway are made with. Each says for which customer, for what and with what content: behind the
// gateway nobody believes it that a customer asked, but the token.
package txn

import (
	"context"
	"errors"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	"github.com/countersign-mesh/countersign/services/gateway/internal/scope"
)

const (
	// kept is how many tokens for reading are kept, each for about a minute.
	kept = 4096
	// timeLeft is what must be left of a kept token's life: long enough for any call, with its retries.
	timeLeft = time.Minute
)

// Login issues transaction tokens. A loginv1.TransactionTokenServiceClient does.
type Login interface {
	IssueTransactionToken(ctx context.Context, in *loginv1.IssueTransactionTokenRequest, opts ...grpc.CallOption) (*loginv1.IssueTransactionTokenResponse, error)
}

// Tokens gets tokens from login. It is safe for concurrent use. The zero value is not usable; see New.
type Tokens struct {
	login Login
	now   func() time.Time
	kept  *lru.Cache[key, *txntoken.Token]
}

// key is what a kept token was issued for. Who has the same access token has proven the same: each call's was verified before this is asked.
type key struct{ accessToken, session, scope, account string }

// New returns Tokens without any. now is time.Now but in tests.
func New(login Login, now func() time.Time) *Tokens {
	cache, err := lru.New[key, *txntoken.Token](kept)
	if err != nil {
		panic(err) // it fails for a size that is not positive
	}
	return &Tokens{login: login, now: now, kept: cache}
}

// errNobody is a mistake in the gateway: nothing gets here that was not let in.
var errNobody = errors.New("the call is made for nobody")

// Acting returns a context whose calls are made for the customer of ctx, with the content that they asked for. One for reading names an account or none, and is used
// again for other calls with the same access token. Its error is login's.
func (t *Tokens) Acting(ctx context.Context, wanted string, content map[string]string) (context.Context, error) {
	who, ok := userauth.FromContext(ctx)
	if !ok {
		return nil, errNobody
	}
	reading := wanted == scope.Read
	k := key{who.TokenID, who.Session, wanted, content["account_id"]}
	if known, ok := t.kept.Get(k); reading && ok && known.Expires.Sub(t.now()) >= timeLeft {
		return txntoken.NewContext(ctx, known), nil
	}
	answer, err := t.login.IssueTransactionToken(ctx, &loginv1.IssueTransactionTokenRequest{AccessToken: who.Token(), Scope: wanted, Context: content})
	if err != nil {
		return nil, err
	}
	token := txntoken.Received(answer.GetTransactionToken(), answer.GetExpireTime().AsTime())
	if reading {
		t.kept.Add(k, token)
	}
	return txntoken.NewContext(ctx, token), nil
}
