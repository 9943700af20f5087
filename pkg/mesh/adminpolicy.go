package mesh

import (
	"context"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

// maxFailureBytes bounds what a response says of a file that is wrong: one with thousands of mistakes has as many lines.
const maxFailureBytes = 64 << 10

// GetPolicy implements AdminService.
func (a *admin) GetPolicy(context.Context, *adminv1.GetPolicyRequest) (*adminv1.GetPolicyResponse, error) {
	now := a.policy.Status()
	response := &adminv1.GetPolicyResponse{
		PolicyVersion: now.Version,
		LoadTime:      timestamppb.New(now.Loaded),
		FailureCount:  int64(now.Failures),
	}
	if now.Failure != nil {
		text := now.Failure.Error()
		// A file's name or content may be no UTF-8, and a bound may cut a character in two.
		response.Failure = strings.ToValidUTF8(text[:min(len(text), maxFailureBytes)], "\uFFFD")
	}
	return response, nil
}

// ExplainDecision implements AdminService. It asks the policy what a Guard asks it, and records nothing: no call was made.
func (a *admin) ExplainDecision(_ context.Context, request *adminv1.ExplainDecisionRequest) (*adminv1.ExplainDecisionResponse, error) {
	id, err := spiffeid.FromString(request.GetPeerId())
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "peer_id: %v", err)
	}
	if id.Path() == "" { // no certificate with it is accepted (X509-SVID §5.2)
		return nil, status.Error(codes.InvalidArgument, "peer_id names a trust domain and no workload")
	}
	call := policy.Call{Method: request.GetMethod(), Peer: &identity.Peer{ID: id}}
	switch {
	case request.GetNoUser():
		call.UserErr = policy.ErrNoUser
	case request.GetUser() != nil:
		call.User = policy.UserOf(request.GetUser())
	}
	if text := request.GetRequestJson(); text != "" {
		if call.Request, err = requestOf(call.Method, text); err != nil {
			return nil, err
		}
	}
	current := a.policy.Policy()
	return explanation(current.Decide(call), current.Version()), nil
}

// requestOf makes the request of a full method of its JSON.
func requestOf(method, text string) (proto.Message, error) {
	input := inputOf(method)
	if input == nil {
		return nil, status.Errorf(codes.NotFound, "the messages of %.200q are not known to this process", method)
	}
	var message proto.Message
	if linked, err := protoregistry.GlobalTypes.FindMessageByName(input.FullName()); err == nil {
		message = linked.New().Interface()
	} else {
		message = dynamicpb.NewMessage(input)
	}
	if err := protojson.Unmarshal([]byte(text), message); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "request_json is no %s: %v", input.FullName(), err)
	}
	return message, nil
}

// inputOf returns what the requests of a full method are; nil when this process does not know.
func inputOf(method string) protoreflect.MessageDescriptor {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil
	}
	described, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil
	}
	if m := described.Methods().ByName(protoreflect.Name(name)); m != nil {
		return m.Input()
	}
	return nil
}

func explanation(v policy.Verdict, version string) *adminv1.ExplainDecisionResponse {
	response := &adminv1.ExplainDecisionResponse{
		Outcome:       outcome(v.Allowed, v.Undecided),
		Rule:          v.Rule.Place(),
		Reason:        v.Reason,
		PolicyVersion: version,
	}
	if v.Shadow.Rule != nil || v.Shadow.Undecided {
		response.ShadowOutcome = outcome(v.Shadow.Allowed, v.Shadow.Undecided)
		response.ShadowRule = v.Shadow.Rule.Place()
	}
	return response
}

func outcome(allowed, undecided bool) adminv1.Outcome {
	switch {
	case undecided:
		return adminv1.Outcome_OUTCOME_UNDECIDED
	case allowed:
		return adminv1.Outcome_OUTCOME_ALLOWED
	default:
		return adminv1.Outcome_OUTCOME_DENIED
	}
}
