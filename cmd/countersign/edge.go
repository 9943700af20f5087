package main

import (
	"fmt"
	"os"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/edge"
)

type edgeCommand struct {
	Init edgeInitCommand `cmd:"" help:"See to a certificate for it: a stand-in for one of the public web's. up does this by itself."`
	Root edgeRootCommand `cmd:"" help:"Print by whom that certificate is verified, for --cacert of curl and --root of countersign bank."`
}

type edgeInitCommand struct {
	Dir  string `required:"" placeholder:"DIR" help:"Where to: root.pem, server.pem and server.key, which you alone can read. What is there and good for 30 days yet stays."`
	Root string `placeholder:"FILE" help:"Write root.pem there too, for those who are not to see the key."`
}

func (c *edgeInitCommand) Run(s *session) error {
	dir := edge.Dir(c.Dir)
	end, made, err := dir.Init(time.Now())
	if err == nil && c.Root != "" {
		err = dir.CopyRoot(c.Root)
	}
	if err != nil {
		return err
	}
	if !made {
		s.out.Printf("The certificate in %s is good until %s; nothing was changed.\n", c.Dir, stamp(end))
		return nil
	}
	s.out.Printf("The edge has a new certificate in %s, good until %s. Customers verify it by %s.\n", c.Dir, stamp(end), dir.Root())
	return nil
}

type edgeRootCommand struct {
	Dir string `placeholder:"DIR" help:"Where edge init put it; by default that of the mesh."`
}

func (c *edgeRootCommand) Run(s *session) error {
	path := edge.Dir(c.Dir).Root()
	if c.Dir == "" {
		mesh, err := s.mesh.Find()
		if err != nil {
			return err
		}
		if path = mesh.Edge.Root; path == "" {
			return fmt.Errorf("%s does not say by whom its edge is verified (edge, root)", mesh.Name)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read by whom the edge is verified: %w", err)
	}
	s.out.Printf("%s", text)
	return nil
}
