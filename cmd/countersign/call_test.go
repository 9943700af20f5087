package main

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// patient is a server whose calls end only when their callers give up. It says when one was begun.
type patient struct {
	ledgerv1.UnimplementedLedgerServiceServer
	paymentsv1.UnimplementedPaymentServiceServer
	begun chan struct{}
}

func (p patient) CheckTrialBalance(ctx context.Context, _ *ledgerv1.CheckTrialBalanceRequest) (*ledgerv1.CheckTrialBalanceResponse, error) {
	close(p.begun)
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func (p patient) WatchPayments(_ *paymentsv1.WatchPaymentsRequest, stream grpc.ServerStreamingServer[paymentsv1.WatchPaymentsResponse]) error {
	if err := stream.Send(&paymentsv1.WatchPaymentsResponse{Cursor: "one"}); err != nil {
		return err
	}
	close(p.begun)
	<-stream.Context().Done()
	return context.Cause(stream.Context())
}

func TestACallThatDidNotEndByItselfFailsUnlessItIsAStreamAndCtrlCEndedIt(t *testing.T) {
	t.Parallel()
	account := `{"account_id": "acc-` + strings.Repeat("a", 26) + `"}`
	for name, test := range map[string]struct {
		method    string
		data      string
		timeout   time.Duration
		interrupt bool
		want      codes.Code
	}{
		"a stream that is interrupted":        {"WatchPayments", account, 0, true, codes.OK},
		"the same one with time left":         {"WatchPayments", account, time.Hour, true, codes.OK},
		"a stream that takes too long":        {"WatchPayments", account, 300 * time.Millisecond, false, codes.DeadlineExceeded},
		"a single answer, interrupted":        {"CheckTrialBalance", "", 0, true, codes.Canceled},
		"a single answer that takes too long": {"CheckTrialBalance", "", 300 * time.Millisecond, false, codes.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := meshtest.Open(t, "bank.test", filepath.Join("..", "..", "deploy", "policy", "bank.yaml"))
			m.Identity(t, "/operator")
			socket := m.API(t, "/operator").Addr()
			bank := patient{begun: make(chan struct{})}
			address := m.Serve(t, "/ledger", func(s grpc.ServiceRegistrar) {
				ledgerv1.RegisterLedgerServiceServer(s, bank)
				paymentsv1.RegisterPaymentServiceServer(s, bank)
			}, meshtest.WithoutUsers())
			dir, err := rundir.At(filepath.Join(t.TempDir(), "run"))
			if err != nil {
				t.Fatal(err)
			}
			ctx, interrupt := context.WithCancel(t.Context())
			var group sync.WaitGroup
			defer group.Wait()
			defer interrupt()
			if test.interrupt {
				group.Go(func() {
					select {
					case <-bank.begun:
						interrupt()
					case <-ctx.Done():
					}
				})
			}
			to := server{Addr: address, Expect: "/ledger"}
			command := callCommand{
				Method: test.method, Data: test.data, Wait: test.timeout,
				server: to, workload: workload{Socket: socket},
			}
			err = command.Run(ctx, &session{dir: dir, mesh: site.Finder{Dir: dir}, stdout: io.Discard})
			got := codes.OK
			if failed, ok := errors.AsType[*dial.StatusError](err); ok {
				got = failed.Status.Code()
			} else if err != nil {
				t.Fatalf("the error is %v", err)
			}
			if got != test.want {
				t.Errorf("the call ended with %v (%v), want %v", got, err, test.want)
			}
		})
	}
}
