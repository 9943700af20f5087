package main

import (
	"context"
	"fmt"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
)

type healthcheckCommand struct {
	workload
	Timeout time.Duration `default:"2s" placeholder:"DURATION" help:"How long the Workload API may take (${default})."`
}

// Validate implements kong's check of a command.
func (c *healthcheckCommand) Validate() error {
	if c.Timeout <= 0 {
		return fmt.Errorf("--timeout: %v is not above zero; right would be 2s", c.Timeout)
	}
	return nil
}

// Run succeeds when this process would be given an identity, and so would every copy of this program beside it, as in the same container.
func (c *healthcheckCommand) Run(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("no identity within %v", c.Timeout))
	defer cancel()
	return c.with(ctx, s, func(self *dial.Workload) error {
		s.out.Printf("%s\n", self.ID())
		return nil
	})
}
