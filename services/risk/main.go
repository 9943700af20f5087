// Command risk says whether a payment may go through.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/settings"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
	"github.com/countersign-mesh/countersign/services/risk/internal/rpc"
	"github.com/countersign-mesh/countersign/services/risk/internal/rules"
	"github.com/countersign-mesh/countersign/services/risk/internal/store"
	"github.com/countersign-mesh/countersign/services/risk/internal/store/migrations"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, settings.ErrHelp) {
		fmt.Fprintln(os.Stderr, "risk:", err)
		stop()
		os.Exit(1)
	}
}

type config struct {
	mesh.Flags `embed:""`

	Rules settings.File   `required:"" placeholder:"FILE" help:"The rules file: amount ceilings, velocity, blocked payees; watched, reloaded."`
	DSN   settings.DSN    `default:"sqlite:risk.db" placeholder:"DSN" help:"Where assessed payments are remembered: sqlite:PATH or postgres://USER@HOST:5432/DATABASE."`
	Audit settings.Target `required:"" placeholder:"TARGET" help:"The audit service, such as dns:///audit:8443."`
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == "healthcheck" {
		return mesh.Healthcheck(ctx, "risk", args[1:], out)
	}
	var cfg config
	if err := settings.Parse("risk", "Says whether a payment may go through. Whether it is ready: risk healthcheck --help", args, out, &cfg); err != nil {
		return err
	}
	file, err := rules.Open(string(cfg.Rules))
	if err != nil {
		return err
	}
	return mesh.Run(ctx, cfg.Flags, func(ctx context.Context, p *mesh.Process) error {
		p.Go("rules", func(ctx context.Context) error { return file.Watch(ctx, p.Log) })
		if err := p.Metrics.Register(rules.NewMetrics(file)); err != nil {
			return fmt.Errorf("register the metrics of the rules: %w", err)
		}
		p.Log.InfoContext(ctx, "rules are in force", "file", string(cfg.Rules), "version", file.Rules().Version)
		db, err := database.Open(ctx, string(cfg.DSN), migrations.FS)
		if err != nil {
			return err
		}
		p.Defer(db.Close)
		p.Ready("database", db.PingContext)
		records, err := p.AuditTo(cfg.Audit)
		if err != nil {
			return err
		}
		s, err := p.NewServer(mesh.WithRecorder(records))
		if err != nil {
			return err
		}
		riskv1.RegisterRiskServiceServer(s, rpc.New(file, store.New(db), p.Log))
		return nil
	})
}
