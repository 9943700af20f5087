package userauth_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/edge"
	"github.com/countersign-mesh/countersign/pkg/userauth/jwks"
)

// A server of customers' devices over gRPC and HTTP, with one verifier for both. A device that is revoked is refused, and cut where it is connected.
func Example() {
	keys := jwks.New(fetchKeys) // beside it, keys.Run is to run
	revoked := new(userauth.Revocations)
	verifier := userauth.NewVerifier(keys, "https://login.bank.test", "https://bank.test/mobile", userauth.WithRevocations(revoked))

	var conns edge.Conns // and conns.Follow
	config := edge.TLSConfig(ownCertificate, deviceAuthorities, edge.WithConns(&conns), edge.WithRevocations(revoked))

	overGRPC := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(config)),
		grpc.UnaryInterceptor(userauth.UnaryServerInterceptor(verifier)),
		grpc.StreamInterceptor(userauth.StreamServerInterceptor(verifier)))
	defer overGRPC.Stop() // it serves what conns.Listener makes of a listener

	overHTTP := &http.Server{
		Handler: userauth.Middleware(verifier, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := userauth.RequireScope(r.Context(), "accounts.read"); err != nil {
				userauth.WriteProblem(w, err)
				return
			}
			customer, _ := userauth.FromContext(r.Context())
			fmt.Fprintf(w, "the accounts of %s", customer.Subject)
		})),
		ReadHeaderTimeout: 5 * time.Second,
	}
	fmt.Println(overHTTP.Close()) // this one serves a tls.NewListener of that
	// Output: <nil>
}

// A transfer of a large sum asks for a customer who has shown a one-time code. The client of one who has not is told so, and comes again with a token
// of one who has.
func ExampleRequireACR() {
	customer := &userauth.Principal{Subject: "alice", ACR: "urn:bank:acr:1"}
	err := userauth.RequireACR(userauth.NewContext(context.Background(), customer), "urn:bank:acr:2")
	e, _ := userauth.FromError(err)
	fmt.Println(e.HTTPStatus(), e.GRPCStatus().Code())
	fmt.Println(e.Challenge())
	// Output:
	// 401 Unauthenticated
	// Bearer realm="countersign", error="insufficient_user_authentication", error_description="a different authentication level is required", acr_values="urn:bank:acr:2"
}

// These stand for what a program has from elsewhere: its authorization server, a file, a configuration.
func fetchKeys(context.Context) ([]byte, error) { return []byte(`{"keys":[]}`), nil }

func ownCertificate() (*tls.Certificate, error) { return new(tls.Certificate), nil }

func deviceAuthorities() *x509.CertPool { return x509.NewCertPool() }
