package mesh_test

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// explainedPolicy has a rule of each kind.
var explainedPolicy = strings.Replace(adminPolicy, "AssessPayment: {allow: [{peer: /payments}]}", `AssessPayment:
        deny:
          - {peer: /branch/south, why: closed}
          - {peer: /branch/**, when: request.amount.minor_units > 1000}
        allow:
          - {peer: /payments}
          - {peer: /counter, when: request.amount.minor_units <= 500, why: small amounts}
          - {peer: /branch/**}
          - {peer: /trainee, shadow: true}
          - {peer: /thief}
          - {peer: /clerk}
          - {peer: /clerk, shadow: true, when: request.payer_customer_id != ''}`, 1)

// quiet keeps what tests do to a file on purpose out of their output.
var quiet = authz.WithFileLogger(slog.New(slog.DiscardHandler))

const assessMethod = riskv1.RiskService_AssessPayment_FullMethodName

func jsonOf(t *testing.T, minorUnits int64) (request *riskv1.AssessPaymentRequest, text string) {
	t.Helper()
	request = assessing(minorUnits)
	data, err := protojson.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	return request, string(data)
}

func assessing(minorUnits int64) *riskv1.AssessPaymentRequest {
	r := request()
	r.Amount = eur(minorUnits)
	return r
}

func TestAnExplanationIsWhatACallThenMeets(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", explainedPolicy)
	recorded := &records{}
	addr := m.Serve(t, "/risk", (&risk{}).register, mesh.WithRecorder(recorded))
	operator := adminClient(t, m, "/operator", "/risk", addr)
	outcomes := map[bool]adminv1.Outcome{true: adminv1.Outcome_OUTCOME_ALLOWED, false: adminv1.Outcome_OUTCOME_DENIED}
	for peer, test := range map[string]struct {
		minorUnits int64
		allowed    bool
	}{
		"/payments":       {100, true},
		"/counter":        {500, true},
		"/counter/x":      {500, false},
		"/branch/north":   {1000, true},
		"/branch/east":    {1001, false},
		"/branch/south":   {1, false},
		"/branch":         {1, false},
		"/trainee":        {1, false},
		"/clerk":          {1, true},
		"/payments-evil":  {100, false},
		"/operator":       {100, false},
		"/counter/dearer": {501, false},
	} {
		request, text := jsonOf(t, test.minorUnits)
		got, err := operator.ExplainDecision(t.Context(), &adminv1.ExplainDecisionRequest{PeerId: "spiffe://bank.test" + peer, Method: assessMethod, RequestJson: text})
		if err != nil {
			t.Fatal(err)
		}
		_, err = riskv1.NewRiskServiceClient(m.Dial(t, peer, "/risk", addr)).AssessPayment(t.Context(), request)
		if (err == nil) != test.allowed || err != nil && status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: the call itself: %v", peer, err)
		}
		d := recorded.last(t)
		want := &adminv1.ExplainDecisionResponse{
			Outcome: outcomes[test.allowed], Rule: d.Rule, Reason: d.Reason, ShadowRule: d.ShadowRule, PolicyVersion: d.PolicyVersion,
		}
		if d.ShadowRule != "" {
			want.ShadowOutcome = outcomes[d.ShadowAllowed]
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || d.Method != assessMethod {
			t.Errorf("%s: the explanation differs from the decision on %s (-decided +explained):\n%s", peer, d.Method, diff)
		}
	}
}

