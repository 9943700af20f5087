package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

// busy is a phone that watches an account over gRPC and over REST, and asks over both, all on connections that stay open.
type busy struct {
	phone   *bank.Phone
	watches map[string]*watch
	calling *bank.Callers
}

// beBusy starts all that and waits until something has come on each way.
func beBusy(t *testing.T, phone *bank.Phone, account string) *busy {
	t.Helper()
	b := &busy{phone: phone, watches: make(map[string]*watch), calling: bank.NewCallers(t)}
	stream, err := phone.Bank().WatchActivity(t.Context(), &mobilev1.WatchActivityRequest{AccountId: account})
	if err != nil {
		t.Fatal(err)
	}
	b.watches["gRPC"] = newWatch(func() error { _, err := stream.Recv(); return err })
	b.watches["REST"] = newWatch(lines(t, phone, "/v1/accounts/"+account+"/activity"))
	b.calling.Add(t.Context(), func(ctx context.Context, _ string, _ int) error {
		_, err := phone.Bank().ListAccounts(ctx, &mobilev1.ListAccountsRequest{})
		return err
	}, "gRPC")
	client := phone.HTTP(t)
	b.calling.Add(t.Context(), func(ctx context.Context, _ string, _ int) error { return get(ctx, client, phone.URL("/v1/accounts")) }, "REST")
	bank.Eventually(t, 20*time.Second, func() string {
		for door, w := range b.watches {
			if err := w.ended(); err != nil {
				return fmt.Sprintf("the watch over %s has ended: %v", door, err)
			}
			outcomes := b.calling.Outcomes(door)
			if w.last().IsZero() || len(outcomes) == 0 || outcomes[len(outcomes)-1].Err != nil {
				return fmt.Sprintf("nothing has come over %s:\n%s", door, bank.Describe(outcomes[max(0, len(outcomes)-1):]))
			}
		}
		return ""
	})
	return b
}

// lines opens a stream over REST and returns what reads from it, a line a message.
func lines(t *testing.T, phone *bank.Phone, path string) func() error {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, phone.URL(path), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := phone.HTTP(t)
	client.Timeout = 0
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() }) // cut, perhaps
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, response.Status)
	}
	reader := bufio.NewReader(response.Body)
	return func() error { _, err := reader.ReadString('\n'); return err }
}

// get is a request over REST whose answer matters not.
func get(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	_, err = problemOf(response)
	if errors.Is(err, errCutOff) {
		return status.Error(codes.Unavailable, err.Error())
	}
	if err != nil {
		return err
	}
	switch response.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized:
		return status.Error(codes.Unauthenticated, response.Status)
	default:
		return status.Error(codes.Unknown, response.Status)
	}
}

// ends waits until everything that the phone does has ended, and returns how long after a moment the last message and the last answer came.
func (b *busy) ends(t *testing.T, moment time.Time) time.Duration {
	t.Helper()
	bank.Eventually(t, promise+time.Second, func() string {
		for door, w := range b.watches {
			if w.ended() == nil {
				return fmt.Sprintf("the watch over %s goes on after %v", door, time.Since(moment))
			}
			if len(bank.Failures(b.calling.Outcomes(door))) == 0 {
				return fmt.Sprintf("calls over %s go on being answered after %v", door, time.Since(moment))
			}
		}
		return ""
	})
	b.calling.Stop()
	var last time.Duration
	for door, w := range b.watches {
		last = max(last, w.last().Sub(moment))
		answered := 0
		for _, o := range b.calling.Outcomes(door) {
			if o.Err == nil {
				last = max(last, o.End.Sub(moment))
				if o.Begin.Sub(moment) > promise {
					answered++
				}
			} else if code := status.Code(o.Err); code != codes.Unauthenticated && code != codes.Unavailable {
				t.Errorf("over %s: a call failed with %v", door, o.Err)
			}
		}
		if answered > 0 {
			t.Errorf("over %s: %d calls were answered later than %v after the revocation", door, answered, promise)
		}
	}
	if last > promise {
		t.Errorf("the last message or answer came %v after the revocation", last)
	}
	return last
}

