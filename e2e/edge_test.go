package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// TestEdge holds what can be asked of one bank by its customers, and by those who would like to be.
func TestEdge(t *testing.T) {
	mesh := dist.NewHome(t, "gateway", "payments").Apart(t)
	mesh.StartAll(t)
	phones := mesh.Phones(t, "alice", "bob")
	for _, test := range []struct {
		name string
		run  func(t *testing.T, mesh *bank.Apart, alice, bob *bank.Phone)
	}{
		{"a token that is not good in every way is refused", testTokens},
		{"a handshake without a device's certificate is refused", testHandshakesAtTheEdge},
		{"nothing but public keys is published", testPublished},
		{"nothing is served at the edge but the bank for customers", testServedAtTheEdge},
		{"a path that is not well-formed is of no method", testRawPathsAtTheEdge},
		{"what a customer says about itself changes nothing", testCustomersClaims},
		{"another customer's account is like none", testOthersAccounts},
		{"a payment takes its whole way over REST", testREST},
		{"a large payment wants a one-time code", testStepUp},
		{"a transaction token is good for one thing", testReplay},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, mesh, phones[0], phones[1]) })
	}
}

// testServedAtTheEdge calls every method of every service at the edge, as a customer.
func testServedAtTheEdge(t *testing.T, _ *bank.Apart, alice, _ *bank.Phone) {
	const service = "bank.mobile.v1.MobileBankService"
	methods := append(bank.Methods(), bank.Method{Full: "/" + service + "/DropAllTables"}, bank.Method{Full: "/bank.nothing.v1.NothingService/Do"})
	served := 0
	for _, method := range methods {
		err := bank.Call(t.Context(), alice.Conn(), method)
		if method.Service == service {
			served++
			if !bank.LetIn(err) {
				t.Errorf("%s: want let in, got %v", method.Full, err)
			}
			continue
		}
		if code := status.Code(err); code != codes.Unimplemented && code != codes.PermissionDenied {
			t.Errorf("%s: want UNIMPLEMENTED, got %v", method.Full, err)
		}
	}
	if served == 0 {
		t.Error("the edge serves nothing")
	}
}

