// Command gateway is the bank's door to its customers' phones.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/settings"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	"github.com/countersign-mesh/countersign/services/gateway/internal/rpc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, settings.ErrHelp) {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		stop()
		os.Exit(1)
	}
}

type config struct {
	mesh.Flags `embed:""`

	Audit    settings.Target `required:"" placeholder:"TARGET" help:"The audit service."`
	Accounts settings.Target `required:"" placeholder:"TARGET" help:"The accounts service: whose account is which."`
	Payments settings.Target `required:"" placeholder:"TARGET" help:"The payments service."`
	Ledger   settings.Target `required:"" placeholder:"TARGET" help:"The ledger service: balances and statements."`
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var cfg config
	if err := settings.Parse("gateway", "The bank's door to its customers' phones.", args, out, &cfg); err != nil {
		return err
	}
	return mesh.Run(ctx, cfg.Flags, func(_ context.Context, p *mesh.Process) error {
		retries := mesh.WithServiceConfig(rpc.ServiceConfig)
		accounts, err := p.Dial(cfg.Accounts, "/accounts", retries)
		if err != nil {
			return err
		}
		payments, err := p.Dial(cfg.Payments, "/payments", retries)
		if err != nil {
			return err
		}
		ledger, err := p.Dial(cfg.Ledger, "/ledger", retries)
		if err != nil {
			return err
		}
		records, err := p.AuditTo(cfg.Audit)
		if err != nil {
			return err
		}
		server, err := p.NewServer(mesh.WithRecorder(records))
		if err != nil {
			return err
		}
		mobilev1.RegisterMobileBankServiceServer(server, rpc.New(accounts, payments, ledger, p.Log))
		return nil
	})
}
