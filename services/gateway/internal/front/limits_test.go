package front_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
)

// ATTACKS 52: what a device can take of the gateway is limited, over both doors.
func TestADeviceCanTakeNoMoreThanTheLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone(t, w.alice)
	good := "Bearer " + w.token(t, nil)
	ctx := with(t.Context(), []string{good})

	long := &mobilev1.TransferRequest{Reference: strings.Repeat("x", 70_000), Amount: &moneyv1.Money{}}
	if _, err := p.client.Transfer(ctx, long); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("gRPC: a message of 70 KB: %v", err)
	}
	if _, err := p.client.ListAccounts(with(t.Context(), []string{good}, "x-long", strings.Repeat("x", 20_000)), &mobilev1.ListAccountsRequest{}); err == nil {
		t.Error("gRPC: headers of 20 KB are taken")
	}
	header := bearer(w.token(t, nil))
	header.Set("X-Long", strings.Repeat("x", 40_000))
	response := p.request(t, http.MethodGet, "/v1/accounts", header, "") //nolint:bodyclose // request has it closed
	if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("REST: headers of 40 KB: %d", response.StatusCode)
	}

	// One customer holds 32 watches, over whatever door.
	watching, leave := context.WithCancel(ctx)
	defer leave()
	for range 32 {
		stream, err := p.client.WatchActivity(watching, &mobilev1.WatchActivityRequest{AccountId: aliceAccount})
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	got, head, _ := p.fetch(t, http.MethodGet, "/v1/accounts/"+aliceAccount+"/activity", bearer(w.token(t, nil)), "")
	if got.reason != "CUSTOMER_RATE_EXCEEDED" || head.Header.Get("Retry-After") != "5" {
		t.Errorf("one watch more: %+v %s", got, head.Header)
	}
	leave()
	eventually(t, "a watch is let in when others have ended", func() bool {
		//nolint:bodyclose // request has it closed
		return p.request(t, http.MethodGet, "/v1/accounts/"+aliceAccount+"/activity", bearer(w.token(t, nil)), "").StatusCode == http.StatusOK
	})
}

// ATTACKS 52: a request over REST that becomes no call is one of the customer's too, and beyond the limit no body is read.
func TestARequestThatIsRefusedIsOneOfTheCustomers(t *testing.T) {
	t.Parallel()
	w := worldWith(t, func(w *world) { w.limits.Rate, w.limits.Burst = 1, 6 })
	client := &rawClient{world: w}
	authorization := func(customer string) string {
		return "Authorization: Bearer " + w.token(t, userauthtest.Claims{"sub": customer}) + "\r\n"
	}
	// exceed sends a request until there were too many, and says how the ones before were answered.
	exceed := func(verb, target, header string) (before int) {
		for range 40 { // the machine may be slow
			response, told := client.ask(t, verb, target, header)
			if told.Code == "CUSTOMER_RATE_EXCEEDED" && response.StatusCode == http.StatusTooManyRequests && response.Header.Get("Retry-After") == "1" {
				return before
			}
			before = response.StatusCode
		}
		t.Errorf("%s %s: there are never too many", verb, target)
		return before
	}
	for name, c := range map[string]struct {
		verb, target string
		status       int
	}{
		"no such path":           {"GET", "/v1/nothing", 404},
		"another verb":           {"DELETE", "/v1/accounts", 405},
		"a path that is unclean": {"GET", "//v1/accounts", 404},
		"a bad query":            {"GET", "/v1/accounts?pageSize=x", 400},
		"a body for no path":     {"POST", "/v1/nothing", 404},
	} {
		if got := exceed(c.verb, c.target, authorization("of "+name)); got != c.status {
			t.Errorf("%s: %d before there were too many", name, got)
		}
	}
	for attempt := range 5 { // until no second has passed between
		header := authorization("bob")
		exceed(http.MethodGet, "/v1/nothing", header)
		conn := w.dial(t, "http/1.1")
		if _, err := io.WriteString(conn, "POST /v1/transfers HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n"+header+"\r\n"); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode == http.StatusTooManyRequests {
			break
		}
		if attempt == 4 {
			t.Errorf("a body that is not sent is waited for: %s", response.Status)
		}
	}
}

