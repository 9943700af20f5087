// Command client is the same client in the mesh: it proves who it is, and speaks to the one server that it means.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	member, err := mesh.Join(ctx, os.Args[3])
	check(err)
	conn, err := member.Dial(os.Args[1], "/ledger")
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
