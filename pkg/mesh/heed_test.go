package mesh_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/settings"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// Two servers of one process have each a policy of its own. Whom one of them revokes, the process does not believe.
func TestServersOfOneProcessHeedEachOthersRevocations(t *testing.T) {
	t.Parallel()
	w := newWorld(t, doomedAndGood)
	other := newRules(t, echoPolicy(doomedAndGood))
	addr := w.serve(t, w.conns, other)
	doomed, good := w.caller(t, w.ca.SVID(t, "/doomed")), w.caller(t, w.others.SVID(t, "/good"))
	elsewhere := w.dial(t, good, addr)
	for _, conn := range []*caller{doomed, good} {
		if err := say(t.Context(), conn.conn); err != nil {
			t.Fatal(err)
		}
	}
	if err := say(t.Context(), elsewhere); err != nil {
		t.Fatal(err)
	}
	other.replace(t, echoPolicy(doomedAndGood, "id: /doomed"))
	eventually(t, "the first server refuses whom the second one's policy revokes", func() bool { return say(t.Context(), doomed.conn) != nil })
	if err := say(t.Context(), good.conn); err != nil {
		t.Errorf("a peer that nobody has revoked yet: %v", err)
	}
	w.rules.replace(t, echoPolicy(doomedAndGood, "id: /good"))
	eventually(t, "the second server refuses whom the first one's policy revokes", func() bool { return say(t.Context(), elsewhere) != nil })
	if err := say(t.Context(), doomed.conn); err == nil {
		t.Error("the second policy's list has ended with the first one's")
	}
}

// A process without a server heeds its policy too: it believes no server that is revoked.
func TestRunHeedsThePolicyWithoutAServer(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	addr := m.Serve(t, "/risk", (&risk{}).register)
	f := flags(t, m, "/payments")
	path := string(f.Policy)
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	var end error
	err := mesh.Run(ctx, f, func(_ context.Context, p *mesh.Process) error {
		conn, err := p.Dial(settings.Target(addr), "/risk")
		if err != nil {
			return err
		}
		p.Go("client", func(ctx context.Context) error {
			defer stop()
			if end = conn.Invoke(ctx, "/bank.risk.v1.RiskService/AssessPayment", request(), request()); end != nil {
				return nil
			}
			(&rules{path: path}).replace(t, strings.Replace(policy, "services:", "revoked:\n  - id: /risk\nservices:", 1))
			for end == nil {
				end = conn.Invoke(ctx, "/bank.risk.v1.RiskService/AssessPayment", request(), request())
			}
			return nil
		})
		return nil
	})
	if err != nil {
		t.Errorf("Run = %v", err)
	}
	// In the middle of a call it is UNAUTHENTICATED, between two calls the next one fails to connect.
	if code := status.Code(end); code != codes.Unauthenticated && (code != codes.Unavailable || !strings.Contains(end.Error(), "revoked")) {
		t.Errorf("a call of a server that is revoked: %v", end)
	}
}

// ATTACKS 45: a stream that a revocation ends is recorded as denied, with the entry. Its caller learns no more of that than of any denial.
func TestAStreamThatARevocationEndsIsRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, doomedAndGood)
	svid := w.ca.SVID(t, "/doomed")
	doomed := w.caller(t, svid)
	ended, err := w.echo.start(t.Context(), doomed.conn, "watch", calls()["an idle stream both ways"])
	if err != nil {
		t.Fatal(err)
	}
	w.rules.replace(t, echoPolicy(doomedAndGood, "id: /doomed"))
	checkTellsNothing(t, (<-ended).err)
	var denial audit.Decision
	eventually(t, "a denial is recorded", func() bool {
		w.recorded.mu.Lock()
		defer w.recorded.mu.Unlock()
		n := slices.IndexFunc(w.recorded.list, func(d audit.Decision) bool { return !d.Allowed })
		if n >= 0 {
			denial = w.recorded.list[n]
		}
		return n >= 0
	})
	if denial.Method != bothMethod || denial.PeerID != svid.ID.String() || !strings.Contains(denial.Reason, "is revoked (bank.yaml:3)") {
		t.Errorf("recorded %+v", denial)
	}
}

// What the caller is told of a revoked authority does not name it; what the operator is shown does.
func TestACallerIsNotToldWhatWasRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, doomedAndGood)
	doomed := w.caller(t, w.ca.SVID(t, "/doomed"))
	ended, err := w.echo.start(t.Context(), doomed.conn, "wait", calls()["a unary call whose handler waits"])
	if err != nil {
		t.Fatal(err)
	}
	authority := identity.AuthorityOf(w.first.X509Authorities()[0])
	w.rules.replace(t, echoPolicy(doomedAndGood, "authority: "+authority))
	checkTellsNothing(t, (<-ended).err)
	checkTellsNothing(t, say(t.Context(), doomed.conn)) // and no more at the next handshake
	cuts := w.conns.Cuts()
	if len(cuts) != 1 || cuts[0].Reason != transport.Revoked || !strings.Contains(cuts[0].Detail, authority) {
		t.Errorf("the cuts are %+v", cuts)
	}
}

// checkTellsNothing fails when an error says more than that its receiver is not let in.
func checkTellsNothing(t *testing.T, err error) {
	t.Helper()
	st := status.Convert(err)
	if st.Code() == codes.OK {
		t.Fatal("the call was let in")
	}
	for _, word := range []string{"revoke", "yaml", "doomed", "authority", "serial", "list", "polic"} {
		if strings.Contains(strings.ToLower(st.Message()), word) {
			t.Errorf("the caller is told %q", st.Message())
		}
	}
	for _, detail := range st.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if !ok || len(info.GetMetadata()) != 1 || info.GetMetadata()["decision_id"] == "" {
			t.Errorf("the caller is told %v", detail)
		}
	}
}
