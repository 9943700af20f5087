// Command audit keeps the mesh's record of who was let in where, and who was not.
//
// The database only grows: the trail is append-only, and nothing is ever deleted from it. To start a new one, stop the service, move the
// file away together with its -wal and -shm files if there are any, and start the service: it makes a new file. The other
// services keep their decisions meanwhile, as far as their queues have room, and what a run sent to the old file shows as a gap at the
// head of the new one.
//
// Each record has a hash over itself and the hash of the one before it (see package pkg/audit/chain), so that countersign audit verify finds
// what somebody changed who can write to the file. Records from before there was a chain stay as they are, and the first one with a hash
// seals them. A trail whose end was cut off is not appended to: the service does not start on it, and a running one stores nothing more and
// says why in its log. Keep such a file, and start a new trail as above.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/audit/trail"
	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/settings"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
	"github.com/countersign-mesh/countersign/services/audit/internal/own"
	"github.com/countersign-mesh/countersign/services/audit/internal/rpc"
	"github.com/countersign-mesh/countersign/services/audit/internal/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, settings.ErrHelp) {
		fmt.Fprintln(os.Stderr, "audit:", err)
		os.Exit(1)
	}
}

type config struct {
	mesh.Flags `embed:""`

	DSN settings.DSN `default:"sqlite:audit.db" help:"Where the audit trail is kept, sqlite:PATH."`
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == "healthcheck" {
		return mesh.Healthcheck(ctx, "audit", args[1:], out)
	}
	var cfg config
	if err := settings.Parse("audit", "Keeps the authorization decisions of every service of the mesh. Whether it is ready: audit healthcheck --help", args, out, &cfg); err != nil {
		return err
	}
	return mesh.Run(ctx, cfg.Flags, func(ctx context.Context, p *mesh.Process) error {
		migrations, err := trail.Migrations()
		if err != nil {
			return err
		}
		db, err := database.Open(ctx, string(cfg.DSN), migrations)
		if err != nil {
			return err
		}
		p.Defer(db.Close)
		p.Ready("database", db.PingContext)
		kept, err := store.New(ctx, db)
		if err != nil {
			return err
		}
		records := own.NewQueue(p.Identity.ID().String(), kept, audit.WithLogger(p.Log))
		if err := p.Metrics.Register(own.NewMetrics(records)); err != nil {
			return fmt.Errorf("register the metrics of the own decisions: %w", err)
		}
		p.Go("audit", records.Run)
		server, err := p.NewServer(mesh.WithRecorder(records))
		if err != nil {
			return err
		}
		auditv1.RegisterAuditServiceServer(server, rpc.New(kept, p.Log))
		return nil
	})
}