// testCustomersClaims sends what proxies, gateways and the mesh itself carry identities in. ATTACKS 49.
func testCustomersClaims(t *testing.T, mesh *bank.Apart, alice, bob *bank.Phone) {
	account := openAccount(t, bob, "bobs-for-claims", "EUR")
	exchange := bank.NewExchange(bob, mesh.Dial(t, mesh.Identity(t, "gateway"), "login"))
	token, err := exchange.Token(t.Context(), "accounts.read", nil)
	if err != nil {
		t.Fatal(err)
	}
	claims := []string{
		"txn-token", token, "x-forwarded-client-cert", "URI=spiffe://bank.test/operator", "x-forwarded-for", "10.0.0.1", "spiffe-id", "spiffe://bank.test/operator",
		"grpc-metadata-txn-token", token, "x-customer-id", "bob", "x-user", "bob",
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), claims...)
	_, err = alice.Bank().GetStatement(ctx, &mobilev1.GetStatementRequest{AccountId: account})
	if status.Code(err) != codes.NotFound {
		t.Errorf("over gRPC: Alice asks for Bob's account with Bob's transaction token, want NOT_FOUND, got %v", err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, alice.URL("/v1/accounts/"+account+"/statement"), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for pair := range slices.Chunk(claims, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	if p, code := ask(t, alice, request); code != http.StatusNotFound {
		t.Errorf("over REST: Alice asks for Bob's account with Bob's transaction token, want 404, got %d: %v", code, p)
	}
	if _, err := alice.Bank().ListAccounts(ctx, &mobilev1.ListAccountsRequest{}); err != nil {
		t.Errorf("Alice's own accounts: %v", err)
	}
}

// ask makes a request over REST and wants a problem when it is no success.
func ask(t *testing.T, phone *bank.Phone, request *http.Request) (problem, int) {
	t.Helper()
	response, err := phone.HTTP(t).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	p, err := problemOf(response)
	if err != nil {
		t.Errorf("%s %s: %v", request.Method, request.URL.Path, err)
	}
	return p, response.StatusCode
}

// testOthersAccounts has Bob do with Alice's account all that he can think of, and with one that there is not: he is told the same.
func testOthersAccounts(t *testing.T, _ *bank.Apart, alice, bob *bank.Phone) {
	alices, bobs := openAccount(t, alice, "alices-alone", "EUR"), openAccount(t, bob, "bobs-alone", "EUR")
	none := "acc-" + strings.Repeat("a", 26)
	for name, call := range map[string]func(account string) error{
		"reads its statement": func(account string) error {
			_, err := bob.Bank().GetStatement(t.Context(), &mobilev1.GetStatementRequest{AccountId: account})
			return err
		},
		"closes it": func(account string) error {
			_, err := bob.Bank().CloseAccount(t.Context(), &mobilev1.CloseAccountRequest{AccountId: account})
			return err
		},
		"pays from it": func(account string) error {
			_, err := bob.Bank().Transfer(t.Context(), &mobilev1.TransferRequest{
				RequestId: "pay-from-" + account, PayerAccountId: account, PayeeAccountId: bobs, Amount: euros(1),
			})
			return err
		},
		"watches it": func(account string) error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			stream, err := bob.Bank().WatchActivity(ctx, &mobilev1.WatchActivityRequest{AccountId: account})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
	} {
		others, nobodys := call(alices), call(none)
		if status.Code(others) != codes.NotFound || status.Convert(others).Message() != status.Convert(nobodys).Message() {
			t.Errorf("Bob %s: of Alice's account he is told %v, of one that there is not %v", name, others, nobodys)
		}
	}
	response, err := bob.Bank().ListAccounts(t.Context(), &mobilev1.ListAccountsRequest{PageSize: 100})
	if err != nil {
		t.Fatal(err)
	}
	for _, account := range response.GetAccounts() {
		if account.GetAccountId() == alices {
			t.Error("Bob's accounts are Alice's")
		}
	}
}

// post sends a message as JSON and reads the answer.
func post[T any](t *testing.T, phone *bank.Phone, path string, message any) (answer T, status int, header http.Header) {
	t.Helper()
	body, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, phone.URL(path), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	return answered[T](t, phone, request)
}

// answered makes a request and decodes the answer, which may be a problem.
func answered[T any](t *testing.T, phone *bank.Phone, request *http.Request) (answer T, status int, header http.Header) {
	t.Helper()
	response, err := phone.HTTP(t).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatalf("%s %s: %s: %v", request.Method, request.URL.Path, response.Status, err)
	}
	return answer, response.StatusCode, response.Header
}

// money is how JSON has an amount: int64 as a text (ProtoJSON).
func money(cents int64) map[string]any {
	return map[string]any{"currencyCode": "EUR", "minorUnits": fmt.Sprint(cents)}
}

// transferred is the answer to a transfer over REST.
type transferred struct {
	Transfer struct{ PaymentID, Status string }
	problem
}

// testREST opens accounts, pays and reads the statement, with nothing but HTTP and JSON.
func testREST(t *testing.T, mesh *bank.Apart, alice, bob *bank.Phone) {
	type opened struct{ Account struct{ AccountID string } }
	payer, _, _ := post[opened](t, alice, "/v1/accounts", map[string]any{"requestId": "alices-by-rest", "currencyCode": "EUR"})
	payee, _, _ := post[opened](t, bob, "/v1/accounts", map[string]any{"requestId": "bobs-by-rest", "currencyCode": "EUR"})
	payCash(t, mesh, payer.Account.AccountID, 10_00)
	wish := map[string]any{
		"requestId": "pay-by-rest", "payerAccountId": payer.Account.AccountID, "payeeAccountId": payee.Account.AccountID, "amount": money(3_50),
	}
	first, _, _ := post[transferred](t, alice, "/v1/transfers", wish)
	again, _, _ := post[transferred](t, alice, "/v1/transfers", wish)
	if first.Transfer.Status != "TRANSFER_STATUS_DONE" || first.Transfer.PaymentID == "" || again != first {
		t.Errorf("want one payment done, got %+v, and for the same request %+v", first, again)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, bob.URL("/v1/accounts/"+payee.Account.AccountID+"/statement"), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	statement, code, _ := answered[struct {
		Lines []struct{ Amount struct{ MinorUnits string } }
	}](t, bob, request)
	if code != http.StatusOK || len(statement.Lines) != 1 || statement.Lines[0].Amount.MinorUnits != "350" {
		t.Errorf("%d: want one line of 350 on Bob's statement, got %+v", code, statement)
	}
}

// payCash pays cash into an account at the counter.
func payCash(t *testing.T, mesh *bank.Apart, account string, cents int64) {
	t.Helper()
	counter := paymentsv1.NewPaymentServiceClient(mesh.Dial(t, mesh.Identity(t, "operator"), "payments"))
	if _, err := counter.DepositCash(t.Context(), &paymentsv1.DepositCashRequest{
		RequestId: "cash-for-" + account, AccountId: account, Amount: euros(cents),
	}); err != nil {
		t.Fatal(err)
	}
}

// testStepUp pays 999.99 and 1,000.00 with a phone that is logged in by a password alone, and then by a one-time code too (RFC 9470).
func testStepUp(t *testing.T, mesh *bank.Apart, alice, bob *bank.Phone) {
	const acr = "urn:bank:acr:2"
	payer, payee := openAccount(t, alice, "alices-step-up", "EUR"), openAccount(t, bob, "bobs-step-up", "EUR")
	payCash(t, mesh, payer, 5_000_00)
	pay := func(phone *bank.Phone, requestID string, cents int64) (*mobilev1.TransferResponse, error) {
		return phone.Bank().Transfer(t.Context(), &mobilev1.TransferRequest{
			RequestId: requestID, PayerAccountId: payer, PayeeAccountId: payee, Amount: euros(cents),
		})
	}
	weak := *alice // the same device, and another session of it
	weak.LogIn(t, alice.Edge, false)
	if response, err := pay(&weak, "just-below", 999_99); err != nil || response.GetTransfer().GetStatus() != isDone {
		t.Errorf("999.99 with a password alone: %v, %v", response, err)
	}
	_, err := pay(&weak, "a-thousand", 1_000_00)
	var wanted string
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			wanted = info.GetMetadata()["acr_values"]
		}
	}
	if status.Code(err) != codes.Unauthenticated || reasonOf(err) != "INSUFFICIENT_USER_AUTHENTICATION" || wanted != acr {
		t.Errorf("1,000.00 with a password alone: %v, of acr %q", err, wanted)
	}
	_, code, header := post[transferred](t, &weak, "/v1/transfers", map[string]any{
		"requestId": "a-thousand", "payerAccountId": payer, "payeeAccountId": payee, "amount": money(1_000_00),
	})
	challenge := header.Get("WWW-Authenticate")
	if code != http.StatusUnauthorized || !strings.Contains(challenge, `error="insufficient_user_authentication"`) || !strings.Contains(challenge, acr) {
		t.Errorf("1,000.00 over REST with a password alone: %d, %q", code, challenge)
	}
	if response, err := pay(alice, "a-thousand", 1_000_00); err != nil || response.GetTransfer().GetStatus() != isDone {
		t.Errorf("1,000.00 with a one-time code: %v, %v", response, err)
	}
}

