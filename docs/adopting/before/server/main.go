// Command server is an ordinary gRPC server, as it is before it joins the mesh: whoever reaches its port may call it.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"

	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
)

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	check(err)
	server := grpc.NewServer()
	ledgerv1.RegisterLedgerServiceServer(server, ledger{})
	fmt.Println(listener.Addr())
	check(server.Serve(listener))
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