// ATTACKS 52: and so is a call over gRPC that the token is not good for.
func TestACallWithTooLittleScopeIsOneOfTheCustomers(t *testing.T) {
	t.Parallel()
	w := worldWith(t, func(w *world) { w.limits.Rate, w.limits.Burst = 1, 6 })
	p := w.phone(t, w.alice)
	without := "Bearer " + w.token(t, userauthtest.Claims{"scope": "transfer"})
	var before string
	for range 40 { // the machine may be slow
		_, err := p.client.ListAccounts(with(t.Context(), []string{without}), &mobilev1.ListAccountsRequest{})
		got := told(err)
		if got.reason == "CUSTOMER_RATE_EXCEEDED" {
			if before != "INSUFFICIENT_SCOPE" {
				t.Errorf("before there were too many: %q", before)
			}
			return
		}
		before = got.reason
	}
	t.Errorf("there are never too many; the last was %s", before)
}

// A stranger who connects and says nothing, and a watch without an end, hold up no drain; a watch is told to go elsewhere.
func TestADrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone(t, w.alice)
	for _, address := range []string{w.grpcAddr, w.restAt} {
		silent, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = silent.Close() })
	}
	open := p.watches(t, w.token(t, nil))
	began := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- w.stop() }()
	for door, watch := range open {
		if err := watch.next(); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: a watch ends with %v", door, err)
		}
	}
	if err := <-stopped; err != nil || time.Since(began) > 3*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if _, err := p.client.ListAccounts(t.Context(), &mobilev1.ListAccountsRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("afterwards: %v", err)
	}
}

// Without a certificate, with another authority's, or over an older TLS, nobody gets as far as to ask.
func TestWhoConnects(t *testing.T) {
	t.Parallel()
	w, elsewhere := newWorld(t), newWorld(t)
	for name, config := range map[string]*tls.Config{
		"no certificate":      {},
		"another authority's": {GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &elsewhere.alice, nil }},
		"TLS 1.2":             {MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{w.alice}},
	} {
		config.RootCAs, config.ServerName, config.NextProtos = w.login.devices.Pool(), "localhost", []string{"h2", "http/1.1"}
		for door, address := range map[string]string{"gRPC": w.grpcAddr, "REST": w.restAt} {
			conn, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", address)
			if err != nil {
				continue
			}
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.ReadFull(conn, make([]byte, 9)); err == nil { // a frame of HTTP/2: the server has begun to speak
				t.Errorf("%s: %s is let in", door, name)
			}
			_ = conn.Close()
		}
	}
}

// Before it was heard what is revoked, a stolen phone would be let in; so nobody is, at either door.
func TestNobodyIsLetInBeforeItIsKnownWhatIsRevoked(t *testing.T) {
	t.Parallel()
	w := worldWith(t, func(w *world) { w.login.hush = make(chan struct{}) })
	eventually(t, "there are keys", func() bool { return w.believed.Keys().Ready() == nil })
	letIn := func(address string) bool {
		config := &tls.Config{
			MinVersion: tls.VersionTLS13, RootCAs: w.login.devices.Pool(), ServerName: "localhost", NextProtos: []string{"h2"}, Certificates: []tls.Certificate{w.alice},
		}
		conn, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", address)
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00") // RFC 9113 §3.4
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err = io.ReadFull(conn, make([]byte, 9)) // a frame of HTTP/2: the server has begun to speak
		return err == nil
	}
	doors := map[string]string{"gRPC": w.grpcAddr, "REST": w.restAt}
	for door, address := range doors {
		if letIn(address) {
			t.Errorf("%s: a device is let in before it is known what is revoked", door)
		}
	}
	close(w.login.hush)
	w.ready(t)
	for door, address := range doors {
		if !letIn(address) {
			t.Errorf("%s: a device is not let in afterwards", door)
		}
	}
}