// goesOn fails the test if anything of the phone's has failed.
func (b *busy) goesOn(t *testing.T, who string) {
	t.Helper()
	for door, w := range b.watches {
		if err := w.ended(); err != nil {
			t.Errorf("%s: the watch over %s has ended: %v", who, door, err)
		}
	}
	if failed := bank.Failures(b.calling.Outcomes()); len(failed) > 0 {
		t.Errorf("%s: %d calls have failed:\n%s", who, len(failed), bank.Describe(failed))
	}
}

// TestDeviceRevoked revokes one of a customer's two phones while both watch and ask, over gRPC and REST: within a second it is cut and refused everywhere,
// and the other one notices nothing. ATTACKS 37, for devices.
func TestDeviceRevoked(t *testing.T) {
	home := dist.NewHome(t)
	untiring(t, home)
	mesh := home.Apart(t)
	mesh.StartAll(t)
	operator := mesh.Identity(t, "operator")
	devices := loginv1.NewCustomerServiceClient(mesh.Dial(t, operator, "login"))
	alice := openFor(t, mesh, operator, 1, 1_000_000)[0]
	feeding := feed(t, alice)
	kept := beBusy(t, alice.phone, alice.account)
	var all []time.Duration
	for range rounds(2, 10) {
		stolen := alice.phone.Another(t)
		token, err := stolen.Session.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		thief := beBusy(t, stolen, alice.account)
		revoked := time.Now()
		if _, err := devices.RevokeDevice(t.Context(), &loginv1.RevokeDeviceRequest{DeviceId: stolen.Device.ID()}); err != nil {
			t.Fatal(err)
		}
		all = append(all, thief.ends(t, revoked))
		for _, door := range doors() {
			if got, said := door.list(t, stolen.Edge, stolen.TLS(), []string{"Bearer " + token}); got == letInside {
				t.Errorf("%s: a revoked device is let in on a new connection: %s", door.name, said)
			}
			// With another device's certificate its token is none the better.
			if got, said := door.list(t, stolen.Edge, alice.phone.TLS(), []string{"Bearer " + token}); got != notBelieved {
				t.Errorf("%s: a revoked device's token with another device: %s, %s", door.name, got, said)
			}
		}
		if err := stolen.TryLogIn(t.Context()); err == nil {
			t.Error("a revoked device has logged in again")
		}
		kept.goesOn(t, "the phone that was kept")
	}
	kept.goesOn(t, "the phone that was kept")
	kept.calling.Stop()
	if failed := bank.Failures(feeding.Stop()); len(failed) > 0 {
		t.Errorf("%d payments of the phone that was kept have failed:\n%s", len(failed), bank.Describe(failed))
	}
	t.Logf("from the revocation of a device to its last message or answer: %s", spread(all))
}

// TestSessionRevoked logs a phone out while it watches and asks (RFC 7009): the session's tokens are refused within a second, and the same device's other
// session goes on.
func TestSessionRevoked(t *testing.T) {
	home := dist.NewHome(t)
	untiring(t, home)
	mesh := home.Apart(t)
	mesh.StartAll(t)
	alice := openFor(t, mesh, mesh.Identity(t, "operator"), 1, 1_000_000)[0]
	feeding := feed(t, alice)
	other := *alice.phone
	other.LogIn(t, alice.phone.Edge, false)
	goes := beBusy(t, &other, alice.account)
	token, err := other.Session.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	revoked := time.Now()
	if err := other.Session.Revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	took := goes.ends(t, revoked)
	for _, door := range doors() {
		if got, said := door.list(t, other.Edge, other.TLS(), []string{"Bearer " + token}); got != notBelieved {
			t.Errorf("%s: a token of a session that was revoked: %s, %s", door.name, got, said)
		}
	}
	// Nor does a gateway that is started afterwards believe it, which has to be told first.
	mesh.Kill(t, "gateway")
	mesh.Start(t, "gateway")
	for _, door := range doors() {
		if got, said := door.list(t, other.Edge, other.TLS(), []string{"Bearer " + token}); got != notBelieved {
			t.Errorf("%s: after a restart of the gateway: %s, %s", door.name, got, said)
		}
	}
	for _, o := range bank.Failures(feeding.Stop()) {
		if status.Code(o.Err) != codes.Unavailable { // while the gateway was away
			t.Errorf("a payment of the other session has failed: %v", o.Err)
		}
	}
	t.Logf("from the revocation of a session to its last message or answer: %v", took)
}
