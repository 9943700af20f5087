package mesh_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

// adminPolicy lets the operator ask about connections, and payments about payments.
const adminPolicy = `trust_domain: bank.test
services:
  bank.risk.v1.RiskService:
    methods:
      AssessPayment: {allow: [{peer: /payments}]}
  mesh.admin.v1.AdminService:
    methods:
      ListConnections: {allow: [{peer: /operator}]}
      ListCuts: {allow: [{peer: /operator}]}
      GetPolicy: {allow: [{peer: /operator}]}
      ExplainDecision: {allow: [{peer: /operator}]}
  grpc.health.v1.Health:
    methods:
      Check: {}
      List: {}
      Watch: {}
  grpc.reflection.v1.ServerReflection:
    methods:
      ServerReflectionInfo: {}
`

// nothingElse serves no services beside those of every server.
func nothingElse(grpc.ServiceRegistrar) {}

func adminClient(t *testing.T, m *meshtest.Mesh, from, to, addr string) adminv1.AdminServiceClient {
	t.Helper()
	return adminv1.NewAdminServiceClient(m.Dial(t, from, to, addr))
}

func TestTheOperatorSeesWhoIsConnected(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", adminPolicy)
	addr := m.Serve(t, "/risk", (&risk{}).register)
	payments := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", addr))
	begin := time.Now()
	for range 3 {
		if _, err := payments.AssessPayment(t.Context(), request()); err != nil {
			t.Fatal(err)
		}
	}
	r, err := adminClient(t, m, "/operator", "/risk", addr).ListConnections(t.Context(), &adminv1.ListConnectionsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.GetConnections()) != 2 || r.GetNextPageToken() != "" || len(r.GetPolicyVersion()) != 16 {
		t.Fatalf("the response is %v", r)
	}
	first, second := r.GetConnections()[0], r.GetConnections()[1]
	own := m.Identity(t, "/payments").Status()
	authority := identity.AuthorityOf(m.CA().Bundle().X509Authorities()[0])
	if first.GetPeerId() != "spiffe://bank.test/payments" || first.GetPeerSerial() != own.Serial || first.GetPeerAuthority() != authority ||
		first.GetDirection() != adminv1.Direction_DIRECTION_INBOUND || first.GetCalls() != 3 {
		t.Errorf("the connection of payments, with serial %s by %s, is %v", own.Serial, authority, first)
	}
	if _, _, err := net.SplitHostPort(first.GetRemoteAddress()); err != nil {
		t.Errorf("its address: %v", err)
	}
	if opened := first.GetOpenTime().AsTime(); opened.Before(begin.Add(-time.Second)) || opened.After(time.Now()) {
		t.Errorf("it was opened at %v", opened)
	}
	earliest := m.Identity(t, "/risk").Status().NotAfter
	if own.NotAfter.Before(earliest) {
		earliest = own.NotAfter
	}
	if !first.GetExpireTime().AsTime().Equal(earliest) {
		t.Errorf("it ends at %v, want %v", first.GetExpireTime().AsTime(), earliest)
	}
	if second.GetPeerId() != "spiffe://bank.test/operator" {
		t.Errorf("the newest connection is %v", second)
	}
}

func TestAProcessSeesWhomItDialled(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", adminPolicy)
	riskAddr, paymentsAddr := m.Serve(t, "/risk", (&risk{}).register), m.Serve(t, "/payments", nothingElse)
	_, err := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", riskAddr)).AssessPayment(t.Context(), request())
	if err != nil {
		t.Fatal(err)
	}
	r, err := adminClient(t, m, "/operator", "/payments", paymentsAddr).ListConnections(t.Context(), &adminv1.ListConnectionsRequest{})
	if err != nil || len(r.GetConnections()) != 2 {
		t.Fatalf("the response is %v, %v", r, err)
	}
	dialled := r.GetConnections()[0]
	if dialled.GetPeerId() != "spiffe://bank.test/risk" || dialled.GetDirection() != adminv1.Direction_DIRECTION_OUTBOUND || dialled.GetRemoteAddress() != riskAddr {
		t.Errorf("the connection to risk at %s is %v", riskAddr, dialled)
	}
}

