package front_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/countersign-mesh/countersign/pkg/overload"
	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// route is a method of the bank as REST has it.
type route struct {
	method, scope    string
	verb, path, body string
	// template is the path as the OpenAPI document has it.
	template string
	call     func(ctx context.Context, c mobilev1.MobileBankServiceClient) error
	// asks is what one of the services behind is asked in the end, and says a part of what the customer is told.
	asks proto.Message
	says string
}

const (
	transferBody = `{"requestId": "request-1", "payerAccountId": "` + aliceAccount + `", "payeeAccountId": "acc-ffffffffffffffffffffffffff",
		"amount": {"currencyCode": "EUR", "minorUnits": "100"}, "reference": "rent"}`
	key = "f952f5b3b674427940b63f22b424cb408465c27001a4275ceb2b8a8a17d5c15e" // alice's, of request-1
	// paymentOne is the payment that it becomes.
	paymentOne = "pay-abalcvftwasp3dtlvcueewj6sq"
)

func routes() []route {
	return []route{
		{
			"OpenAccount", "accounts.open", "POST", "/v1/accounts", `{"requestId": "request-1", "displayName": "Rent", "currencyCode": "EUR"}`, "/v1/accounts",
			func(ctx context.Context, c mobilev1.MobileBankServiceClient) error {
				_, err := c.OpenAccount(ctx, &mobilev1.OpenAccountRequest{RequestId: "request-1", CurrencyCode: "EUR"})
				return err
			}, &accountsv1.OpenAccountRequest{RequestId: key, CustomerId: "alice", DisplayName: "Rent", CurrencyCode: "EUR"}, `"minorUnits":"7"`,
		},
		{
			"ListAccounts", "accounts.read", "GET", "/v1/accounts?pageSize=3&pageToken=token", "", "/v1/accounts",
			func(ctx context.Context, c mobilev1.MobileBankServiceClient) error {
				_, err := c.ListAccounts(ctx, &mobilev1.ListAccountsRequest{})
				return err
			}, &accountsv1.ListAccountsRequest{CustomerId: "alice", PageSize: 3, PageToken: "token"}, `"accountId":"` + aliceAccount + `"`,
		},
		{
			"CloseAccount", "accounts.close", "POST", "/v1/accounts/" + aliceAccount + ":close", "{}", "/v1/accounts/{accountId}:close",
			func(ctx context.Context, c mobilev1.MobileBankServiceClient) error {
				_, err := c.CloseAccount(ctx, &mobilev1.CloseAccountRequest{AccountId: aliceAccount})
				return err
			}, &accountsv1.CloseAccountRequest{AccountId: aliceAccount}, `"account":`,
		},
		{
			"Transfer", "transfer", "POST", "/v1/transfers", transferBody, "/v1/transfers",
			func(ctx context.Context, c mobilev1.MobileBankServiceClient) error {
				_, err := c.Transfer(ctx, &mobilev1.TransferRequest{
					RequestId: "request-1", PayerAccountId: aliceAccount, PayeeAccountId: bobAccount, Amount: &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: 1},
				})
				return err
			}, &paymentsv1.CreatePaymentRequest{
				RequestId: key, PaymentId: paymentOne, PayerAccountId: aliceAccount, PayeeAccountId: "acc-ffffffffffffffffffffffffff",
				Amount: &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: 100}, Reference: "rent",
			}, `"status":"TRANSFER_STATUS_DONE"`,
		},
		{
			"GetStatement", "accounts.read", "GET", "/v1/accounts/" + aliceAccount + "/statement?pageSize=3&pageToken=token", "", "/v1/accounts/{accountId}/statement",
			func(ctx context.Context, c mobilev1.MobileBankServiceClient) error {
				_, err := c.GetStatement(ctx, &mobilev1.GetStatementRequest{AccountId: aliceAccount})
				return err
			}, &ledgerv1.ListEntriesRequest{AccountId: aliceAccount, PageSize: 3, PageToken: "token"}, `"description":"rent"`,
		},
		{
			"WatchActivity", "accounts.read", "GET", "/v1/accounts/" + aliceAccount + "/activity?cursor=from", "", "/v1/accounts/{accountId}/activity",
			func(ctx context.Context, c mobilev1.MobileBankServiceClient) error {
				stream, err := c.WatchActivity(ctx, &mobilev1.WatchActivityRequest{AccountId: aliceAccount})
				if err == nil {
					_, err = stream.Recv()
				}
				return err
			}, &paymentsv1.WatchPaymentsRequest{AccountId: aliceAccount, Cursor: "from"}, `"cursor":"cursor-1"`,
		},
	}
}

