package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/pkg/userauth/device"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
)

func nameOf(r *loginv1.Revocation) string {
	switch {
	case r.GetTokenId() != "":
		return "token:" + r.GetTokenId()
	case r.GetSessionId() != "":
		return "session:" + r.GetSessionId()
	default:
		return "certificate:" + r.GetCertificateSerial()
	}
}

// revoked is what a watcher who begins now is told first.
func (w *world) revoked(t *testing.T) map[string]int {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := loginv1.NewKeyServiceClient(w.gateway(t)).WatchRevocations(ctx, &loginv1.WatchRevocationsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, r := range first.GetRevocations() {
		seen[nameOf(r)]++
	}
	return seen
}

// Two processes on one database revoke at once, and a watcher of a third misses nothing and hears of nothing twice.
func TestAWatcherMissesNoRevocationOfAnyReplica(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		w := newWorld(t, dsn)
		phone := w.enrol(t)
		const sessions = 8
		var ids []string
		var tokens []string
		for range sessions {
			w.clock.Add(6 * time.Second) // for the limit of attempts
			a := w.logIn(t, phone)
			p, err := w.verify(phone, a.get("access_token"))
			if err != nil {
				t.Fatal(err)
			}
			ids, tokens = append(ids, "session:"+p.Session), append(tokens, a.get("refresh_token"))
		}
		replica := &world{clock: w.clock, mesh: w.mesh, log: w.log}
		replica.start(t, dsn)
		stream, err := loginv1.NewKeyServiceClient(replica.gateway(t)).WatchRevocations(t.Context(), &loginv1.WatchRevocationsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if first, err := stream.Recv(); err != nil || len(first.GetRevocations()) != 0 {
			t.Fatalf("the first message: %v, %v", first, err)
		}
		second := &world{clock: w.clock, mesh: w.mesh, log: w.log}
		second.start(t, dsn)
		var all sync.WaitGroup
		for i, token := range tokens {
			by := []*world{w, second}[i%2]
			all.Go(func() {
				a := by.post(t, phone, "/revoke", map[string][]string{"client_id": {phone.ID()}, "token": {token}})
				want(t, "revoke", a, http.StatusOK, "")
			})
		}
		seen := map[string]int{}
		for len(seen) < sessions {
			message, err := stream.Recv()
			if err != nil {
				t.Fatalf("after %d: %v", len(seen), err)
			}
			for _, r := range message.GetRevocations() {
				seen[nameOf(r)]++
			}
		}
		all.Wait()
		for _, id := range ids {
			if seen[id] != 1 {
				t.Errorf("%s was told %d times", id, seen[id])
			}
		}
		// Another process's revocation is told within a second.
		began := time.Now()
		if _, err := w.customers(t).RevokeDevice(t.Context(), &loginv1.RevokeDeviceRequest{DeviceId: phone.ID()}); err != nil {
			t.Fatal(err)
		}
		message, err := stream.Recv()
		if err != nil || message.GetRevocations()[0].GetCertificateSerial() != fmt.Sprintf("%x", phone.Certificate().SerialNumber) {
			t.Errorf("%v, %v", message, err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestATransactionIsRenewedAsItWasAskedFor(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		w := newWorld(t, dsn)
		phone := w.enrol(t)
		access := w.logIn(t, phone).get("access_token")
		gateway := loginv1.NewTransactionTokenServiceClient(w.gateway(t))
		payments := loginv1.NewTransactionTokenServiceClient(w.mesh.Dial(t, "/payments", "/login", w.addr))
		verifier := txntoken.NewVerifier(w.login.transaction, "bank.test", txntoken.WithClock(w.clock.Now))
		content := map[string]string{"payee": "acc-2", "amount": "100"}
		issued, err := gateway.IssueTransactionToken(t.Context(), &loginv1.IssueTransactionTokenRequest{AccessToken: access, Scope: "transfer", Context: content})
		if err != nil {
			t.Fatal(err)
		}
		first, err := verifier.Verify(t.Context(), issued.GetTransactionToken())
		if err != nil {
			t.Fatal(err)
		}
		w.clock.Add(time.Hour)
		if _, err := verifier.Verify(t.Context(), issued.GetTransactionToken()); err == nil {
			t.Error("a token of an hour ago is good")
		}
		_, err = gateway.IssueTransactionToken(t.Context(), &loginv1.IssueTransactionTokenRequest{AccessToken: access, Scope: "transfer"})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("an access token of an hour ago: %v", err)
		}
		_, err = payments.RenewTransactionToken(t.Context(), &loginv1.RenewTransactionTokenRequest{TransactionId: first.ID})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("with keys that were not read for an hour: %v", err)
		}
		if err := w.login.transaction.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		renewed, err := payments.RenewTransactionToken(t.Context(), &loginv1.RenewTransactionTokenRequest{TransactionId: first.ID})
		if err != nil {
			t.Fatal(err)
		}
		second, err := verifier.Verify(t.Context(), renewed.GetTransactionToken())
		if err != nil {
			t.Fatal(err)
		}
		if second.ID != first.ID || second.Subject != "alice" || second.Scope != "transfer" || fmt.Sprint(second.Context) != fmt.Sprint(content) {
			t.Errorf("renewed: %s of %s for %s with %v", second.ID, second.Subject, second.Scope, second.Context)
		}
		if fmt.Sprint(second.Requesters) != "[spiffe://bank.test/gateway spiffe://bank.test/payments]" {
			t.Errorf("requesters %v", second.Requesters)
		}
		if _, err := payments.IssueTransactionToken(t.Context(), &loginv1.IssueTransactionTokenRequest{AccessToken: access, Scope: "transfer"}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("payments asks for a new one: %v", err)
		}
		for _, id := range []string{"unknown-transaction", "AAAAAAAAAAAAAAAAAAAAAAAAAA"} {
			_, err := payments.RenewTransactionToken(t.Context(), &loginv1.RenewTransactionTokenRequest{TransactionId: id})
			if status.Code(err) != codes.NotFound {
				t.Errorf("%s: %v", id, err)
			}
		}
	})
}

func TestOnlyTransfersAreRenewed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	phone := w.enrol(t)
	issued, err := loginv1.NewTransactionTokenServiceClient(w.gateway(t)).IssueTransactionToken(t.Context(),
		&loginv1.IssueTransactionTokenRequest{AccessToken: w.logIn(t, phone).get("access_token"), Scope: "accounts.read"})
	if err != nil {
		t.Fatal(err)
	}
	token, err := txntoken.NewVerifier(w.login.transaction, "bank.test", txntoken.WithClock(w.clock.Now)).Verify(t.Context(), issued.GetTransactionToken())
	if err != nil {
		t.Fatal(err)
	}
	_, err = loginv1.NewTransactionTokenServiceClient(w.mesh.Dial(t, "/payments", "/login", w.addr)).
		RenewTransactionToken(t.Context(), &loginv1.RenewTransactionTokenRequest{TransactionId: token.ID})
	if status.Code(err) != codes.NotFound {
		t.Errorf("%v", err)
	}
}

