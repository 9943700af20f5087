package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/actor"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/story"
)

type actCommand struct {
	workload
	Servers []string `arg:"" expects:"servers, such as ledger" help:"HOST:PORT=ID, such as ledger:8443=/ledger, or the names of services of the mesh."`
	Listen  string   `placeholder:"PATH" help:"Act for whoever connects to this unix socket, for each with an identity of its own, until Ctrl-C."`
}

func (c *actCommand) Run(ctx context.Context, s *session) error {
	if c.Listen != "" {
		return c.serve(ctx, s)
	}
	return c.with(ctx, s, func(self *dial.Workload) error {
		targets, err := c.targets(s, self.ID().TrustDomain())
		if err != nil {
			return err
		}
		return actor.Serve(ctx, self, targets, s.stdin, s.stdout)
	})
}

// targets are the servers to call.
func (c *actCommand) targets(s *session, own spiffeid.TrustDomain) ([]dial.Target, error) {
	var targets []dial.Target
	for _, server := range c.Servers {
		addr, expect, _ := strings.Cut(server, "=")
		target, err := s.mesh.Target(own, addr, expect)
		if err != nil {
			return nil, err
		}
		targets = append(targets, target)
	}
	return targets, nil
}

// serve acts for who connects. The identity may not be there yet, or be taken away: each connection asks for its own.
func (c *actCommand) serve(ctx context.Context, s *session) error {
	// Whatever the trust domain will be: what is wrong with the flags is said now, and not to who connects.
	if _, err := c.targets(s, spiffeid.RequireTrustDomainFromString("bank.test")); err != nil {
		return err
	}
	endpoint, err := s.mesh.Endpoint(c.Socket)
	if err != nil {
		return err
	}
	listener, err := actor.Listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	s.out.Printf("Whoever connects to %s acts through this program, which calls %s.\n", c.Listen, strings.Join(c.Servers, " and "))
	return actor.ServeAll(ctx, listener, func(ctx context.Context) (*dial.Workload, []dial.Target, error) {
		self, err := dial.Open(ctx, endpoint, slog.New(slog.DiscardHandler))
		if err != nil {
			return nil, nil, err
		}
		targets, err := c.targets(s, self.ID().TrustDomain())
		if err != nil {
			return nil, nil, errors.Join(err, self.Close())
		}
		return self, targets, nil
	}, s.log)
}

type demoCommand struct {
	workload
	RotationWait time.Duration `placeholder:"DURATION" help:"How long to wait for SVIDs to rotate; by default as long as an SVID of this mesh lives."`
}

func (c *demoCommand) Run(ctx context.Context, s *session) error {
	mesh, err := s.mesh.Find()
	if err != nil {
		return err
	}
	endpoint, err := s.mesh.Endpoint(c.Socket)
	if err != nil {
		return err
	}
	settings := story.Settings{Mesh: mesh, WorkloadAPI: endpoint, RotationWait: c.RotationWait}
	if settings.RotationWait <= 0 {
		settings.RotationWait = mesh.SVIDTTL
	}
	if settings.Actors, err = actorsOf(mesh, endpoint); err != nil {
		return err
	}
	if err := demoable(mesh, settings.RotationWait); err != nil {
		return err
	}
	return story.Play(ctx, settings, s.out)
}

// actorsOf says how the actors of a mesh are had.
func actorsOf(mesh site.Site, endpoint string) (story.Actors, error) {
	switch {
	case mesh.ActorSockets != "":
		return actor.Sockets{Dir: mesh.ActorSockets}, nil
	case mesh.ActorPrograms != "":
		return actor.Processes{Dir: mesh.ActorPrograms, Endpoint: endpoint}, nil
	}
	return nil, fmt.Errorf("who plays the actors of the demo? %s says no actors; right would be the directory that has the sockets of countersign act", mesh.Name)
}

// demoable fails when a mesh file leaves out what only the demo needs.
func demoable(mesh site.Site, rotation time.Duration) error {
	var errs []error
	if mesh.Policy == "" {
		errs = append(errs, fmt.Errorf("%s says no policy, and the demo revokes identities in it", mesh.Name))
	}
	if rotation <= 0 {
		errs = append(errs, fmt.Errorf("how long may SVIDs take to rotate? Say it with --rotation-wait, since %s says no svid_ttl", mesh.Name))
	}
	return errors.Join(errs...)
}
