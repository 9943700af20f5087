package e2e

import (
	"context"
	"net/http"
	"strconv"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

// TestCustomerRate lets one customer ask far too often, over both doors: the customer is told when to come back, and another one does not notice. ATTACKS 53.
func TestCustomerRate(t *testing.T) {
	mesh := dist.NewHome(t).Apart(t)
	mesh.Flags["gateway"] = []string{"--customer-rate=2", "--customer-burst=20"}
	mesh.StartAll(t)
	phones := mesh.Phones(t, "alice", "bob")
	alice, bob := phones[0], phones[1]
	answered, refusals := 0, 0
	for range 60 {
		_, err := alice.Bank().ListAccounts(t.Context(), &mobilev1.ListAccountsRequest{})
		switch status.Code(err) {
		case codes.OK:
			answered++
		case codes.ResourceExhausted:
			if refusals++; !saysWhen(err) {
				t.Errorf("a refusal does not say when to come back: %v", err)
			}
		default:
			t.Errorf("a call ended with %v", err)
		}
	}
	if answered < 20 || refusals < 20 {
		t.Errorf("of 60 calls at once %d were answered and %d refused; want the burst of 20 and little more", answered, refusals)
	}
	// It is one customer, whatever the door.
	client, limited := alice.HTTP(t), 0
	for range 10 {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, alice.URL("/v1/accounts"), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := problemOf(response); err != nil {
			t.Error(err)
		}
		if response.StatusCode == http.StatusTooManyRequests {
			limited++
			if after, err := strconv.Atoi(response.Header.Get("Retry-After")); err != nil || after < 1 {
				t.Errorf("Retry-After: %q", response.Header.Get("Retry-After"))
			}
		}
	}
	if limited < 5 {
		t.Errorf("%d of ten calls over REST were refused", limited)
	}
	tooManyWatches(t, mesh)
	for range 10 {
		if _, err := bob.Bank().ListAccounts(t.Context(), &mobilev1.ListAccountsRequest{}); err != nil {
			t.Errorf("another customer: %v", err)
		}
	}
}

// tooManyWatches has a customer open watches without end, and sees an end.
func tooManyWatches(t *testing.T, mesh *bank.Apart) {
	t.Helper()
	mesh.Kill(t, "gateway")
	mesh.Flags["gateway"] = nil
	mesh.Start(t, "gateway")
	carol := mesh.Phone(t, "carol")
	account := openAccount(t, carol, "open-carol", "EUR")
	payCash(t, mesh, account, 1_00)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	opened := 0
	for range 64 {
		stream, err := carol.Bank().WatchActivity(ctx, &mobilev1.WatchActivityRequest{AccountId: account})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err == nil {
			opened++
		} else if status.Code(err) != codes.ResourceExhausted || !saysWhen(err) {
			t.Errorf("watch %d: %v", opened, err)
		}
	}
	if opened < 10 || opened > 40 {
		t.Errorf("%d watches of one customer are open at once", opened)
	}
}
