// Command authority is the SPIFFE Workload API and the signing authority of one trust domain on one machine.
//
// It knows its callers in two ways. On the one socket of --socket everybody may call, and who calls is known by the kernel's word on the
// process: its uid and its executable. Of the sockets below --sockets each stands for one name, and who calls is whom that socket was
// given to; that is for containers. Either can be had alone, or both at once, from one registration file.
//
// `authority healthcheck` asks an authority that runs whether it is ready.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/ops"
	"github.com/countersign-mesh/countersign/pkg/settings"
	"github.com/countersign-mesh/countersign/services/authority/internal/ca"
	"github.com/countersign-mesh/countersign/services/authority/internal/registration"
	"github.com/countersign-mesh/countersign/services/authority/internal/workload"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, settings.ErrHelp) {
		fmt.Fprintln(os.Stderr, "authority:", err)
		os.Exit(1)
	}
}

// run is the authority's life: it returns nil after ctx has ended and all that it started has, too.
func run(ctx context.Context, args []string, out, logs io.Writer) error {
	if len(args) > 0 && args[0] == "healthcheck" {
		return ops.Healthcheck(ctx, "authority", opsListen, args[1:], out)
	}
	var cfg config
	if err := settings.Parse("authority", description, args, out, &cfg); err != nil {
		return err
	}
	if err := cfg.check(); err != nil {
		return err
	}
	log := settings.NewLogger(logs, cfg.LogLevel, cfg.LogFormat)
	td, err := spiffeid.TrustDomainFromString(string(cfg.TrustDomain))
	if err != nil {
		return err
	}
	entries, err := registration.Open(string(cfg.Entries), td, log)
	if err != nil {
		return err
	}
	p, err := newProcess(ctx, string(cfg.OpsListen), log)
	if err != nil {
		return err
	}
	defer p.closeOps()
	authority, err := ca.Open(cfg.StateDir, cfg.authority(td), ca.WithLogger(log))
	if err != nil {
		return err
	}
	p.ready("authority", func(context.Context) error {
		_, _, err := authority.Expiry()
		return err
	})
	server, err := workload.New(authority, entries, workload.WithLogger(log), workload.WithMetrics(p.metrics))
	if err != nil {
		return errors.Join(err, authority.Close())
	}
	workers, err := listen(ctx, cfg, p, server, entries)
	if err != nil {
		return errors.Join(err, authority.Close())
	}
	workers["registration"], workers["rotation"] = entries.Watch, authority.Run
	err = p.serve(ctx, server, workers)
	return errors.Join(err, authority.Close())
}
