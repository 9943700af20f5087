// Package explain says what a policy decides on a call that might be made, and whether the servers of the mesh decide the same.
package explain

import (
	"context"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// Question is a call that might be made.
type Question struct {
	Peer spiffeid.ID
	// Method is the full method, "/package.Service/Method".
	Method string
	// JSON is the request, and Request the message that it is; empty and nil when it is not known.
	JSON    string
	Request proto.Message
	// User is the user whose verified token the call carries; nil when it is not known. With NoUser it is known to carry none.
	User   *policyv1.User
	NoUser bool
}

// Answer is what is decided on it.
type Answer struct {
	// Outcome is "allowed", "denied" or "undecided".
	Outcome string
	// Rule is the place of the rule that decides, "bank.yaml:12"; empty when none does.
	Rule string
	// Shadow is the outcome if the rules in shadow were enforced; empty when none of them applies. ShadowRule is the place of the one that does.
	Shadow, ShadowRule string
	// Version is the version of the policy that decides.
	Version string
}

// The outcomes.
const (
	Allowed   = "allowed"
	Denied    = "denied"
	Undecided = "undecided"
)

// Ask asks a policy.
func (q Question) Ask(p *policy.Policy) (policy.Verdict, Answer) {
	call := policy.Call{Method: q.Method, Peer: &identity.Peer{ID: q.Peer}, Request: q.Request}
	switch {
	case q.NoUser:
		call.UserErr = policy.ErrNoUser
	case q.User != nil:
		call.User = policy.UserOf(q.User)
	}
	v := p.Decide(call)
	a := Answer{Outcome: outcome(v.Allowed, v.Undecided), Rule: v.Rule.Place(), Version: p.Version()}
	if v.Shadow.Rule != nil || v.Shadow.Undecided {
		a.Shadow, a.ShadowRule = outcome(v.Shadow.Allowed, v.Shadow.Undecided), v.Shadow.Rule.Place()
	}
	return v, a
}

func outcome(allowed, undecided bool) string {
	switch {
	case undecided:
		return Undecided
	case allowed:
		return Allowed
	default:
		return Denied
	}
}

// Served is what a server says.
type Served struct {
	// Answer has the Version alone when the server does not know the method's messages, so that it cannot be asked with a request. Such a server
	// does not serve the method.
	Answer
	// Failure is why the file that the server reads is not in force there; empty when it is.
	Failure string
}

// AskServer asks a server, with whatever identity conn has.
func (q Question) AskServer(ctx context.Context, conn grpc.ClientConnInterface) (Served, error) {
	client := adminv1.NewAdminServiceClient(conn)
	state, err := client.GetPolicy(ctx, &adminv1.GetPolicyRequest{})
	if err != nil {
		return Served{}, err
	}
	served := Served{Answer: Answer{Version: state.GetPolicyVersion()}, Failure: state.GetFailure()}
	r, err := client.ExplainDecision(ctx, &adminv1.ExplainDecisionRequest{PeerId: q.Peer.String(), Method: q.Method, RequestJson: q.JSON, User: q.User, NoUser: q.NoUser})
	if status.Code(err) == codes.NotFound {
		return served, nil
	}
	if err != nil {
		return Served{}, err
	}
	served.Answer = Answer{
		Outcome: word(r.GetOutcome()), Rule: r.GetRule(), Shadow: word(r.GetShadowOutcome()), ShadowRule: r.GetShadowRule(), Version: r.GetPolicyVersion(),
	}
	return served, nil
}

// word is the name of an outcome; empty when none is said.
func word(o adminv1.Outcome) string {
	if o == adminv1.Outcome_OUTCOME_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(o.String(), "OUTCOME_"))
}

// Difference says where a server differs from the file; empty when it does not. Two policies of different versions differ, whatever they say of
// one call.
func (s Served) Difference(file Answer) string {
	var parts []string
	if s.Version != file.Version {
		parts = append(parts, fmt.Sprintf("it has the policy %s in force, and the file is %s", s.Version, file.Version))
	}
	if s.Outcome != "" && s.Outcome != file.Outcome {
		parts = append(parts, fmt.Sprintf("it decides %q, and the file %q", s.Outcome, file.Outcome))
	}
	if s.Outcome != "" && s.Shadow != file.Shadow {
		parts = append(parts, fmt.Sprintf("with the rules in shadow it decides %q, and the file %q", s.Shadow, file.Shadow))
	}
	if s.Failure != "" && len(parts) > 0 {
		parts = append(parts, "the file that it reads is not usable: "+s.Failure)
	}
	return strings.Join(parts, "; ")
}