func TestEachRouteIsItsMethod(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone(t, w.alice)
	for _, r := range routes() {
		response := p.request(t, r.verb, r.path, bearer(w.token(t, nil)), r.body)
		said := make([]byte, 4096)
		n, _ := response.Body.Read(said) // of a watch there is no end
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/json" ||
			!strings.Contains(strings.ReplaceAll(string(said[:n]), " ", ""), r.says) {
			t.Errorf("%s: %d %s", r.method, response.StatusCode, said[:n])
		}
		w.behind.mu.Lock()
		found := false
		for _, asked := range w.behind.asked {
			found = found || cmp.Equal(r.asks, asked, protocmp.Transform())
		}
		if !found {
			t.Errorf("%s: asked %v, want %v", r.method, w.behind.asked, r.asks)
		}
		w.behind.mu.Unlock()
	}
}

// The document, the routes that are tested, and the contract have the same methods.
func TestTheDocumentHasTheRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, response, content := w.phone(t, w.alice).fetch(t, http.MethodGet, "/openapi.json", http.Header{}, "") // without a token
	if response.Header.Get("Content-Type") != "application/json" {
		t.Errorf("it is %s", response.Header)
	}
	var document struct {
		Paths map[string]map[string]struct{ OperationID string }
	}
	if err := json.Unmarshal(content, &document); err != nil {
		t.Fatal(err)
	}
	documented, tested, contract := map[string]string{}, map[string]string{}, map[string]bool{}
	for path, verbs := range document.Paths {
		for verb, operation := range verbs {
			documented[strings.ToUpper(verb)+" "+path] = strings.TrimPrefix(operation.OperationID, "MobileBankService_")
		}
	}
	for _, r := range routes() {
		tested[r.verb+" "+r.template] = r.method
		contract[r.method] = true
	}
	if diff := cmp.Diff(tested, documented); diff != "" {
		t.Errorf("-tested +documented:\n%s", diff)
	}
	methods := mobilev1.File_bank_mobile_v1_mobile_proto.Services().ByName("MobileBankService").Methods()
	if methods.Len() != len(contract) {
		t.Errorf("the contract has %d methods, tested are %v", methods.Len(), contract)
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone(t, w.alice)
	good := w.token(t, nil)
	typed := func(kind string) http.Header { h := bearer(good); h.Set("Content-Type", kind); return h }
	large := strings.Replace(transferBody, `"100"`, `"1000"`, 1)
	for name, c := range map[string]struct {
		verb, path string
		header     http.Header
		body       string
		status     int
		code       string
	}{
		"no such path":               {"GET", "/v1/nothing", bearer(good), "", 404, "NOT_FOUND"},
		"no such path, for nobody":   {"GET", "/v1/nothing", http.Header{}, "", 401, "INVALID_TOKEN"},
		"another verb":               {"DELETE", "/v1/accounts", bearer(good), "", 405, "UNIMPLEMENTED"},
		"a verb by another name":     {"POST", "/v1/accounts", http.Header{"Authorization": bearer(good)["Authorization"], "X-Http-Method-Override": {"GET"}, "Content-Type": {"application/x-www-form-urlencoded"}}, "", 415, "INVALID_ARGUMENT"},
		"no JSON":                    {"POST", "/v1/transfers", bearer(good), "{", 400, "INVALID_ARGUMENT"},
		"no body":                    {"POST", "/v1/transfers", bearer(good), "", 400, "INVALID_ARGUMENT"},
		"a list":                     {"POST", "/v1/transfers", bearer(good), "[]", 400, "INVALID_ARGUMENT"},
		"something behind":           {"POST", "/v1/transfers", bearer(good), transferBody + "{}", 400, "INVALID_ARGUMENT"},
		"an unknown field":           {"POST", "/v1/transfers", bearer(good), strings.Replace(transferBody, `"reference"`, `"customerId"`, 1), 400, "INVALID_ARGUMENT"},
		"a field twice":              {"POST", "/v1/transfers", bearer(good), strings.Replace(transferBody, `"reference": "rent"`, `"request_id": "request-2"`, 1), 400, "INVALID_ARGUMENT"},
		"against the rules":          {"POST", "/v1/transfers", bearer(good), strings.Replace(transferBody, `"100"`, `"-100"`, 1), 400, "INVALID_ARGUMENT"},
		"a bad account":              {"GET", "/v1/accounts/acc-x/statement", bearer(good), "", 400, "INVALID_ARGUMENT"},
		"a bad query":                {"GET", "/v1/accounts?pageSize=x", bearer(good), "", 400, "INVALID_ARGUMENT"},
		"a watch of another's":       {"GET", "/v1/accounts/" + bobAccount + "/activity", bearer(good), "", 404, "NOT_FOUND"},
		"too large":                  {"POST", "/v1/transfers", bearer(good), strings.Repeat(" ", 70_000) + transferBody, 413, "INVALID_ARGUMENT"},
		"another type":               {"POST", "/v1/transfers", typed("text/plain"), transferBody, 415, "INVALID_ARGUMENT"},
		"a token in the URL":         {"GET", "/v1/accounts?access_token=" + good, bearer(good), "", 401, "INVALID_TOKEN"},
		"a large transfer":           {"POST", "/v1/transfers", bearer(good), large, 401, "INSUFFICIENT_USER_AUTHENTICATION"},
		"a large one, with the code": {"POST", "/v1/transfers", bearer(w.token(t, userauthtest.Claims{"acr": "urn:bank:acr:2"})), large, 200, ""},
	} {
		_, response, content := p.fetch(t, c.verb, c.path, c.header, c.body)
		var got problem
		_ = json.Unmarshal(content, &got)
		if response.StatusCode != c.status || got.Code != c.code {
			t.Errorf("%s: %d %s", name, response.StatusCode, content)
		}
		challenge := response.Header.Get("WWW-Authenticate")
		if (c.status == 401) != (challenge != "") || name == "a large transfer" && !strings.Contains(challenge, `error="insufficient_user_authentication"`) ||
			name == "a large transfer" && !strings.Contains(challenge, `acr_values="urn:bank:acr:2"`) {
			t.Errorf("%s: WWW-Authenticate: %s", name, challenge)
		}
	}
	_, err := p.client.Transfer(with(t.Context(), []string{"Bearer " + good}), &mobilev1.TransferRequest{
		RequestId: "request-1", PayerAccountId: aliceAccount, PayeeAccountId: bobAccount, Amount: &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: stepUpFrom},
	})
	if got := told(err); got.code != codes.Unauthenticated || got.reason != "INSUFFICIENT_USER_AUTHENTICATION" {
		t.Errorf("gRPC: a large transfer: %+v", got)
	}
}

func TestErrorsBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone(t, w.alice)
	for _, c := range []struct {
		behind, login error
		want          answer
		retry         string
	}{
		{status.Error(codes.Unavailable, "secret"), nil, answer{codes.Unavailable, "UNAVAILABLE", "the bank is not available; send the same request again"}, "1"},
		{status.Error(codes.PermissionDenied, "secret"), nil, answer{codes.Internal, "INTERNAL", "internal error"}, ""},
		{nil, status.Error(codes.Unauthenticated, "secret"), answer{codes.Unauthenticated, "INVALID_TOKEN", "the access token is missing or not valid"}, ""},
		{nil, status.Error(codes.Unavailable, "secret"), answer{codes.Unavailable, "UNAVAILABLE", "the bank is not available; send the same request again"}, "1"},
		{nil, status.Error(codes.PermissionDenied, "secret"), answer{codes.Internal, "INTERNAL", "internal error"}, ""},
	} {
		w.behind.mu.Lock()
		w.behind.fail = c.behind
		w.behind.mu.Unlock()
		w.login.mu.Lock()
		w.login.issueFail = c.login
		w.login.mu.Unlock()
		got, response, _ := p.fetch(t, http.MethodGet, "/v1/accounts", bearer(w.token(t, nil)), "")
		if got != c.want || response.Header.Get("Retry-After") != c.retry {
			t.Errorf("%v, %v: %+v %s", c.behind, c.login, got, response.Header)
		}
	}
}

// One customer's calls are counted over both doors, and another customer's are not.
func TestACustomerWhoCallsTooOften(t *testing.T) {
	t.Parallel()
	w := worldWith(t, func(w *world) { w.limits.Rate, w.limits.Burst = 1, 6 })
	p := w.phone(t, w.alice)
	good := "Bearer " + w.token(t, nil)
	for range 3 {
		for door, got := range p.list(t, good) {
			if got.code != codes.OK {
				t.Fatalf("%s: %+v", door, got)
			}
		}
	}
	var err error
	for range 20 { // the machine may be slow
		if _, err = p.client.ListAccounts(with(t.Context(), []string{good}), &mobilev1.ListAccountsRequest{}); err != nil {
			break
		}
	}
	if delay, ok := overload.RetryDelay(err); told(err).reason != "CUSTOMER_RATE_EXCEEDED" || !ok || delay <= 0 || delay > time.Second {
		t.Errorf("gRPC: %v, %v", err, delay)
	}
	var response reply
	var got answer
	for range 20 {
		if got, response, _ = p.fetch(t, http.MethodGet, "/v1/accounts", http.Header{"Authorization": {good}}, ""); got.code != codes.OK {
			break
		}
	}
	if got.reason != "CUSTOMER_RATE_EXCEEDED" || response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") != "1" {
		t.Errorf("REST: %+v %s", got, response.Header)
	}
	for door, got := range p.list(t, "Bearer "+w.token(t, userauthtest.Claims{"sub": "bob"})) {
		if got.code != codes.OK {
			t.Errorf("%s: another customer: %+v", door, got)
		}
	}
}