func TestAnExplanationSaysWhatItDependsOn(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", explainedPolicy)
	operator := adminClient(t, m, "/operator", "/risk", m.Serve(t, "/risk", nothingElse, mesh.WithRecorder(&records{})))
	_, dear := jsonOf(t, 501)
	for name, test := range map[string]struct {
		peer, method, json string
		outcome, shadow    adminv1.Outcome
		rule, reason       string
	}{
		"an allow that asks for the request": {
			"/counter", assessMethod, "", adminv1.Outcome_OUTCOME_UNDECIDED, 0, "", "it depends on the request: the rule allows /counter when request.amount.minor_units <= 500",
		},
		"a deny that asks for the request": {
			"/branch/north", assessMethod, "", adminv1.Outcome_OUTCOME_UNDECIDED, 0, "", "the rule denies /branch/** when request.amount.minor_units > 1000",
		},
		"a rule in shadow that asks for it": {"/clerk", assessMethod, "", adminv1.Outcome_OUTCOME_ALLOWED, adminv1.Outcome_OUTCOME_UNDECIDED, "policy.yaml:", ""},
		"a rule in shadow":                  {"/trainee", assessMethod, "", adminv1.Outcome_OUTCOME_DENIED, adminv1.Outcome_OUTCOME_ALLOWED, "", "the caller is /trainee"},
		"a rule that denies":                {"/branch/south", assessMethod, "", adminv1.Outcome_OUTCOME_DENIED, 0, "policy.yaml:", "denied for /branch/south; the caller is /branch/south: closed"},
		"a condition that does not hold":    {"/counter", assessMethod, dear, adminv1.Outcome_OUTCOME_DENIED, 0, "", "allowed for /counter when request.amount.minor_units <= 500, which this call is not"},
		"an empty request":                  {"/counter", assessMethod, "{}", adminv1.Outcome_OUTCOME_ALLOWED, 0, "policy.yaml:", ""},
		"a method that there is not":        {"/payments", "/bank.risk.v1.RiskService/NoSuch", "", adminv1.Outcome_OUTCOME_DENIED, 0, "", `has no rules for "/bank.risk.v1.RiskService/NoSuch"`},
		"what is no method":                 {"/payments", "/", "", adminv1.Outcome_OUTCOME_DENIED, 0, "", `has no rules for "/"`},
	} {
		r, err := operator.ExplainDecision(t.Context(), &adminv1.ExplainDecisionRequest{PeerId: "spiffe://bank.test" + test.peer, Method: test.method, RequestJson: test.json})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r.GetOutcome() != test.outcome || r.GetShadowOutcome() != test.shadow || strings.HasPrefix(r.GetRule(), "policy.yaml:") != (test.rule != "") ||
			(r.GetReason() == "") != (test.reason == "") || !strings.Contains(r.GetReason(), test.reason) || len(r.GetPolicyVersion()) != 16 {
			t.Errorf("%s: %v", name, r)
		}
	}
}

