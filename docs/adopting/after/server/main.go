// Command server is the same server in the mesh: it proves who it is, and the policy says who may call it.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
)

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	check(err)
	member, err := mesh.Join(context.Background(), os.Args[2])
	check(err)
	server, err := member.NewServer()
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
