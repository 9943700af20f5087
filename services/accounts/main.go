// Command accounts keeps the bank's register of accounts.
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
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	"github.com/countersign-mesh/countersign/services/accounts/internal/books"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
	"github.com/countersign-mesh/countersign/services/accounts/internal/rpc"
	"github.com/countersign-mesh/countersign/services/accounts/internal/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, settings.ErrHelp) {
		fmt.Fprintln(os.Stderr, "accounts:", err)
		stop()
		os.Exit(1)
	}
}

type config struct {
	mesh.Flags `embed:""`

	DSN    settings.DSN    `default:"sqlite:accounts.db" help:"Where the register is kept, sqlite:PATH or postgres://USER@HOST:5432/DATABASE."`
	Audit  settings.Target `required:"" placeholder:"TARGET" help:"The audit service."`
	Ledger settings.Target `required:"" placeholder:"TARGET" help:"The ledger service, asked for the balance before an account is closed."`
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var cfg config
	if err := settings.Parse("accounts", "Keeps the bank's register of accounts.", args, out, &cfg); err != nil {
		return err
	}
	return mesh.Run(ctx, cfg.Flags, func(ctx context.Context, p *mesh.Process) error {
		accounts, err := store.Open(ctx, string(cfg.DSN))
		if err != nil {
			return err
		}
		p.Defer(accounts.Close)
		p.Ready("database", accounts.Ping)
		ledger, err := p.Dial(cfg.Ledger, "/ledger", mesh.WithServiceConfig(books.ServiceConfig))
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
		accountsv1.RegisterAccountServiceServer(server, rpc.New(register.New(accounts, accounts, accounts, books.New(ledger)), p.Log))
		return nil
	})
}
