package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/admin"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

// errNotHeeded means that a revocation is written and not known to be in force everywhere.
var errNotHeeded = errors.New("the revocation is written, but not known to be in force everywhere")

// followUp waits until every server of the services heeds a revocation, shows what they cut, and fails when one does not.
func followUp(ctx context.Context, s *session, self *dial.Workload, services []site.Service, r admin.Revoked) error {
	ctx, cancel := context.WithTimeout(ctx, askBound)
	defer cancel()
	servers := s.mesh.Servers(ctx, services...)
	outcomes := make([]admin.Outcome, len(servers))
	var group sync.WaitGroup
	for i, server := range servers {
		group.Go(func() { outcomes[i] = heeds(ctx, self, server, r) })
	}
	group.Wait()
	var failed []string
	var slowest time.Duration
	for i, o := range outcomes {
		slowest = max(slowest, o.InForce)
		if o.Err != nil {
			failed = append(failed, fmt.Sprintf("%s: %v", servers[i].Name, dial.Explain(o.Err)))
		}
	}
	if heeded := len(servers) - len(failed); heeded > 0 {
		s.out.Printf("In force at %d of %d %s, policy %s, after %s at the latest.\n",
			heeded, len(servers), site.Noun(services, servers), r.Version, milliseconds(slowest))
	}
	showCuts(s.out, servers, outcomes, r.Time)
	if len(failed) > 0 {
		return fmt.Errorf("%w:\n%s", errNotHeeded, strings.Join(failed, "\n"))
	}
	return nil
}

// heeds is followUp for one server.
func heeds(ctx context.Context, self *dial.Workload, server site.Service, r admin.Revoked) admin.Outcome {
	conn, err := self.Dial(server.Target)
	if err != nil {
		return admin.Outcome{Err: err}
	}
	o := r.Follow(ctx, conn)
	o.Err = errors.Join(o.Err, conn.Close())
	return o
}

func showCuts(out *console.Console, servers []site.Service, outcomes []admin.Outcome, since time.Time) {
	var rows [][]console.Cell
	for i, o := range outcomes {
		for _, cut := range o.Cuts {
			c := cut.GetConnection()
			rows = append(rows, []console.Cell{
				{Text: servers[i].Name, Tone: console.Strong},
				{Text: c.GetPeerId()},
				{Text: directionOf(c)},
				{Text: c.GetPeerSerial()},
				{Text: c.GetRemoteAddress()},
				{Text: reasonOf(cut), Tone: console.Wary},
				{Text: milliseconds(cut.GetCutTime().AsTime().Sub(since)), Tone: console.Good},
			})
		}
	}
	if len(rows) == 0 {
		out.Printf("No connection was cut: nobody who is revoked was connected.\n")
		return
	}
	out.Printf("\nConnections that were cut: %d\n\n", len(rows))
	out.Table([]string{"service", "peer", "direction", "serial", "remote address", "reason", "after"}, rows)
}

// reasonOf is why a connection was cut, in a word: "revoked".
func reasonOf(cut *adminv1.Cut) string {
	name := strings.TrimPrefix(cut.GetReason().String(), "CUT_REASON_")
	return strings.ReplaceAll(strings.ToLower(name), "_", " ")
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