// serveWatched starts a server that serves nothing of its own, under a policy file that the test may edit.
func serveWatched(t *testing.T, m *meshtest.Mesh, workload, text string, opts ...authz.FileOption) (path string, file *authz.File, addr string) {
	t.Helper()
	path = writeFile(t, "p.yaml", text)
	file, err := authz.Open(path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	server, err := mesh.NewServer(m.Conns(t, workload), file)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func() error{
		func() error { return file.Watch(ctx) },
		func() error { return server.Serve(ctx, listener) },
	} {
		running.Go(func() {
			if err := run(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return path, file, listener.Addr().String()
}

// soon waits until condition holds, at most for ten seconds.
func soon(t *testing.T, what string, condition func() bool) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-timeout:
			t.Fatalf("not within ten seconds: %s", what)
		case <-tick.C:
		}
	}
}

// preface is how a client begins HTTP/2, with no settings of its own (RFC 9113 §3.4). A server does not wait long for it.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// connect opens n more connections of a workload to a server, one after another.
func connect(t *testing.T, m *meshtest.Mesh, from, to, addr string, n int) []net.Conn {
	t.Helper()
	var conns []net.Conn
	for range n {
		raw, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conn, _, err := m.Conns(t, from).Client(spiffeid.RequireFromString("spiffe://bank.test"+to)).ClientHandshake(t.Context(), addr, raw)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := io.WriteString(conn, preface); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	return conns
}

func TestConnectionsComeByPages(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", adminPolicy)
	addr := m.Serve(t, "/risk", nothingElse)
	operator := adminClient(t, m, "/operator", "/risk", addr)
	list := func(request *adminv1.ListConnectionsRequest) *adminv1.ListConnectionsResponse {
		t.Helper()
		r, err := operator.ListConnections(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	list(&adminv1.ListConnectionsRequest{}) // the operator's own is the first
	const others = 104
	conns := connect(t, m, "/payments", "/risk", addr, others)
	soon(t, "the server has all connections", func() bool { return len(m.Conns(t, "/risk").Conns()) == 1+others })

	r := list(&adminv1.ListConnectionsRequest{})
	if len(r.GetConnections()) != 100 || r.GetNextPageToken() == "" {
		t.Errorf("without a page size there are %d connections on the page", len(r.GetConnections()))
	}
	seen, pages := make(map[string]int), 0
	for token := ""; ; pages++ {
		r := list(&adminv1.ListConnectionsRequest{PageSize: 15, PageToken: token})
		for _, c := range r.GetConnections() {
			seen[c.GetRemoteAddress()]++
		}
		if pages == 1 { // what was shown goes away, and somebody comes
			_ = conns[0].Close()
			soon(t, "the server has noticed", func() bool { return len(m.Conns(t, "/risk").Conns()) == others })
			connect(t, m, "/payments", "/risk", addr, 1)
			soon(t, "the server has the new one", func() bool { return len(m.Conns(t, "/risk").Conns()) == 1+others })
		}
		if token = r.GetNextPageToken(); token == "" {
			break
		}
	}
	if len(seen) != 1+others+1 || pages != 7 {
		t.Errorf("%d connections were seen on %d pages, want %d on 8", len(seen), pages+1, 1+others+1)
	}
	for remote, n := range seen {
		if n != 1 {
			t.Errorf("%s was listed %d times", remote, n)
		}
	}
	if r := list(&adminv1.ListConnectionsRequest{PageSize: 1 + others}); len(r.GetConnections()) != 1+others || r.GetNextPageToken() != "" {
		t.Errorf("a page that all fit on has %d and the token %q", len(r.GetConnections()), r.GetNextPageToken())
	}
}

// ATTACKS 44: admin is under the policy.
func TestAdminIsUnderThePolicy(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", adminPolicy)
	recorded := &records{}
	addr := m.Serve(t, "/risk", nothingElse, mesh.WithRecorder(recorded))
	for from, want := range map[string]codes.Code{"/operator": codes.OK, "/payments": codes.PermissionDenied, "/risk": codes.PermissionDenied} {
		client := adminClient(t, m, from, "/risk", addr)
		_, err := client.ListConnections(t.Context(), &adminv1.ListConnectionsRequest{})
		if status.Code(err) != want {
			t.Errorf("%s asks for connections: %v, want %v", from, err, want)
		}
		if _, err := client.ListCuts(t.Context(), &adminv1.ListCutsRequest{}); status.Code(err) != want {
			t.Errorf("%s asks for cuts: %v, want %v", from, err, want)
		}
		if d := recorded.last(t); d.Method != adminv1.AdminService_ListCuts_FullMethodName || d.Allowed != (want == codes.OK) {
			t.Errorf("the record is %+v", d)
		}
	}
}

func TestAdminRefusesARequestThatMakesNoSense(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", adminPolicy)
	client := adminClient(t, m, "/operator", "/risk", m.Serve(t, "/risk", nothingElse))
	for name, request := range map[string]*adminv1.ListConnectionsRequest{
		"a page of less than nothing":   {PageSize: -1},
		"a page that is too large":      {PageSize: 1001},
		"a token of nobody":             {PageToken: "nobody"},
		"a token of another list":       {PageToken: "AAAAAAAAAAEAAAAAAAAAAA"},
		"a token that is a long letter": {PageToken: strings.Repeat("x", 201)},
	} {
		if r, err := client.ListConnections(t.Context(), request); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	for name, since := range map[string]*timestamppb.Timestamp{
		"a second of two billion nanoseconds": {Nanos: 2_000_000_000},
		"a time before the calendar":          {Seconds: -1 << 60},
	} {
		if r, err := client.ListCuts(t.Context(), &adminv1.ListCutsRequest{Since: since}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}