func TestAnExplanationKnowsUsers(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", strings.Replace(explainedPolicy, "{peer: /thief}", "{peer: /gateway, user: transfer, when: user.subject == 'alice'}", 1))
	operator := adminClient(t, m, "/operator", "/risk", m.Serve(t, "/risk", nothingElse))
	for name, test := range map[string]struct {
		user *policyv1.User
		none bool
		want adminv1.Outcome
	}{
		"nothing is said": {nil, false, adminv1.Outcome_OUTCOME_UNDECIDED},
		"no token":        {nil, true, adminv1.Outcome_OUTCOME_DENIED},
		"the user":        {&policyv1.User{Subject: "alice", Scope: "transfer"}, false, adminv1.Outcome_OUTCOME_ALLOWED},
		"another":         {&policyv1.User{Subject: "bob", Scope: "transfer"}, false, adminv1.Outcome_OUTCOME_DENIED},
		"another scope":   {&policyv1.User{Subject: "alice", Scope: "accounts.read"}, false, adminv1.Outcome_OUTCOME_DENIED},
	} {
		r, err := operator.ExplainDecision(t.Context(), &adminv1.ExplainDecisionRequest{
			PeerId: "spiffe://bank.test/gateway", Method: assessMethod, User: test.user, NoUser: test.none,
		})
		if err != nil || r.GetOutcome() != test.want {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	if _, err := operator.ExplainDecision(t.Context(), &adminv1.ExplainDecisionRequest{
		PeerId: "spiffe://bank.test/gateway", Method: assessMethod, User: &policyv1.User{}, NoUser: true,
	}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a user and none: %v", err)
	}
}

func TestAnExplanationIsRefused(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", explainedPolicy)
	operator := adminClient(t, m, "/operator", "/risk", m.Serve(t, "/risk", nothingElse))
	const payments = "spiffe://bank.test/payments"
	for name, test := range map[string]struct {
		request *adminv1.ExplainDecisionRequest
		code    codes.Code
		want    string
	}{
		"to who says nothing":        {&adminv1.ExplainDecisionRequest{}, codes.InvalidArgument, ""},
		"about a trust domain":       {&adminv1.ExplainDecisionRequest{PeerId: "spiffe://bank.test", Method: assessMethod}, codes.InvalidArgument, "names a trust domain and no workload"},
		"about a name in upper case": {&adminv1.ExplainDecisionRequest{PeerId: "spiffe://BANK.test/x", Method: assessMethod}, codes.InvalidArgument, "peer_id: "},
		"about no method":            {&adminv1.ExplainDecisionRequest{PeerId: payments, Method: "AssessPayment"}, codes.InvalidArgument, "method"},
		"about no JSON":              {&adminv1.ExplainDecisionRequest{PeerId: payments, Method: assessMethod, RequestJson: "{"}, codes.InvalidArgument, "request_json is no bank.risk.v1.AssessPaymentRequest"},
		"about another request":      {&adminv1.ExplainDecisionRequest{PeerId: payments, Method: assessMethod, RequestJson: `{"item": 1}`}, codes.InvalidArgument, "request_json is no bank.risk.v1.AssessPaymentRequest"},
		"about an unknown method":    {&adminv1.ExplainDecisionRequest{PeerId: payments, Method: "/bank.risk.v1.RiskService/NoSuch", RequestJson: "{}"}, codes.NotFound, "are not known to this process"},
		"about an unknown service":   {&adminv1.ExplainDecisionRequest{PeerId: payments, Method: "/no.such.Service/NoSuch", RequestJson: "{}"}, codes.NotFound, "are not known to this process"},
		"about a message":            {&adminv1.ExplainDecisionRequest{PeerId: payments, Method: "/bank.risk.v1.AssessPaymentRequest/x", RequestJson: "{}"}, codes.NotFound, "are not known to this process"},
		"about what is no method":    {&adminv1.ExplainDecisionRequest{PeerId: payments, Method: "/", RequestJson: "{}"}, codes.NotFound, "are not known to this process"},
	} {
		r, err := operator.ExplainDecision(t.Context(), test.request)
		if status.Code(err) != test.code || !strings.Contains(status.Convert(err).Message(), test.want) {
			t.Errorf("%s: %v, %v; want %v and %q", name, r, err, test.code, test.want)
		}
	}
}

// ATTACKS 44: admin is under the policy.
func TestWhoMayNotAskLearnsNothingOfThePolicy(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", explainedPolicy)
	client := adminClient(t, m, "/payments", "/risk", m.Serve(t, "/risk", nothingElse))
	_, policy := client.GetPolicy(t.Context(), &adminv1.GetPolicyRequest{})
	_, explained := client.ExplainDecision(t.Context(), &adminv1.ExplainDecisionRequest{PeerId: "spiffe://bank.test/payments", Method: assessMethod})
	_, invalid := client.ExplainDecision(t.Context(), &adminv1.ExplainDecisionRequest{Method: "no method", RequestJson: "{"})
	for name, err := range map[string]error{"GetPolicy": policy, "ExplainDecision": explained, "ExplainDecision of nonsense": invalid} {
		if s := status.Convert(err); s.Code() != codes.PermissionDenied || s.Message() != "permission denied" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestARevokedPeerIsExplainedAsDenied(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", "revoked: [{id: /thief, why: stole}]\n"+explainedPolicy)
	addr := m.Serve(t, "/risk", (&risk{}).register)
	r, err := adminClient(t, m, "/operator", "/risk", addr).ExplainDecision(t.Context(),
		&adminv1.ExplainDecisionRequest{PeerId: "spiffe://bank.test/thief", Method: assessMethod})
	if err != nil || r.GetOutcome() != adminv1.Outcome_OUTCOME_DENIED || !strings.Contains(r.GetReason(), `the SPIFFE ID "spiffe://bank.test/thief"`) || r.GetRule() != "" {
		t.Errorf("the explanation is %v, %v", r, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := riskv1.NewRiskServiceClient(m.Dial(t, "/thief", "/risk", addr)).AssessPayment(ctx, request()); err == nil {
		t.Error("the call itself is let in")
	}
}

func TestGetPolicySaysWhatIsInForceAndWhyTheFileIsNot(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", explainedPolicy)
	begin := time.Now()
	path, file, addr := serveWatched(t, m, "/risk", explainedPolicy, quiet)
	operator := adminClient(t, m, "/operator", "/risk", addr)
	get := func() *adminv1.GetPolicyResponse {
		t.Helper()
		r, err := operator.GetPolicy(t.Context(), &adminv1.GetPolicyRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := get()
	if loaded := first.GetLoadTime().AsTime(); first.GetPolicyVersion() != file.Policy().Version() || first.GetFailure() != "" || first.GetFailureCount() != 0 ||
		loaded.Before(begin.Add(-time.Second)) || loaded.After(time.Now()) {
		t.Errorf("at first: %v", first)
	}
	rewrite(t, path, explainedPolicy+"allow_all: true\n")
	soon(t, "the mistake is seen", func() bool { return get().GetFailure() != "" })
	if broken := get(); !strings.Contains(broken.GetFailure(), `unknown field "allow_all"`) || broken.GetFailureCount() != 1 ||
		broken.GetPolicyVersion() != first.GetPolicyVersion() || !broken.GetLoadTime().AsTime().Equal(first.GetLoadTime().AsTime()) {
		t.Errorf("with a mistake in the file: %v", broken)
	}
	rewrite(t, path, explainedPolicy+"# another\n")
	soon(t, "the next policy is in force", func() bool { return get().GetPolicyVersion() != first.GetPolicyVersion() })
	if next := get(); next.GetFailure() != "" || next.GetFailureCount() != 1 || !next.GetLoadTime().AsTime().After(first.GetLoadTime().AsTime()) {
		t.Errorf("with another policy: %v", next)
	}
}

func TestAFailureOfAnyLengthAndBytesIsAnswered(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", explainedPolicy)
	path, _, addr := serveWatched(t, m, "/risk", explainedPolicy, quiet)
	operator := adminClient(t, m, "/operator", "/risk", addr)
	for name, text := range map[string]string{
		"thousands of mistakes": explainedPolicy + strings.Repeat("é: 1\n", 3000),
		// One of the two is cut within a character.
		"a long line":       "trust_domain: " + strings.Repeat("é", 40_000) + "\n",
		"one byte and more": "trust_domain: x" + strings.Repeat("é", 40_000) + "\n",
		"no text at all":    "trust_domain: bank\xff.test\nservices: {}\n",
	} {
		rewrite(t, path, text)
		var r *adminv1.GetPolicyResponse
		soon(t, "it answers: "+name, func() bool {
			var err error
			if r, err = operator.GetPolicy(t.Context(), &adminv1.GetPolicyRequest{}); err != nil {
				t.Fatal(err)
			}
			return r.GetFailure() != ""
		})
		if n := len(r.GetFailure()); n > 70_000 {
			t.Errorf("%s: the failure has %d bytes", name, n)
		}
		rewrite(t, path, explainedPolicy)
		soon(t, "the file is good again", func() bool {
			r, err := operator.GetPolicy(t.Context(), &adminv1.GetPolicyRequest{})
			return err == nil && r.GetFailure() == ""
		})
	}
}

// ATTACKS 13: names that look alike are other names, to an explanation too.
func TestLookAlikesAreExplainedAsOthers(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", explainedPolicy)
	operator := adminClient(t, m, "/operator", "/risk", m.Serve(t, "/risk", nothingElse))
	for _, peer := range []string{
		"spiffe://bank.test.evil/payments", "spiffe://bank.test/payments/x", "spiffe://bank.test/Payments", "spiffe://bank.test/branchx/north",
	} {
		r, err := operator.ExplainDecision(t.Context(), &adminv1.ExplainDecisionRequest{PeerId: peer, Method: assessMethod})
		if err != nil || r.GetOutcome() != adminv1.Outcome_OUTCOME_DENIED {
			t.Errorf("%s: %v, %v", peer, r, err)
		}
	}
}

// rewrite puts text in a file's place, by a rename.
func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
