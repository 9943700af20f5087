package main

import (
	"context"
	"fmt"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

type auditCommand struct {
	Show   auditShowCommand   `cmd:"" help:"Show one decision, with the reason that its caller was not told."`
	Query  auditQueryCommand  `cmd:"" help:"List decisions, newest first."`
	Tail   auditTailCommand   `cmd:"" help:"Follow decisions as they are stored. Ctrl-C ends it."`
	Verify auditVerifyCommand `cmd:"" help:"Check that nobody changed, moved or took away a record, of the running service or in a file. Exits with 1 when somebody did."`
}

type auditShowCommand struct {
	workload
	auditService
	ID string `arg:"" expects:"a decision's ID, from the error of a denied call" help:"The decision's ID: 32 hexadecimal digits, from the error of a denied call."`
}

func (c *auditShowCommand) Run(ctx context.Context, s *session) error {
	return c.dialled(ctx, s, c.workload, func(_ *dial.Workload, client auditv1.AuditServiceClient) error {
		d, err := findDecision(ctx, client, c.ID)
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
	shadow := console.Cell{Text: none}
	if d.GetShadowVerdict() != auditv1.Verdict_VERDICT_UNSPECIFIED {
		shadow = verdictCell(d.GetShadowVerdict())
		shadow.Text = fmt.Sprintf("would be %s by %s", shadow.Text, or(d.GetShadowRule()))
	}
	for _, line := range []struct {
		name string
		console.Cell
	}{
		{"verdict", verdictCell(d.GetVerdict())},
		{"reason", console.Cell{Text: or(d.GetReason()), Tone: console.Wary}},
		{"rule", console.Cell{Text: or(d.GetRule())}},
		{"shadow", shadow},
		{"method", console.Cell{Text: d.GetMethod()}},
		{"caller", console.Cell{Text: or(d.GetPeerId())}},
		{"its SVID", console.Cell{Text: or(d.GetPeerSerial())}},
		{"subject", console.Cell{Text: or(d.GetSubject())}},
		{"txn", console.Cell{Text: or(d.GetTransactionId())}},
		{"server", console.Cell{Text: d.GetServerId()}},
		{"time", console.Cell{Text: d.GetDecideTime().AsTime().Local().Format(time.RFC3339Nano)}},
		{"policy", console.Cell{Text: or(d.GetPolicyVersion())}},
		{"trace", console.Cell{Text: or(d.GetTraceId())}},
	} {
		out.Printf("%s  %s\n", out.Say(console.Faint, fmt.Sprintf("%-8s", line.name)), out.Say(line.Tone, console.Visible(line.Text)))
	}
}
