package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/registration"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/spire"
)

type spireCommand struct {
	Prepare  spirePrepareCommand  `cmd:"" help:"Make a certificate and key for a node's SPIRE agent to attest with, where there are none."`
	Register spireRegisterCommand `cmd:"" help:"Make a SPIRE server's entries those of a registration file. Done again it does nothing more."`
}

type spirePrepareCommand struct {
	Dir  string `required:"" placeholder:"DIR" help:"Where to; made if it is not there, for you alone. Gets agent-NODE.pem and agent-NODE.key for the agent, and ca.pem for the server to trust."`
	Node string `required:"" placeholder:"NAME" help:"What the node is called, such as laptop; the entries that are registered for it have the same name."`
}

func (c *spirePrepareCommand) Run(ctx context.Context, s *session) error {
	node, made, err := spire.PrepareNode(ctx, c.Dir, c.Node)
	if err != nil {
		return err
	}
	how := "was there already"
	if made {
		how = "was made"
	}
	s.out.Printf("What node %s attests with %s: %s and its key; the server trusts %s.\n", c.Node, how, node.Certificate, node.Authorities)
	return nil
}

type spireRegisterCommand struct {
	Registration string        `required:"" placeholder:"FILE" help:"Which workload gets which identity. Entries with selectors of the embedded authority (socket:) are left out."`
	ServerSocket string        `required:"" placeholder:"PATH" help:"The unix socket of the SPIRE server's API."`
	Node         string        `required:"" placeholder:"NAME" help:"The node that the workloads run on, as it was prepared."`
	Bin          string        `placeholder:"DIR" help:"The directory of the programs: unix:path selectors are narrowed down to the binaries there as they are now, and to this user, as countersign up does it."`
	Bundle       string        `placeholder:"FILE" help:"Also write the trust domain's authorities to a PEM file, for an agent that starts and must know its server."`
	Wait         time.Duration `default:"30s" placeholder:"DURATION" help:"How long to wait for the server (${default})."`
}

func (c *spireRegisterCommand) Run(ctx context.Context, s *session) (err error) {
	file, err := registration.Read(c.Registration)
	if err != nil {
		return err
	}
	if c.Bin != "" {
		if err := registration.Pin(file, c.Bin, os.Getuid()); err != nil {
			return err
		}
	}
	server, err := spire.OpenServer(c.ServerSocket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	bounded, cancel := context.WithTimeoutCause(ctx, c.Wait, fmt.Errorf("it was given %v", c.Wait))
	defer cancel()
	if err := server.Await(bounded); err != nil {
		return err
	}
	outcome, err := server.Register(ctx, file, c.Node)
	if err != nil {
		return err
	}
	s.out.Printf("Node %s: %s.\n", c.Node, outcome)
	if c.Bundle == "" {
		return nil
	}
	if err := server.WriteBundle(ctx, c.Bundle); err != nil {
		return err
	}
	s.out.Printf("The trust bundle is in %s.\n", c.Bundle)
	return nil
}
