package mesh_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/meshtest"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

func TestTheOperatorSeesWhatWasCut(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", adminPolicy)
	path, file, addr := serveWatched(t, m, "/risk", adminPolicy)
	operator := adminClient(t, m, "/operator", "/risk", addr)
	before, err := operator.ListCuts(t.Context(), &adminv1.ListCutsRequest{})
	if err != nil || len(before.GetCuts()) != 0 {
		t.Fatalf("before: %v, %v", before, err)
	}
	connect(t, m, "/payments", "/risk", addr, 2)
	soon(t, "the server has all connections", func() bool { return len(m.Conns(t, "/risk").Conns()) == 3 })
	serial := m.Identity(t, "/payments").Status().Serial
	since := time.Now()
	if err := os.WriteFile(path, []byte(adminPolicy+"revoked:\n  - serial: \""+serial+"\"\n    why: stolen\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var r *adminv1.ListCutsResponse
	soon(t, "both are cut", func() bool {
		if r, err = operator.ListCuts(t.Context(), &adminv1.ListCutsRequest{Since: timestamppb.New(since)}); err != nil {
			t.Fatal(err)
		}
		return len(r.GetCuts()) == 2
	})
	if r.GetPolicyVersion() == before.GetPolicyVersion() || r.GetPolicyVersion() != file.Policy().Version() {
		t.Errorf("the version was %s and is %s, want %s", before.GetPolicyVersion(), r.GetPolicyVersion(), file.Policy().Version())
	}
	entry := fmt.Sprintf("p.yaml:%d", strings.Count(adminPolicy, "\n")+2)
	for i, cut := range r.GetCuts() {
		if cut.GetReason() != adminv1.CutReason_CUT_REASON_REVOKED || !strings.Contains(cut.GetDetail(), entry) ||
			cut.GetConnection().GetPeerSerial() != serial || cut.GetConnection().GetPeerId() != "spiffe://bank.test/payments" {
			t.Errorf("cut %d, by %s, is %v", i, entry, cut)
		}
		if i > 0 && cut.GetCutTime().AsTime().After(r.GetCuts()[i-1].GetCutTime().AsTime()) {
			t.Errorf("the latest is not the first: %v", r.GetCuts())
		}
	}
	for name, test := range map[string]struct {
		since *timestamppb.Timestamp
		want  int
	}{
		"at all":               {nil, 2},
		"at the latest's time": {r.GetCuts()[0].GetCutTime(), 1},
		"after it":             {timestamppb.New(r.GetCuts()[0].GetCutTime().AsTime().Add(1)), 0},
	} {
		got, err := operator.ListCuts(t.Context(), &adminv1.ListCutsRequest{Since: test.since})
		if err != nil || len(got.GetCuts()) != test.want {
			t.Errorf("cuts %s: %v, %v; want %d", name, got, err, test.want)
		}
	}
	listed, err := operator.ListConnections(t.Context(), &adminv1.ListConnectionsRequest{})
	if err != nil || len(listed.GetConnections()) != 1 {
		t.Errorf("connections that were cut are still listed: %v, %v", listed, err)
	}
}

func TestACutSaysItsReason(t *testing.T) {
	t.Parallel()
	for want, cause := range map[adminv1.CutReason]func(t *testing.T, m *meshtest.Mesh){
		adminv1.CutReason_CUT_REASON_UNTRUSTED: func(t *testing.T, m *meshtest.Mesh) { // its authority leaves the bundle
			m.CA().NewRoot(t)
			m.CA().Retire()
			m.Rotate(t, "/risk")
		},
		adminv1.CutReason_CUT_REASON_OWN_IDENTITY: func(t *testing.T, m *meshtest.Mesh) {
			m.API(t, "/risk").Fail(status.Error(codes.PermissionDenied, "withdrawn"))
		},
	} {
		t.Run(want.String(), func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, "bank.test", adminPolicy)
			addr := m.Serve(t, "/risk", nothingElse)
			connect(t, m, "/payments", "/risk", addr, 1)
			soon(t, "the server has the connection", func() bool { return len(m.Conns(t, "/risk").Conns()) == 1 })
			cause(t, m)
			soon(t, "it is cut", func() bool { return len(m.Conns(t, "/risk").Cuts()) == 1 })
			if want == adminv1.CutReason_CUT_REASON_OWN_IDENTITY { // it has none to answer with until it has one again
				m.Rotate(t, "/risk")
			}
			m.Rotate(t, "/operator")
			r, err := adminClient(t, m, "/operator", "/risk", addr).ListCuts(t.Context(), &adminv1.ListCutsRequest{}, grpc.WaitForReady(true))
			if err != nil || len(r.GetCuts()) != 1 || r.GetCuts()[0].GetReason() != want || r.GetCuts()[0].GetDetail() == "" {
				t.Errorf("the cuts are %v, %v; want one for %v", r, err, want)
			}
		})
	}
}

// A peer chooses how long its SPIFFE ID is, up to 2,048 bytes. It must not hide what was cut by making the answer larger than a client takes.
func TestCutsOfLongNamesFitInAnAnswer(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", adminPolicy)
	path, _, addr := serveWatched(t, m, "/risk", adminPolicy)
	long := "/" + strings.Repeat("x", 2048-len("spiffe://bank.test/"))
	const cuts, bound = 300, 1 << 20 // 300 of them are 1.2 MiB
	connect(t, m, long, "/risk", addr, cuts)
	soon(t, "the server has all connections", func() bool { return len(m.Conns(t, "/risk").Conns()) == cuts })
	if err := os.WriteFile(path, []byte(adminPolicy+"revoked:\n  - id: "+long+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	soon(t, "all are cut", func() bool { return len(m.Conns(t, "/risk").Cuts()) == cuts })

	r, err := adminClient(t, m, "/operator", "/risk", addr).ListCuts(t.Context(), &adminv1.ListCutsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	const rest = 1 << 10 // the version, and what encodes each cut in the list
	if size := proto.Size(r); size > bound+cuts*8+rest || size < bound*9/10 {
		t.Errorf("%d cuts are %d bytes, want nearly %d", len(r.GetCuts()), size, bound)
	}
	for i, got := range r.GetCuts() {
		want := m.Conns(t, "/risk").Cuts()[i]
		if got.GetConnection().GetRemoteAddress() != want.RemoteAddr || !got.GetCutTime().AsTime().Equal(want.Time) {
			t.Fatalf("cut %d is not the one that is as late", i)
		}
	}
}
