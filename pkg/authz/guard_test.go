package authz_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// authInfo is what a connection secured by package transport offers.
type authInfo struct {
	credentials.CommonAuthInfo
	peer *identity.Peer
}

func (authInfo) AuthType() string { return "fake" }

func (a authInfo) Peer() *identity.Peer { return a.peer }

// callFrom is the context of a call that a peer makes.
func callFrom(id spiffeid.ID) context.Context {
	return peer.NewContext(context.Background(), &peer.Peer{AuthInfo: authInfo{peer: &identity.Peer{ID: id, Serial: "c0ffee"}}})
}

// records keeps what was recorded.
type records struct {
	mu   sync.Mutex
	list []audit.Decision
}

func (r *records) Record(d audit.Decision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, d)
}

// policies is a policy that a test can replace.
type policies struct {
	mu      sync.Mutex
	current *policy.Policy
	changed chan struct{}
}

func newPolicies(p *policy.Policy) *policies {
	return &policies{current: p, changed: make(chan struct{})}
}

func (p *policies) Policy() *policy.Policy {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

func (p *policies) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// replace puts another policy in force. A quiet one is not announced, so that only a message can notice it.
func (p *policies) replace(policy *policy.Policy, announce bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = policy
	if announce {
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

func guarded(t *testing.T, text string) (*authz.Guard, *policies, *records, *log) {
	t.Helper()
	source, recorded, out := newPolicies(mustParse(t, text)), &records{}, &log{}
	guard := authz.NewGuard(source, authz.WithRecorder(recorded), authz.WithLogger(slog.New(slog.NewTextHandler(out, nil))))
	return guard, source, recorded, out
}

// call makes a unary call through guard and reports whether it reached the handler.
func call(ctx context.Context, guard *authz.Guard, method string) (reached bool, err error) {
	_, err = guard.Unary()(ctx, nil, &grpc.UnaryServerInfo{FullMethod: method}, func(context.Context, any) (any, error) {
		reached = true
		return nil, nil
	})
	return reached, err
}

func TestAnAllowedCallReachesItsHandlerAndIsRecorded(t *testing.T) {
	t.Parallel()
	guard, source, recorded, _ := guarded(t, policyText)
	traceID := trace.TraceID{1, 2, 3}
	ctx := trace.ContextWithSpanContext(callFrom(payments), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: traceID, SpanID: trace.SpanID{1},
	}))
	reached, err := call(ctx, guard, post)
	if err != nil || !reached {
		t.Fatalf("reached %v, error %v", reached, err)
	}
	if len(recorded.list) != 1 {
		t.Fatalf("%d decisions were recorded, want 1", len(recorded.list))
	}
	got := recorded.list[0]
	want := audit.Decision{
		ID: got.ID, Time: got.Time,
		PeerID: payments.String(), PeerSerial: "c0ffee", Method: post, Allowed: true, Rule: "p.yaml:7",
		PolicyVersion: source.Policy().Version(), TraceID: traceID,
	}
	if got != want || got.Time.IsZero() || got.ID == (audit.ID{}) {
		t.Errorf("recorded %+v, want %+v", got, want)
	}
}

// The caller of a denied call learns that it is denied, and an ID; the reason, which names who is allowed, stays inside.
func TestADeniedCallerLearnsAnIDAndNothingElse(t *testing.T) {
	t.Parallel()
	guard, _, recorded, out := guarded(t, policyText)
	reached, err := call(callFrom(risk), guard, post)
	if reached {
		t.Error("the call reached its handler")
	}
	st := status.Convert(err)
	if st.Code() != codes.PermissionDenied || st.Message() != "permission denied" {
		t.Errorf("the caller got %v", err)
	}
	if len(recorded.list) != 1 || recorded.list[0].Allowed {
		t.Fatalf("recorded %+v, want one denial", recorded.list)
	}
	id := recorded.list[0].ID.String()
	info, ok := st.Details()[0].(*errdetails.ErrorInfo)
	if !ok || info.GetReason() != "DENIED" || info.GetDomain() != "countersign" || info.GetMetadata()["decision_id"] != id {
		t.Errorf("the details are %v, want the decision ID %s", st.Details(), id)
	}
	if strings.Contains(st.String(), "payments") || strings.Contains(info.String(), "payments") {
		t.Errorf("the caller is told who is allowed: %v %v", st, info)
	}
	for _, want := range []string{id, "allowed for /payments; the caller is /risk", risk.String(), "c0ffee"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, out)
		}
	}
}

