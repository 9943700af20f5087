// Command server is the server in the mesh once it asks for users too: beside the peer, a call needs a transaction token that says for whom and for what it is made.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/userauth/jwks"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
)

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	check(err)
	member, err := mesh.Join(context.Background(), os.Args[2])
	check(err)
	login, err := member.Dial(os.Args[3], "/login")
	check(err)
	keys := jwks.New(func(ctx context.Context) ([]byte, error) {
		reply, err := loginv1.NewKeyServiceClient(login).GetTransactionKeys(ctx, &loginv1.GetTransactionKeysRequest{})
		return reply.GetKeys(), err
	})
	go func() { check(keys.Run(context.Background())) }()
	server, err := member.NewServer(mesh.WithUsers(txntoken.NewVerifier(keys, "bank.test")))
	check(err)
	ledgerv1.RegisterLedgerServiceServer(server, ledger{})
	fmt.Println(listener.Addr())
	check(server.Serve(context.Background(), listener))
}

type ledger struct {
	ledgerv1.UnimplementedLedgerServiceServer
}

func (ledger) GetBalance(context.Context, *ledgerv1.GetBalanceRequest) (*ledgerv1.GetBalanceResponse, error) {
	return &ledgerv1.GetBalanceResponse{Balances: []*moneyv1.Money{{CurrencyCode: "EUR", MinorUnits: 2500}}}, nil
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
