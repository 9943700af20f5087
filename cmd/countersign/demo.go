package main

import (
	"context"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/actor"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/story"
)

type actCommand struct {
	server
	workload
}

func (c *actCommand) Run(ctx context.Context, s *session) error {
	return c.with(ctx, s, func(self *dial.Workload) error {
		target, err := dial.Find(s.dir, self.ID().TrustDomain(), c.Addr, c.Expect)
		if err != nil {
			return err
		}
		return actor.Serve(ctx, self, target, s.stdin, s.stdout)
	})
}

type demoCommand struct {
	RotationWait time.Duration `placeholder:"DURATION" help:"How long to wait for SVIDs to rotate; by default as long as an SVID of this mesh lives."`
}

func (c *demoCommand) Run(ctx context.Context, s *session) error {
	record, err := s.dir.Running()
	if err != nil {
		return err
	}
	wait := c.RotationWait
	if wait <= 0 {
		wait = record.SVIDTTL
	}
	return story.Play(ctx, story.Settings{Mesh: record, RotationWait: wait}, s.out)
}
