package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/supervisor"
)

type upCommand struct {
	Bin          string        `placeholder:"DIR" help:"Where the programs are; by default the directory of this one."`
	BasePort     int           `default:"7443" placeholder:"PORT" help:"The gateway's port (${default}); accounts, payments, ledger, risk, audit and login have the next ones, ops ports are 100 above. Customers come in 10 (gRPC), 11 (REST) and 12 (login) above. 0 takes free ones."`
	Policy       string        `placeholder:"FILE" help:"Who may call what; by default deploy/policy/bank.yaml beside --bin."`
	Registration string        `placeholder:"FILE" help:"Which process gets which identity; by default deploy/registration/bank.yaml beside --bin."`
	RiskRules    string        `placeholder:"FILE" help:"What risk holds against a payment; by default deploy/risk/bank.yaml beside --bin."`
	DSN          string        `name:"dsn" env:"COUNTERSIGN_DSN" placeholder:"DSN" help:"Where accounts, payments, ledger, risk and login keep their state, such as postgres://bank@localhost/{service}: a database each, which must be there. By default a SQLite file each in --run-dir, where the audit trail is in any case."`
	SVIDTTL      time.Duration `name:"svid-ttl" default:"2m" placeholder:"DURATION" help:"How long an SVID lives (${default}: short, so that rotation is seen)."`
	AuthorityTTL time.Duration `placeholder:"DURATION" help:"How long the signing authority lives; by default the authority's own default."`
	SPIRE        bool          `name:"spire" help:"Have a SPIRE server and agent serve the Workload API in the place of the embedded authority."`
	SPIREBin     string        `name:"spire-bin" env:"COUNTERSIGN_SPIRE_BIN" placeholder:"DIR" help:"Where spire-server and spire-agent are; by default on the PATH."`
	LogLevel     string        `default:"info" enum:"debug,info,warn,error" placeholder:"LEVEL" help:"What the programs log: debug, info, warn or error (${default})."`
	StartTimeout time.Duration `default:"30s" placeholder:"DURATION" help:"How long the start may take (${default})."`
	StopTimeout  time.Duration `default:"35s" placeholder:"DURATION" help:"How long the stop may take (${default}); each tier of programs gets a share of it before it is killed."`
	Detach       bool          `short:"d" help:"Return when the mesh is ready and leave it running; countersign down stops it."`
	Report       bool          `hidden:"" help:"Report to the process that detached this one."`
}

// Validate implements kong's check of a command.
func (c *upCommand) Validate() error {
	var errs []error
	for flag, d := range map[string]time.Duration{"--start-timeout": c.StartTimeout, "--stop-timeout": c.StopTimeout} {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("%s: %v is not above zero; right would be 30s", flag, d))
		}
	}
	const shortest = 2 * time.Second
	if c.SVIDTTL < shortest {
		errs = append(errs, fmt.Errorf("--svid-ttl: %v is too short to renew an SVID in time; right would be %v or more", c.SVIDTTL, shortest))
	}
	if c.AuthorityTTL < 0 || (c.AuthorityTTL > 0 && c.AuthorityTTL < c.SVIDTTL) {
		errs = append(errs, fmt.Errorf("--authority-ttl: %v is shorter than --svid-ttl %v; an authority must outlive what it signs", c.AuthorityTTL, c.SVIDTTL))
	}
	return errors.Join(errs...)
}

func (c *upCommand) Run(ctx context.Context, s *session) error {
	if err := s.ownMesh(); err != nil {
		return err
	}
	if c.Detach && !c.Report {
		return c.detach(ctx, s)
	}
	if !c.Report {
		return c.run(ctx, s, func(issuer string, list []supervisor.Status) { c.welcome(s, issuer, list) })
	}
	report := supervisor.OpenReport()
	err := c.run(ctx, s, func(string, []supervisor.Status) {
		if err := report.Send(nil); err != nil {
			s.log.WarnContext(ctx, "the foreground does not listen any more", "err", err)
		}
	})
	return errors.Join(err, report.Send(err))
}

// run runs the mesh until it is told to stop. The programs' logs are shown once all are ready, and not in the background, where
// they go to their files alone.
func (c *upCommand) run(ctx context.Context, s *session, ready func(issuer string, list []supervisor.Status)) error {
	settings, err := c.settings(s)
	if err != nil {
		return err
	}
	mesh, err := supervisor.Prepare(ctx, settings)
	if err != nil {
		return err
	}
	var show atomic.Bool
	err = mesh.Run(ctx, s.hurry, supervisor.Events{
		Line: func(program, line string) {
			if show.Load() {
				s.out.Line(program, line)
			}
		},
		Ready: func(list []supervisor.Status) {
			ready(mesh.Issuer(), list)
			show.Store(!c.Report)
		},
	})
	if err == nil && !c.Report {
		farewell(s)
	}
	return err
}

// farewell says that the mesh is down. It does not wait for a reader that stalls: Ctrl-C has to end this program.
func farewell(s *session) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		s.out.Printf("%s\n", s.out.Say(console.Faint, "The mesh is down; nothing is left running. Its database files are in "+s.dir.Data()+"."))
	}()
	select {
	case <-said:
	case <-time.After(time.Second):
	}
}

func (c *upCommand) settings(s *session) (supervisor.Settings, error) {
	bin := c.Bin
	if bin == "" {
		self, err := os.Executable()
		if err != nil {
			return supervisor.Settings{}, fmt.Errorf("find the programs: %w", err)
		}
		if self, err = filepath.EvalSymlinks(self); err != nil {
			return supervisor.Settings{}, fmt.Errorf("find the programs: %w", err)
		}
		bin = filepath.Dir(self)
	}
	return supervisor.Settings{
		Dir: s.dir, Bin: bin, Policy: c.Policy, Registration: c.Registration, RiskRules: c.RiskRules, DSN: c.DSN, BasePort: c.BasePort,
		SVIDTTL: c.SVIDTTL, AuthorityTTL: c.AuthorityTTL, SPIRE: c.SPIRE, SPIREBin: c.SPIREBin, LogLevel: c.LogLevel,
		StartTimeout: c.StartTimeout, StopTimeout: c.StopTimeout,
	}, nil
}

// detach starts the mesh in the background.
func (c *upCommand) detach(ctx context.Context, s *session) error {
	if err := supervisor.Detach(ctx, s.dir, append(slices.Clone(s.args), "--report")); err != nil {
		return err
	}
	record, err := s.dir.Running()
	if err != nil {
		return err
	}
	c.welcome(s, record.Issuer, supervisor.Inspect(ctx, record))
	return nil
}
