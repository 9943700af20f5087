package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

type auditCommand struct {
	Show auditShowCommand `cmd:"" help:"Show one decision, with the reason that its caller was not told."`
}

type auditShowCommand struct {
	workload
	ID     string `arg:"" expects:"a decision's ID, from the error of a denied call" help:"The decision's ID: 32 hexadecimal digits, from the error of a denied call."`
	Addr   string `default:"audit" placeholder:"ADDR" help:"The audit service: HOST:PORT, or the name of a service of the mesh that runs in --run-dir (${default})."`
	Expect string `default:"/audit" placeholder:"ID" help:"The SPIFFE ID that it must have (${default})."`
}

func (c *auditShowCommand) Run(ctx context.Context, s *session) error {
	to := server{Addr: c.Addr, Expect: c.Expect}
	return to.dialled(ctx, s, c.workload, func(_ *dial.Workload, conn *grpc.ClientConn) error {
		d, err := findDecision(ctx, auditv1.NewAuditServiceClient(conn), c.ID)
		if err != nil {
			return dial.Explain(err)
		}
		showDecision(s.out, d)
		return nil
	})
}

const (
	// arrival is how long a fresh decision may be on its way to the audit service; a second is usual.
	arrival     = 5 * time.Second
	askInterval = 200 * time.Millisecond
)

// findDecision asks for a decision until it has arrived.
func findDecision(ctx context.Context, client auditv1.AuditServiceClient, id string) (*auditv1.Decision, error) {
	ticker := time.NewTicker(askInterval)
	defer ticker.Stop()
	for deadline := time.Now().Add(arrival); ; {
		r, err := client.ListDecisions(ctx, &auditv1.ListDecisionsRequest{Filter: &auditv1.DecisionFilter{DecisionId: id}})
		if err != nil {
			return nil, err
		}
		for _, record := range r.GetRecords() {
			if d := record.GetDecision(); d != nil {
				return d, nil
			}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("audit has no decision %s", id)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

func showDecision(out *console.Console, d *auditv1.Decision) {
	verdict := console.Cell{Text: "allowed", Tone: console.Good}
	if d.GetVerdict() == auditv1.Verdict_VERDICT_DENIED {
		verdict = console.Cell{Text: "denied", Tone: console.Bad}
	}
	for _, line := range []struct {
		name string
		console.Cell
	}{
		{"verdict", verdict},
		{"reason", console.Cell{Text: or(d.GetReason()), Tone: console.Wary}},
		{"rule", console.Cell{Text: or(d.GetRule())}},
		{"method", console.Cell{Text: d.GetMethod()}},
		{"caller", console.Cell{Text: or(d.GetPeerId())}},
		{"its SVID", console.Cell{Text: or(d.GetPeerSerial())}},
		{"server", console.Cell{Text: d.GetServerId()}},
		{"time", console.Cell{Text: d.GetDecideTime().AsTime().Local().Format(time.RFC3339Nano)}},
		{"policy", console.Cell{Text: or(d.GetPolicyVersion())}},
		{"trace", console.Cell{Text: or(d.GetTraceId())}},
	} {
		out.Printf("%s  %s\n", out.Say(console.Faint, fmt.Sprintf("%-8s", line.name)), out.Say(line.Tone, line.Text))
	}
}
