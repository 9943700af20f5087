package device_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
)

// TestACallWithoutATokenSaysWhatToDo makes calls of a session that has no token that is fresh, and cannot get one.
func TestACallWithoutATokenSaysWhatToDo(t *testing.T) {
	t.Parallel()
	bank := dialBank(t)
	for name, c := range map[string]struct {
		server func(*server)
		within time.Duration
		want   codes.Code
	}{
		"the caller's time is up":         {func(*server) {}, 50 * time.Millisecond, codes.DeadlineExceeded},
		"the authorization server is cut": {func(s *server) { s.drop = 2 }, time.Minute, codes.Unavailable},
		"it asks for patience":            {func(s *server) { s.refuse = "slow_down" }, time.Minute, codes.Unavailable},
		"the session has ended":           {func(s *server) { s.refuse = "invalid_grant" }, time.Minute, codes.Unauthenticated},
		"a token comes":                   {func(*server) {}, time.Minute, codes.Unimplemented}, // the bank has no such method
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.expires = 10 // too little to use
			_, session := login(t, s)
			s.set(c.server)
			ctx, cancel := context.WithTimeout(t.Context(), c.within)
			defer cancel()
			if c.want == codes.DeadlineExceeded {
				s.mu.Lock() // it does not answer
				defer s.mu.Unlock()
			}
			_, err := bank.Check(ctx, &healthgrpc.HealthCheckRequest{}, grpc.PerRPCCredentials(session.PerRPC()))
			if status.Code(err) != c.want {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// dialBank is connected with a server that has no methods, over TLS.
func dialBank(t *testing.T) healthgrpc.HealthClient {
	t.Helper()
	authority := userauthtest.NewAuthority(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{authority.Server(t)}})))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: authority.Pool(), ServerName: "localhost",
	})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	bank := healthgrpc.NewHealthClient(conn)
	// The connection is there before the calls that are tested, whose time would be spent on it.
	if _, err := bank.Check(t.Context(), &healthgrpc.HealthCheckRequest{}, grpc.WaitForReady(true)); status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
	return bank
}
