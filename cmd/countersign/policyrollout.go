package main

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rollout"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// rollOut makes the change, and says what became of it.
func (c *policyApplyCommand) rollOut(ctx context.Context, s *session, r rollout.Rollout, at place) error {
	if at.unasked != "" {
		outcome, err := r.Run(ctx)
		if err != nil {
			return err
		}
		s.out.Printf("No service was asked: %s\n", at.unasked)
		return c.report(s, r, outcome)
	}
	return c.with(ctx, s, func(self *dial.Workload) (err error) {
		var conns connections
		defer func() { err = errors.Join(err, conns.close()) }()
		if err := c.connect(ctx, s, self, &r, at, &conns); err != nil {
			return fmt.Errorf("nothing was changed: %w", err)
		}
		outcome, err := r.Run(ctx)
		reported := c.report(s, r, outcome)
		if err == nil {
			err = reported
		}
		return err
	})
}

// connections are closed together.
type connections []*grpc.ClientConn

func (c connections) close() error {
	var errs []error
	for _, conn := range c {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

// connect gives the rollout its services, and the audit service.
func (c *policyApplyCommand) connect(ctx context.Context, s *session, self *dial.Workload, r *rollout.Rollout, at place, conns *connections) error {
	r.Self = self.ID()
	servers := s.mesh.Servers(ctx, at.services...)
	r.Noun = site.Noun(at.services, servers)
	var errs []error
	for _, server := range servers {
		conn, err := self.Dial(server.Target)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", server.Name, err))
			continue
		}
		*conns = append(*conns, conn)
		r.Servers = append(r.Servers, rollout.Server{Name: server.Name, Conn: conn})
	}
	if err := errors.Join(errs...); err != nil || c.NoWatch {
		return err
	}
	target, err := s.mesh.Target(self.ID().TrustDomain(), c.Audit, c.Expect)
	if err != nil {
		return fmt.Errorf("which audit service? %w", err)
	}
	conn, err := self.Dial(target)
	if err != nil {
		return err
	}
	*conns = append(*conns, conn)
	r.Audit = auditv1.NewAuditServiceClient(conn)
	return nil
}

// report says what became of a change, and fails when the new policy does not stay.
func (c *policyApplyCommand) report(s *session, r rollout.Rollout, o rollout.Outcome) error {
	if r.Audit != nil && (o.Copy != "" || o.RolledBack != nil) {
		s.out.Printf("%d decisions by the new policy were seen.\n", o.Decided)
	}
	if o.Lost > 0 {
		s.out.Printf("%s\n", s.out.Say(console.Wary, fmt.Sprintf("%d decisions were lost on their way to the audit service: there may be denials that nobody saw.", o.Lost)))
	}
	showDenied(s.out, o.Denied)
	switch {
	case o.RolledBack != nil && o.Copy == "":
		return fmt.Errorf("%w: %w", errRolledBack, o.RolledBack)
	case o.Copy != "" && o.RolledBack == nil:
		s.out.Printf("The new policy stays. To go back to the old one: countersign policy apply %s\n", o.Copy)
	}
	return nil
}

func showDenied(out *console.Console, denied []rollout.Denied) {
	if len(denied) == 0 {
		return
	}
	var rows [][]console.Cell
	for _, d := range denied {
		rows = append(rows, []console.Cell{
			{Text: d.Peer, Tone: console.Strong}, {Text: d.Method}, {Text: fmt.Sprint(d.Count), Tone: console.Bad}, {Text: d.DecisionID},
		})
	}
	out.Printf("\nDenied now, and let in before:\n\n")
	out.Table([]string{"peer", "method", "calls", "one of the decisions"}, rows)
	out.Printf("\nWhy: countersign audit show %s\n", denied[0].DecisionID)
}
