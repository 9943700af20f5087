package rpc_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// paymentID is the ID that a caller derives from a request ID.
func paymentID(request string) string {
	sum := sha256.Sum256([]byte(request))
	return "pay-" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:26]
}

// wish is what alice's token says when she asks for a payment.
func wish(r *paymentsv1.CreatePaymentRequest) txntoken.Token {
	return txntoken.Token{
		ID: "txn-" + r.GetRequestId(), Subject: "alice", Scope: "transfer", Requesters: []string{"spiffe://bank.test/gateway"},
		Context: map[string]string{
			"payment_id": r.GetPaymentId(), "request_id": r.GetRequestId(), "payer": r.GetPayerAccountId(), "payee": r.GetPayeeAccountId(),
			"amount": strconv.FormatInt(r.GetAmount().GetMinorUnits(), 10), "currency": r.GetAmount().GetCurrencyCode(),
		},
	}
}

// asked is what alice's token says for a call, which login remembers.
func (b *bank) asked(_ string, r any) *txntoken.Token {
	token := txntoken.Token{ID: "txn-reading", Subject: "alice", Scope: "accounts.read", Requesters: []string{"spiffe://bank.test/gateway"}}
	if create, ok := r.(*paymentsv1.CreatePaymentRequest); ok {
		token = wish(create)
	}
	b.remember(token)
	return &token
}

// remember has login know a transaction.
func (a *around) remember(token txntoken.Token) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.issued[token.ID] = token
}

// RenewTransactionToken implements TransactionTokenService.
func (a *around) RenewTransactionToken(ctx context.Context, req *loginv1.RenewTransactionTokenRequest) (*loginv1.RenewTransactionTokenResponse, error) {
	if err := a.enter(ctx, "RenewTransactionToken"); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	token, ok := a.issued[req.GetTransactionId()]
	if !ok {
		return nil, status.Error(codes.NotFound, "no such transaction")
	}
	return &loginv1.RenewTransactionTokenResponse{TransactionToken: a.renewed(token)}, nil
}

// called returns how often a method was called.
func (a *around) called(method string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls[method]
}

// eventually waits until something holds.
func (a *around) eventually(t *testing.T, holds func() bool) {
	t.Helper()
	const bound = 20 * time.Second
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(bound); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen within %s", bound)
		}
	}
}

// logBuffer takes log records from several goroutines.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
