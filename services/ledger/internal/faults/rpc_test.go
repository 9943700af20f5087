package faults_test

import (
	"context"
	"log/slog"
	"strconv"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken/txntokentest"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/rpc"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
)

// direct calls the books as the service does.
func direct(s *store.Store) caller {
	return func(ctx context.Context, o op) (answer, error) { return apply(ctx, s, o), nil }
}

// served calls the books as their callers do: over mutual TLS, under the bank's own policy.
func served(t *testing.T, s *store.Store) caller {
	t.Helper()
	bank := meshtest.Open(t, "bank.test", "../../../../deploy/policy/bank.yaml")
	login := txntokentest.New(t, "bank.test")
	addr := bank.Serve(t, "/ledger", func(r grpc.ServiceRegistrar) {
		ledgerv1.RegisterLedgerServiceServer(r, rpc.New(s, slog.New(slog.DiscardHandler)))
	}, mesh.WithUsers(login.Verifier()))
	as := func(workload string) ledgerv1.LedgerServiceClient {
		conn := bank.Dial(t, workload, "/ledger", addr, mesh.WithTransactionTokens("bank.ledger.v1.LedgerService"))
		return ledgerv1.NewLedgerServiceClient(login.Conn(t, conn, asked))
	}
	payments, operator := as("/payments"), as("/operator")
	return func(ctx context.Context, o op) (answer, error) {
		switch o.Kind {
		case post:
			posted, err := payments.PostTransfer(ctx, message(o))
			return told(err, answer{Time: posted.GetPostTime().AsTime().UnixMicro()}), nil
		case balance:
			b, err := operator.GetBalance(ctx, &ledgerv1.GetBalanceRequest{AccountId: account(o.Group, o.Whose)})
			var a answer
			for _, one := range b.GetBalances() {
				a.Balance = one.GetMinorUnits()
			}
			return told(err, a), nil
		case check:
			b, err := operator.CheckTrialBalance(ctx, &ledgerv1.CheckTrialBalanceRequest{})
			sums := ledger.TrialBalance{Transfers: b.GetTransferCount(), Entries: b.GetEntryCount()}
			for _, one := range b.GetSums() {
				sums.Sums = append(sums.Sums, ledger.Money{Currency: one.GetCurrencyCode(), Minor: one.GetMinorUnits()})
			}
			return told(err, answer{Sums: sums}), nil
		default:
			return answer{Code: failed, Text: "no test needs it"}, nil
		}
	}
}

// asked is what a customer's token says who asks for what the request posts.
func asked(_ string, request any) *txntoken.Token {
	post, ok := request.(*ledgerv1.PostTransferRequest)
	if !ok || len(post.GetPostings()) != 2 {
		return nil
	}
	payer, payee := post.GetPostings()[0], post.GetPostings()[1]
	return &txntoken.Token{ID: "txn-00000001", Subject: "alice", Scope: "transfer", Requesters: []string{"spiffe://bank.test/gateway"}, Context: map[string]string{
		"payment_id": post.GetTransferId(), "payer": payer.GetAccountId(), "payee": payee.GetAccountId(),
		"amount": strconv.FormatInt(payee.GetAmount().GetMinorUnits(), 10), "currency": payee.GetAmount().GetCurrencyCode(),
	}}
}

// message is the operation on the wire.
func message(o op) *ledgerv1.PostTransferRequest {
	t := o.transfer()
	r := &ledgerv1.PostTransferRequest{TransferId: t.ID, Description: t.Description}
	for _, p := range t.Postings {
		r.Postings = append(r.Postings, &ledgerv1.Posting{
			AccountId: p.Account,
			Amount:    &moneyv1.Money{CurrencyCode: p.Amount.Currency, MinorUnits: p.Amount.Minor},
		})
	}
	return r
}

// told is what a status tells the caller.
func told(err error, a answer) answer {
	s := status.Convert(err)
	switch s.Code() {
	case codes.OK:
		a.Code = done
		return a
	case codes.Unavailable:
		for _, detail := range s.Details() {
			if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "bank.test" && info.GetReason() == "OUTCOME_UNKNOWN" {
				return answer{Code: unknown, Text: s.Message()}
			}
		}
		return answer{Code: refused, Text: s.Message()}
	default:
		return answer{Code: failed, Text: err.Error()}
	}
}
