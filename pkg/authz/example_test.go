package authz_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/authz"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

const exampleText = `trust_domain: bank.test
services:
  bank.ledger.v1.LedgerService:
    methods:
      PostTransfer:
        allow:
          - {peer: /payments, when: "size(request.postings) == 2"}
`

// exampleFile opens a policy file, without a log.
func exampleFile() (path string, file *authz.File, remove func(), err error) {
	dir, err := os.MkdirTemp("", "policy")
	if err != nil {
		return "", nil, nil, err
	}
	path = filepath.Join(dir, "bank.yaml")
	if err := os.WriteFile(path, []byte(exampleText), 0o600); err != nil {
		return "", nil, nil, err
	}
	file, err = authz.Open(path, authz.WithFileLogger(slog.New(slog.DiscardHandler)))
	return path, file, func() { _ = os.RemoveAll(dir) }, err
}

// A file is followed while it changes. Changed tells when the next policy is in force.
func ExampleFile() {
	path, file, remove, err := exampleFile()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer remove()
	ctx, stop := context.WithCancel(context.Background())
	watched := make(chan error)
	go func() { watched <- file.Watch(ctx) }()

	before, changed := file.Policy().Version(), file.Changed()
	if err := os.WriteFile(path, []byte(strings.Replace(exampleText, "/payments", "/treasury", 1)), 0o600); err != nil {
		fmt.Println(err)
	}
	<-changed
	fmt.Println("another version:", file.Policy().Version() != before)
	stop()
	fmt.Println(<-watched)
	// Output:
	// another version: true
	// <nil>
}

// printer is a recorder that prints.
type printer struct{}

func (printer) Record(d audit.Decision) {
	fmt.Printf("recorded: %s allowed=%t rule=%q\n", d.PeerID, d.Allowed, d.Rule)
}

// A Guard is two interceptors and an admission, which package mesh puts in their place in a server. Here the unary one is called as gRPC does.
func ExampleNewGuard() {
	_, file, remove, err := exampleFile()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer remove()
	guard := authz.NewGuard(file, authz.WithRecorder(printer{}), authz.WithLogger(slog.New(slog.DiscardHandler)))
	ctx := callFrom(spiffeid.RequireFromString("spiffe://bank.test/payments"))
	handler := func(context.Context, any) (any, error) { return nil, nil }
	for _, postings := range []int{2, 3} {
		request := &ledgerv1.PostTransferRequest{Postings: make([]*ledgerv1.Posting, postings)}
		_, err := guard.Unary()(ctx, request, &grpc.UnaryServerInfo{FullMethod: ledgerv1.LedgerService_PostTransfer_FullMethodName}, handler)
		fmt.Println(status.Code(err) == codes.OK)
	}
	// Output:
	// recorded: spiffe://bank.test/payments allowed=true rule="bank.yaml:7"
	// true
	// recorded: spiffe://bank.test/payments allowed=false rule=""
	// false
}
