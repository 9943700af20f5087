package mesh_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/settings"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// auditLog is an audit service that hands on what it is sent.
type auditLog struct {
	auditv1.UnimplementedAuditServiceServer
	decisions chan *auditv1.Decision
}

func (l *auditLog) RecordDecisions(stream auditv1.AuditService_RecordDecisionsServer) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		records := request.GetRecords()
		for _, r := range records {
			select {
			case l.decisions <- r.GetDecision():
			default: // the test has seen enough
			}
		}
		if err := stream.Send(&auditv1.RecordDecisionsResponse{StoredSequence: records[len(records)-1].GetSequence()}); err != nil {
			return err
		}
	}
}

// A service whose policy does not let it make a call any more says so where denials are looked for: the server is never asked, and has nothing to
// record.
func TestTheAuditServiceLearnsOfCallsThatWereNotSent(t *testing.T) {
	t.Parallel()
	const auditRules = `  mesh.audit.v1.AuditService:
    served_by: [/audit]
    methods:
      RecordDecisions: {allow: [{peer: /payments}]}
      ListDecisions: {}
      WatchDecisions: {}
`
	text := policy + auditRules
	m := meshtest.New(t, "bank.test", text)
	log := &auditLog{decisions: make(chan *auditv1.Decision, 100)}
	auditAddr := m.Serve(t, "/audit", func(s grpc.ServiceRegistrar) { auditv1.RegisterAuditServiceServer(s, log) })
	riskAddr := m.Serve(t, "/risk", (&risk{}).register)
	f := flags(t, m, "/payments")
	file := &rules{path: string(f.Policy)}
	file.replace(t, text)

	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	err := mesh.Run(ctx, f, func(_ context.Context, p *mesh.Process) error {
		conn, err := p.Dial(settings.Target(riskAddr), "/risk") // before there is a way to the audit service
		if err != nil {
			return err
		}
		if _, err := p.AuditTo(settings.Target(auditAddr)); err != nil {
			return err
		}
		p.Go("client", func(ctx context.Context) error {
			defer stop()
			file.replace(t, strings.ReplaceAll(text, "served_by: [/risk,", "served_by: ["))
			call := func() error { return conn.Invoke(ctx, "/bank.risk.v1.RiskService/AssessPayment", request(), request()) }
			for status.Code(call()) != codes.PermissionDenied && ctx.Err() == nil {
				continue
			}
			select {
			case d := <-log.decisions:
				if d.GetPeerId() != "spiffe://bank.test/payments" || d.GetVerdict() != auditv1.Verdict_VERDICT_DENIED ||
					d.GetMethod() != "/bank.risk.v1.RiskService/AssessPayment" || !strings.HasPrefix(d.GetReason(), "not sent: ") {
					t.Errorf("the audit service learned %v", d)
				}
			case <-ctx.Done():
				t.Error("the audit service learned nothing")
			}
			return nil
		})
		return nil
	})
	if err != nil {
		t.Errorf("Run = %v", err)
	}
}