// No token may be signed by a key that was not published for as long as a verifier goes without new ones, and each key stays as long as its tokens.
func TestKeysArePublishedBeforeTheySignAndUntilWhatTheySignedIsOver(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		w := newWorld(t, dsn)
		published := map[string]time.Time{} // since when, by kid
		first := ""
		lastSigned := map[string]time.Time{}
		for range 4 * 24 * 4 {
			if err := w.login.access.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			now := w.clock.Now()
			var set struct {
				Keys []struct {
					Kid string `json:"kid"`
				} `json:"keys"`
			}
			if err := json.Unmarshal(w.login.access.Set(), &set); err != nil {
				t.Fatal(err)
			}
			there := map[string]bool{}
			for _, k := range set.Keys {
				there[k.Kid] = true
				if _, ok := published[k.Kid]; !ok {
					published[k.Kid] = now
				}
			}
			signer, err := w.login.access.Signer()
			if err != nil {
				t.Fatal(err)
			}
			if first == "" {
				first = signer.KeyID
			}
			if signer.KeyID != first && now.Sub(published[signer.KeyID]) < 2*time.Hour {
				t.Fatalf("a key signs that was published for %v", now.Sub(published[signer.KeyID]))
			}
			lastSigned[signer.KeyID] = now
			for kid, signed := range lastSigned {
				if !there[kid] && now.Sub(signed) < time.Hour {
					t.Fatalf("a key is withdrawn %v after it signed", now.Sub(signed))
				}
			}
			w.clock.Add(15 * time.Minute)
		}
		if len(lastSigned) < 4 || len(lastSigned) > 5 {
			t.Errorf("%d keys have signed in four days", len(lastSigned))
		}
	})
}

func TestRegisteringCustomers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	for name, test := range map[string]struct {
		id, username, password string
		code                   codes.Code
	}{
		"the same customer":     {"alice", "alice2", testPassword, codes.AlreadyExists},
		"the same user name":    {"alice2", "alice", testPassword, codes.AlreadyExists},
		"a short password":      {"bob", "bob", "short", codes.InvalidArgument},
		"one letter":            {"bob", "bob", "aaaaaaaaaaaaaaaa", codes.InvalidArgument},
		"the user name":         {"benjamin", "benjamin", "benjamin2026", codes.InvalidArgument},
		"a password of control": {"bob", "bob", "correct horse\x07battery", codes.InvalidArgument},
		"a good one":            {"carol", "carol", testPassword, codes.OK},
	} {
		_, err := w.customers(t).RegisterCustomer(t.Context(), &loginv1.RegisterCustomerRequest{CustomerId: test.id, Username: test.username, Password: test.password})
		if status.Code(err) != test.code {
			t.Errorf("%s: %v, want %s", name, err, test.code)
		}
	}
}

// Another customer's password opens nothing on a device that is not theirs.
func TestADeviceIsOfItsCustomer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	phone := w.enrol(t)
	_, err := w.customers(t).RegisterCustomer(t.Context(), &loginv1.RegisterCustomerRequest{CustomerId: "bob", Username: "bob", Password: testPassword})
	if err != nil {
		t.Fatal(err)
	}
	_, err = phone.Login(t.Context(), w.server, "bob", testPassword, "", "transfer")
	if refused, ok := errors.AsType[*device.Error](err); !ok || refused.Code != "invalid_grant" {
		t.Errorf("%v", err)
	}
}
