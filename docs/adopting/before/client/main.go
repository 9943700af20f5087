// Command client is an ordinary gRPC client, as it is before it joins the mesh: it believes whoever answers.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	defer conn.Close()
	reply, err := ledgerv1.NewLedgerServiceClient(conn).GetBalance(ctx, &ledgerv1.GetBalanceRequest{AccountId: os.Args[2]})
	check(err)
	fmt.Println(reply.GetBalances())
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
