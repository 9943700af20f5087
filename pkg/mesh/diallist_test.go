package mesh_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

// A client dials who serves something that the policy lets it call, and nobody else, whatever the server would say.
func TestDialRefusesAServerThatThePolicyDoesNotList(t *testing.T) {
	t.Parallel()
	const list = `trust_domain: bank.test
services:
  bank.risk.v1.RiskService:
    served_by: [/risk, "/zone/**"]
    methods:
      AssessPayment:
        allow:
          - peer: /payments
          - {peer: /auditor, when: request.payment_id != ""}
          - {peer: /shadow, shadow: true}
          - peer: /denied
        deny:
          - peer: /denied
  bank.ledger.v1.LedgerService:
    methods:
      PostTransfer: {allow: [{peer: /payments}]}
`
	m := meshtest.New(t, "bank.test", list)
	listed, err := authz.Open(writeFile(t, "p.yaml", list))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ client, server, want string }{
		"a server that serves what the client may call":     {"/payments", "/risk", ""},
		"one of many that serve it":                         {"/payments", "/zone/a/risk", ""},
		"one that it may call under a condition":            {"/auditor", "/risk", ""},
		"one that it may call nothing of":                   {"/gateway", "/risk", "no rule lets /gateway call anything of what /risk serves"},
		"one that it may call by a rule in shadow alone":    {"/shadow", "/risk", "no rule lets /shadow call anything"},
		"one that a rule denies it":                         {"/denied", "/risk", "no rule lets /denied call anything"},
		"one that serves nothing":                           {"/payments", "/accounts", "no service is served_by /accounts"},
		"one of whose service nobody says who serves it":    {"/payments", "/ledger", "no service is served_by /ledger"},
		"one whose name only begins like that of a server":  {"/payments", "/risk-evil", "no service is served_by /risk-evil"},
		"the path above those that serve it":                {"/payments", "/zone", "no service is served_by /zone"},
		"one of another trust domain with the path of that": {"/payments", "spiffe://evil.test/risk", "no service is served_by spiffe://evil.test/risk"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := test.server
			if strings.HasPrefix(server, "/") {
				server = "spiffe://bank.test" + server
			}
			conn, err := mesh.Dial(m.Conns(t, test.client), listed, "dns:///localhost:1", spiffeid.RequireFromString(server))
			if err == nil {
				if err := conn.Close(); err != nil {
					t.Error(err)
				}
			}
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("Dial = %v, want %q", err, test.want)
			}
		})
	}
}

// A connection outlives the policy that it was dialled under. What the policy in force does not list is not called on it any more: nothing is sent.
func TestACallFailsOnceThePolicyListsItsServerNoMore(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	service := &risk{}
	addr := m.Serve(t, "/risk", service.register)
	own, recorded := newRules(t, policy), &records{}
	conn, err := mesh.Dial(m.Conns(t, "/payments"), own.file, addr, spiffeid.RequireFromString("spiffe://bank.test/risk"), mesh.WithDialRecorder(recorded))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	client := riskv1.NewRiskServiceClient(conn)
	call := func() error {
		_, err := client.AssessPayment(t.Context(), request())
		return err
	}
	open := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/bank.risk.v1.RiskService/AssessPayment")
		return err
	}
	if err := call(); err != nil {
		t.Fatal(err)
	}
	own.replace(t, strings.ReplaceAll(policy, "served_by: [/risk,", "served_by: ["))
	eventually(t, "calls fail by the own policy", func() bool { return status.Code(call()) == codes.PermissionDenied })
	before := service.called.Load()
	for kind, err := range map[string]error{"a call": call(), "a stream": open()} {
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "the own policy does not list spiffe://bank.test/risk any more") {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if now := service.called.Load(); now != before {
		t.Errorf("the server was called %d times all the same", now-before)
	}
	recorded.mu.Lock()
	last := recorded.list[len(recorded.list)-1]
	recorded.mu.Unlock()
	if last.Allowed || last.PeerID != "spiffe://bank.test/payments" || last.Method != "/bank.risk.v1.RiskService/AssessPayment" ||
		last.PolicyVersion != own.file.Policy().Version() || !strings.HasPrefix(last.Reason, "not sent: ") {
		t.Errorf("recorded %+v", last)
	}
	own.replace(t, policy)
	eventually(t, "calls go through again", func() bool { return call() == nil })
	if err := open(); err != nil {
		t.Errorf("a stream once the server is listed again: %v", err)
	}
}
