package txn_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	"github.com/countersign-mesh/countersign/services/gateway/internal/txn"
)

// login issues tokens of two minutes, each with a number of its own.
type login struct {
	now    time.Time
	issued int
	err    error
}

func (l *login) IssueTransactionToken(context.Context, *loginv1.IssueTransactionTokenRequest, ...grpc.CallOption) (*loginv1.IssueTransactionTokenResponse, error) {
	l.issued++
	return &loginv1.IssueTransactionTokenResponse{
		TransactionToken: fmt.Sprintf("token-%d", l.issued), ExpireTime: timestamppb.New(l.now.Add(2 * time.Minute)),
	}, l.err
}

func TestTokensAreUsedAgainForReadingOnly(t *testing.T) {
	t.Parallel()
	l := &login{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	tokens := txn.New(l, func() time.Time { return l.now })
	asks := func(accessToken, scope string, content map[string]string) string {
		t.Helper()
		ctx, err := tokens.Acting(userauth.NewContext(t.Context(), &userauth.Principal{TokenID: accessToken}), scope, content)
		if err != nil {
			t.Fatal(err)
		}
		token, ok := txntoken.FromContext(ctx)
		if !ok {
			t.Fatal("the context has no token")
		}
		return token.Raw()
	}
	payment := map[string]string{"payment_id": "pay-1"}
	account := func(id string) map[string]string { return map[string]string{"account_id": id} }
	for _, step := range []struct {
		what               string
		after              time.Duration
		accessToken, scope string
		content            map[string]string
		want               string
	}{
		{"reading", 0, "a", "accounts.read", nil, "token-1"},
		{"reading again", time.Minute, "a", "accounts.read", nil, "token-1"},
		{"with another access token", 0, "b", "accounts.read", nil, "token-2"},
		{"of an account", 0, "a", "accounts.read", account("acc-1"), "token-3"},
		{"of another account", 0, "a", "accounts.read", account("acc-2"), "token-4"},
		{"of the first account again", 0, "a", "accounts.read", account("acc-1"), "token-3"},
		{"a payment", 0, "a", "transfer", payment, "token-5"},
		{"the same payment", 0, "a", "transfer", payment, "token-6"},
		{"closing an account", 0, "a", "accounts.close", account("acc-1"), "token-7"},
		{"closing it again", 0, "a", "accounts.close", account("acc-1"), "token-8"},
		{"reading when less than a minute is left", time.Second, "a", "accounts.read", nil, "token-9"},
	} {
		l.now = l.now.Add(step.after)
		if got := asks(step.accessToken, step.scope, step.content); got != step.want {
			t.Errorf("%s: %s, want %s", step.what, got, step.want)
		}
	}
}

func TestWithoutATokenNothingIsDone(t *testing.T) {
	t.Parallel()
	l := &login{err: errors.New("away")}
	tokens := txn.New(l, time.Now)
	if _, err := tokens.Acting(t.Context(), "accounts.read", nil); err == nil || l.issued != 0 {
		t.Errorf("for nobody: %v", err)
	}
	for range 2 { // what failed is not kept
		if _, err := tokens.Acting(userauth.NewContext(t.Context(), &userauth.Principal{TokenID: "a"}), "accounts.read", nil); !errors.Is(err, l.err) {
			t.Errorf("login is away: %v", err)
		}
	}
}