func TestACallerWithoutIdentityIsDenied(t *testing.T) {
	t.Parallel()
	for name, ctx := range map[string]context.Context{
		"no peer":               context.Background(),
		"a plaintext peer":      peer.NewContext(context.Background(), &peer.Peer{}),
		"a stock TLS peer":      peer.NewContext(context.Background(), &peer.Peer{AuthInfo: credentials.TLSInfo{SPIFFEID: payments.URL()}}),
		"a peer with a zero ID": callFrom(spiffeid.ID{}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guard, _, recorded, _ := guarded(t, policyText)
			reached, err := call(ctx, guard, post)
			if reached || status.Code(err) != codes.PermissionDenied {
				t.Errorf("reached %v, error %v", reached, err)
			}
			if len(recorded.list) != 1 || recorded.list[0].Allowed {
				t.Errorf("recorded %+v, want one denial", recorded.list)
			}
		})
	}
}

func TestAdmitDecidesByTheHeadersAndRecordsWhatItDenies(t *testing.T) {
	t.Parallel()
	guard, _, recorded, _ := guarded(t, policyText)
	if err := guard.Admit(callFrom(payments), post); err != nil {
		t.Errorf("an allowed call: %v", err)
	}
	if n := len(recorded.list); n != 0 {
		t.Errorf("%d decisions were recorded for a call that is yet to be decided", n)
	}
	for _, method := range []string{post, "/no.such.Service/Method"} {
		if err := guard.Admit(callFrom(risk), method); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a denied call of %s: %v", method, err)
		}
	}
	if err := guard.Admit(context.Background(), post); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a caller without identity: %v", err)
	}
	if n := len(recorded.list); n != 3 {
		t.Errorf("%d decisions were recorded for 3 denials", n)
	}
}

// The audit service gets every denial; the log gets what it can bear.
func TestAFloodOfDenialsIsRecordedAndNotAllLogged(t *testing.T) {
	t.Parallel()
	guard, _, recorded, out := guarded(t, policyText)
	const calls = 1000
	for range calls {
		if reached, _ := call(callFrom(risk), guard, "/"+strings.Repeat("x", 10_000)); reached {
			t.Fatal("the call reached its handler")
		}
	}
	if n := len(recorded.list); n != calls {
		t.Errorf("%d of %d denials were recorded", n, calls)
	}
	lines := strings.Count(out.String(), "call denied")
	if lines == 0 || lines > calls/2 || len(out.String()) > lines*1000 {
		t.Errorf("%d lines, %d bytes were logged for %d denials", lines, len(out.String()), calls)
	}
}

func BenchmarkGuard(b *testing.B) {
	source := newPolicies(mustParse(b, policyText))
	unary := authz.NewGuard(source).Unary()
	info := &grpc.UnaryServerInfo{FullMethod: post}
	ctx := callFrom(payments)
	handler := func(context.Context, any) (any, error) { return nil, nil }
	b.ReportAllocs()
	for b.Loop() {
		if _, err := unary(ctx, nil, info, handler); err != nil {
			b.Fatal(err)
		}
	}
}

// What callers of a method are told of a denial can be another status: at once, and where a stream ends because the policy has changed. What is decided and recorded is
// the same.
func TestTheAnswerToADenialCanBeAnother(t *testing.T) {
	t.Parallel()
	source, recorded := newPolicies(mustParse(t, policyText)), &records{}
	var told []string
	guard := authz.NewGuard(source, authz.WithRecorder(recorded), authz.WithLogger(slog.New(slog.DiscardHandler)),
		authz.WithAnswer(func(method string, denial error) error {
			told = append(told, method+" "+status.Code(denial).String())
			return status.Error(codes.Unimplemented, "nothing of the kind")
		}))
	admitted := guard.Admit(callFrom(risk), post)
	_, called := call(callFrom(risk), guard, post)
	opened := open(guard, risk, func(grpc.ServerStream) error { return nil })
	ended := open(guard, payments, func(ss grpc.ServerStream) error {
		source.replace(mustParse(t, strings.ReplaceAll(policyText, "/payments", "/nobody")), false)
		return ss.SendMsg(nil)
	})
	for what, err := range map[string]error{"a call's headers": admitted, "a call": called, "a stream": opened, "an open stream": ended} {
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(told) != 4 || told[0] != post+" PermissionDenied" {
		t.Errorf("asked for %q", told)
	}
	var denied int
	for _, d := range recorded.list {
		if !d.Allowed {
			denied++
		}
	}
	if denied != 4 {
		t.Errorf("%d denials are recorded, want 4", denied)
	}
	if _, err := call(callFrom(risk), guard, post); err == nil {
		t.Error("the call is let in")
	}
}
