// Command edge lets people in from outside the mesh: with an access token that is bound to the certificate that they connect with, which it exchanges for a
// transaction token for each call that it makes for them.
package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"log"
	"log/slog"
	"net"
	"os"

	"google.golang.org/grpc/credentials"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/edge"
	"github.com/countersign-mesh/countersign/pkg/userauth/jwks"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
)

func main() {
	ctx := context.Background()
	listener, err := net.Listen("tcp", os.Args[1])
	check(err)
	member, err := mesh.Join(ctx, os.Args[2])
	check(err)
	login, err := member.Dial(os.Args[3], "/login")
	check(err)
	// The ledger, and nobody else, gets the transaction tokens.
	ledger, err := member.Dial(os.Args[4], "/ledger", mesh.WithTransactionTokens("bank.ledger.v1.LedgerService"))
	check(err)

	// Which access tokens are good: those of this issuer, for this audience.
	keys := jwks.New(func(ctx context.Context) ([]byte, error) {
		reply, err := loginv1.NewKeyServiceClient(login).GetEdgeKeys(ctx, &loginv1.GetEdgeKeysRequest{})
		return reply.GetAccessTokenKeys(), err
	})
	go func() { check(keys.Run(ctx)) }()
	verifier := userauth.NewVerifier(keys, "https://login.bank.test", "https://bank.test/mobile", userauth.WithLogger(slog.Default()))

	// The certificate that a token must be bound to is the one that its caller connects with. It is of an authority of devices, not of the mesh.
	own, err := edge.OpenCertFile(os.Args[5], os.Args[6], slog.Default())
	check(err)
	authorities, err := os.ReadFile(os.Args[7])
	check(err)
	devices := x509.NewCertPool()
	devices.AppendCertsFromPEM(authorities)
	tls := credentials.NewTLS(edge.TLSConfig(own.Certificate, func() *x509.CertPool { return devices }))

	server, err := member.NewServer()
	check(err)
	door := server.NewEdge(tls, mesh.Interceptors{Unary: userauth.UnaryServerInterceptor(verifier), Stream: userauth.StreamServerInterceptor(verifier)}, subject)
	ledgerv1.RegisterLedgerServiceServer(door, customers{
		ledger: ledgerv1.NewLedgerServiceClient(ledger), tokens: loginv1.NewTransactionTokenServiceClient(login),
	})
	fmt.Println(listener.Addr())
	check(door.Serve(ctx, listener))
}

// subject is whom a call is made for. Nobody gets more than a share of the server.
func subject(ctx context.Context) string {
	customer, ok := userauth.FromContext(ctx)
	if !ok {
		return ""
	}
	return customer.Subject
}

type customers struct {
	ledgerv1.UnimplementedLedgerServiceServer
	ledger ledgerv1.LedgerServiceClient
	tokens loginv1.TransactionTokenServiceClient
}

// GetBalance asks the ledger, with a transaction token that says who wants to know the balance of which account.
func (c customers) GetBalance(ctx context.Context, req *ledgerv1.GetBalanceRequest) (*ledgerv1.GetBalanceResponse, error) {
	if err := userauth.RequireScope(ctx, "accounts.read"); err != nil {
		return nil, err
	}
	customer, _ := userauth.FromContext(ctx)
	issued, err := c.tokens.IssueTransactionToken(ctx, &loginv1.IssueTransactionTokenRequest{
		AccessToken: customer.Token(), Scope: "accounts.read", Context: map[string]string{"account_id": req.GetAccountId()},
	})
	if err != nil {
		return nil, err
	}
	token := txntoken.Received(issued.GetTransactionToken(), issued.GetExpireTime().AsTime())
	return c.ledger.GetBalance(txntoken.NewContext(ctx, token), req)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
