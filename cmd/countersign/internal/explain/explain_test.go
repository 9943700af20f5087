package explain_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/explain"
	"github.com/countersign-mesh/countersign/pkg/policy"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

const policyText = `trust_domain: bank.test
services:
  bank.risk.v1.RiskService:
    methods:
      AssessPayment:
        allow:
          - {peer: /payments}
          - {peer: /payments, shadow: true, when: request.amount.minor_units < 10}
          - {peer: /counter, when: request.amount.minor_units <= 500}
          - {peer: /trainee, shadow: true}
        deny:
          - {peer: /closed}
`

func TestAPolicyIsAsked(t *testing.T) {
	t.Parallel()
	p, err := policy.Parse("bank.yaml", []byte(policyText))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		peer, json string
		want       explain.Answer
	}{
		"of whom a rule allows":       {"/payments", `{"amount": {"minorUnits": 11}}`, explain.Answer{Outcome: "allowed", Rule: "bank.yaml:7"}},
		"of whom shadow allows too":   {"/payments", `{"amount": {"minorUnits": 1}}`, explain.Answer{Outcome: "allowed", Rule: "bank.yaml:7", Shadow: "allowed", ShadowRule: "bank.yaml:8"}},
		"of whom shadow may allow":    {"/payments", "", explain.Answer{Outcome: "allowed", Rule: "bank.yaml:7", Shadow: "undecided"}},
		"of whom shadow alone allows": {"/trainee", "", explain.Answer{Outcome: "denied", Shadow: "allowed", ShadowRule: "bank.yaml:10"}},
		"of whom no rule names":       {"/risk", "", explain.Answer{Outcome: "denied"}},
		"of whom a rule denies":       {"/closed", "", explain.Answer{Outcome: "denied", Rule: "bank.yaml:12"}},
		"without the request":         {"/counter", "", explain.Answer{Outcome: "undecided"}},
		"with it":                     {"/counter", `{"amount": {"minorUnits": 500}}`, explain.Answer{Outcome: "allowed", Rule: "bank.yaml:9"}},
	} {
		q := explain.Question{Peer: spiffeid.RequireFromString("spiffe://bank.test" + test.peer), Method: "/bank.risk.v1.RiskService/AssessPayment"}
		if test.json != "" {
			if q.Request, err = contracts.Bank().Request(q.Method, []byte(test.json)); err != nil {
				t.Fatal(err)
			}
		}
		test.want.Version = p.Version()
		if _, got := q.Ask(p); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

func TestAServerDiffersFromTheFile(t *testing.T) {
	t.Parallel()
	file := explain.Answer{Outcome: "denied", Version: "one"}
	for name, test := range map[string]struct {
		served explain.Served
		want   string
	}{
		"not when it says the same":        {explain.Served{Answer: file}, ""},
		"not in a rule's line alone":       {explain.Served{Answer: explain.Answer{Outcome: "denied", Rule: "bank.yaml:1", Version: "one"}}, ""},
		"not when it has not the messages": {explain.Served{Answer: explain.Answer{Version: "one"}}, ""},
		// The last good policy is in force, and the file that is compared is that one again.
		"not when the file it reads is another": {explain.Served{Answer: file, Failure: "bank.yaml:1:1: unknown field"}, ""},
		"in its version": {
			explain.Served{Answer: explain.Answer{Outcome: "denied", Version: "two"}}, "it has the policy two in force, and the file is one",
		},
		"in its version, though it has not the messages": {
			explain.Served{Answer: explain.Answer{Version: "two"}}, "it has the policy two in force, and the file is one",
		},
		"in what it decides too": {
			explain.Served{Answer: explain.Answer{Outcome: "allowed", Version: "two"}},
			`it has the policy two in force, and the file is one; it decides "allowed", and the file "denied"`,
		},
		"in what it would decide": {
			explain.Served{Answer: explain.Answer{Outcome: "denied", Shadow: "allowed", Version: "one"}},
			`with the rules in shadow it decides "allowed", and the file ""`,
		},
		"and says why": {
			explain.Served{Answer: explain.Answer{Outcome: "denied", Version: "two"}, Failure: "bank.yaml:1:1: unknown field"},
			"it has the policy two in force, and the file is one; the file that it reads is not usable: bank.yaml:1:1: unknown field",
		},
	} {
		if got := test.served.Difference(file); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// server answers what it is told to.
type server struct {
	grpc.ClientConnInterface
	explained *adminv1.ExplainDecisionResponse
	err       error
	asked     *adminv1.ExplainDecisionRequest
}

// Invoke implements grpc.ClientConnInterface.
func (s *server) Invoke(_ context.Context, method string, request, response any, _ ...grpc.CallOption) error {
	answer, ok := response.(proto.Message)
	if !ok {
		return fmt.Errorf("no message: %T", response)
	}
	if method == adminv1.AdminService_GetPolicy_FullMethodName {
		proto.Merge(answer, &adminv1.GetPolicyResponse{PolicyVersion: "one", Failure: "broken"})
		return nil
	}
	if s.asked, ok = request.(*adminv1.ExplainDecisionRequest); !ok {
		return fmt.Errorf("no such request: %T", request)
	}
	if s.err == nil {
		proto.Merge(answer, s.explained)
	}
	return s.err
}

func TestAServerIsAsked(t *testing.T) {
	t.Parallel()
	q := explain.Question{Peer: spiffeid.RequireFromString("spiffe://bank.test/risk"), Method: "/a.B/C", JSON: "{}"}
	for name, test := range map[string]struct {
		server server
		want   explain.Served
		code   codes.Code
	}{
		"and answers": {
			server{explained: &adminv1.ExplainDecisionResponse{
				Outcome: adminv1.Outcome_OUTCOME_UNDECIDED, Rule: "a.yaml:1", ShadowOutcome: adminv1.Outcome_OUTCOME_DENIED, ShadowRule: "a.yaml:2", PolicyVersion: "two",
			}},
			explain.Served{Answer: explain.Answer{Outcome: "undecided", Rule: "a.yaml:1", Shadow: "denied", ShadowRule: "a.yaml:2", Version: "two"}, Failure: "broken"},
			codes.OK,
		},
		"and no rule in shadow applies": {
			server{explained: &adminv1.ExplainDecisionResponse{Outcome: adminv1.Outcome_OUTCOME_ALLOWED, PolicyVersion: "two"}},
			explain.Served{Answer: explain.Answer{Outcome: "allowed", Version: "two"}, Failure: "broken"},
			codes.OK,
		},
		"and does not know the messages": {
			server{err: status.Error(codes.NotFound, "not known")}, explain.Served{Answer: explain.Answer{Version: "one"}, Failure: "broken"}, codes.OK,
		},
		"and does not answer": {server{err: status.Error(codes.PermissionDenied, "permission denied")}, explain.Served{}, codes.PermissionDenied},
	} {
		got, err := q.AskServer(t.Context(), &test.server)
		if diff := cmp.Diff(test.want, got); diff != "" || status.Code(err) != test.code {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
		if a := test.server.asked; a.GetPeerId() != "spiffe://bank.test/risk" || a.GetMethod() != "/a.B/C" || a.GetRequestJson() != "{}" {
			t.Errorf("%s: it was asked %v", name, a)
		}
	}
}
