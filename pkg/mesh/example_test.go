package mesh_test

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/transport"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

// A server: its identity comes from SPIFFE_ENDPOINT_SOCKET, who may call it from policy.yaml.
func ExampleNewServer() { //nolint:testableexamples // it needs a Workload API
	serve := func(ctx context.Context, listener net.Listener) error {
		id, err := identity.New(ctx)
		if err != nil {
			return err
		}
		defer id.Close()
		conns := transport.NewRegistry(id)
		defer conns.Close()
		policy, err := authz.Open("policy.yaml")
		if err != nil {
			return err
		}
		server, err := mesh.NewServer(conns, policy)
		if err != nil {
			return err
		}
		riskv1.RegisterRiskServiceServer(server, riskv1.UnimplementedRiskServiceServer{})

		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return policy.Watch(ctx) })
		group.Go(func() error { return server.Serve(ctx, listener) })
		return group.Wait()
	}
	listener, err := net.Listen("tcp", ":8443")
	if err == nil {
		err = serve(context.Background(), listener)
	}
	fmt.Fprintln(os.Stderr, err)
}

// A client: whoever answers at the address must be the ledger, by its SPIFFE ID.
func ExampleDial() { //nolint:testableexamples // it needs a Workload API
	cash := func(ctx context.Context) (*ledgerv1.GetBalanceResponse, error) {
		id, err := identity.New(ctx)
		if err != nil {
			return nil, err
		}
		defer id.Close()
		conns := transport.NewRegistry(id)
		defer conns.Close()
		listed, err := authz.Open("policy.yaml") // has to list the ledger for this process
		if err != nil {
			return nil, err
		}
		conn, err := mesh.Dial(conns, listed, "dns:///ledger:8443", spiffeid.RequireFromString("spiffe://bank.test/ledger"))
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		return ledgerv1.NewLedgerServiceClient(conn).GetBalance(ctx, &ledgerv1.GetBalanceRequest{AccountId: "bank-cash"})
	}
	fmt.Println(cash(context.Background()))
}

// A program with a life of its own joins the mesh in one step, and has servers and clients from then on.
func ExampleJoin() { //nolint:testableexamples // it needs a Workload API
	serve := func(ctx context.Context, listener net.Listener) error {
		member, err := mesh.Join(ctx, "policy.yaml")
		if err != nil {
			return err
		}
		defer member.Close()
		server, err := member.NewServer()
		if err != nil {
			return err
		}
		riskv1.RegisterRiskServiceServer(server, riskv1.UnimplementedRiskServiceServer{})
		return server.Serve(ctx, listener)
	}
	listener, err := net.Listen("tcp", ":8443")
	if err == nil {
		err = serve(context.Background(), listener)
	}
	fmt.Fprintln(os.Stderr, err)
}