// testReplay has services that were broken into use Alice's transaction tokens for something else. Peer, customer and content must all match. ATTACKS 59.
func testReplay(t *testing.T, mesh *bank.Apart, alice, bob *bank.Phone) {
	payer, payee, thiefs := openAccount(t, alice, "alices-replay", "EUR"), openAccount(t, bob, "bobs-replay", "EUR"), openAccount(t, bob, "thiefs-own", "EUR")
	payCash(t, mesh, payer, 100_00)
	gateway, self := mesh.Identity(t, "gateway"), mesh.Identity(t, "payments")
	exchange := bank.NewExchange(alice, mesh.Dial(t, gateway, "login"))
	payments := paymentsv1.NewPaymentServiceClient(mesh.Dial(t, gateway, "payments"))
	books := ledgerv1.NewLedgerServiceClient(mesh.Dial(t, self, "ledger"))
	wish := func() *paymentsv1.CreatePaymentRequest {
		return &paymentsv1.CreatePaymentRequest{
			RequestId: "alices-wish", PaymentId: bank.PaymentID("alices-wish"), PayerAccountId: payer, PayeeAccountId: payee, Amount: euros(10_00),
		}
	}
	ctx, err := exchange.For(t.Context(), wish())
	if err != nil {
		t.Fatal(err)
	}
	reading, err := exchange.For(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*paymentsv1.CreatePaymentRequest){
		"another payee": func(r *paymentsv1.CreatePaymentRequest) { r.PayeeAccountId = thiefs },
		"more":          func(r *paymentsv1.CreatePaymentRequest) { r.Amount = euros(100_00) },
		"a second time": func(r *paymentsv1.CreatePaymentRequest) {
			r.RequestId, r.PaymentId = "a-second-wish", bank.PaymentID("a-second-wish")
		},
		"another ID":      func(r *paymentsv1.CreatePaymentRequest) { r.PaymentId = bank.PaymentID("a-second-wish") },
		"another account": func(r *paymentsv1.CreatePaymentRequest) { r.PayerAccountId = thiefs },
	} {
		other := wish()
		change(other)
		_, err := payments.CreatePayment(ctx, other)
		wantDenied(t, "the gateway at payments, "+name, err)
	}
	for name, with := range map[string]context.Context{"without a token": t.Context(), "with a token to read": reading, "with two tokens": both(ctx, reading)} {
		_, err := payments.CreatePayment(with, wish())
		wantDenied(t, "the gateway at payments, "+name, err)
		_, err = books.ReserveFunds(with, &ledgerv1.ReserveFundsRequest{HoldId: wish().GetPaymentId(), AccountId: payer, Amount: euros(10_00)})
		wantDenied(t, "payments at the ledger, "+name, err)
	}
	_, err = books.PostTransfer(ctx, &ledgerv1.PostTransferRequest{
		TransferId: wish().GetPaymentId(),
		Postings:   []*ledgerv1.Posting{{AccountId: payer, Amount: euros(-10_00)}, {AccountId: thiefs, Amount: euros(10_00)}},
	})
	wantDenied(t, "payments at the ledger, another payee", err)
	// The right one, with the wrong peer: payments may not ask for what the gateway may.
	_, err = paymentsv1.NewPaymentServiceClient(mesh.Dial(t, self, "payments")).CreatePayment(ctx, wish())
	wantDenied(t, "payments at payments", err)
	response, err := payments.CreatePayment(ctx, wish())
	if err != nil || response.GetPayment().GetState() != posted {
		t.Errorf("what Alice asked for: %v, %v", response, err)
	}
}

// both carries the tokens of two contexts.
func both(a, b context.Context) context.Context {
	sent, _ := metadata.FromOutgoingContext(b)
	return bank.Carrying(a, sent.Get("txn-token")[0])
}

func wantDenied(t *testing.T, what string, err error) {
	t.Helper()
	if _, wrong := bank.DecisionID(err); wrong != "" {
		t.Errorf("%s: %s", what, wrong)
	}
}
