package authz

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// Policies is where a Guard finds the policy in force; a File is one.
type Policies interface {
	// Policy returns the policy in force.
	Policy() *policy.Policy
	// Changed is closed when the next policy comes into force. Whoever waits for that calls it before Policy.
	Changed() <-chan struct{}
}

// Guard asks the policy on every call and on every message of a stream, and records what it decided. It is safe for
// concurrent use. The zero value is not usable; see NewGuard.
type Guard struct {
	policies Policies
	recorder audit.Recorder
	log      *slog.Logger
	// lines bounds how many denials a second are logged; the recorder gets all of them. unlogged counts the others.
	lines    *rate.Limiter
	unlogged atomic.Int64
	answer   func(fullMethod string, denial error) error
	users    Users
	now      func() time.Time
}

const (
	// A peer can make denied calls as fast as it can send; the log must not grow at that pace.
	denialLines     = 20 // a second
	denialLineBurst = 100
	// maxLoggedMethod bounds what a caller's own words take of a line.
	maxLoggedMethod = 200
)

// GuardOption changes a default of NewGuard.
type GuardOption func(*Guard)

// WithRecorder sends every decision to r; by default none is recorded.
func WithRecorder(r audit.Recorder) GuardOption { return func(g *Guard) { g.recorder = r } }

// WithLogger sets where denied calls are logged; slog.Default by default.
func WithLogger(log *slog.Logger) GuardOption { return func(g *Guard) { g.log = log } }

// WithAnswer has the caller of a denied call told what answer makes of the denial. It changes nothing of the decision, nor of what is recorded and logged of it. It is
// for a method whose callers understand another status better than PERMISSION_DENIED.
func WithAnswer(answer func(fullMethod string, denial error) error) GuardOption {
	return func(g *Guard) { g.answer = answer }
}

// NewGuard returns a Guard that decides by the policy in force at the moment of each decision.
func NewGuard(policies Policies, opts ...GuardOption) *Guard {
	g := &Guard{policies: policies, recorder: discard{}, log: slog.Default(), lines: rate.NewLimiter(denialLines, denialLineBurst), now: time.Now}
	g.answer = func(_ string, denial error) error { return denial }
	for _, opt := range opts {
		opt(g)
	}
	return g
}

type discard struct{}

func (discard) Record(audit.Decision) {}

// Admit decides on a call before any of it is read but its headers. It fails for one that is denied, which is recorded
// then. One that it lets in meets Unary or Stream, where its decision is made again, recorded, and final; so does one that depends on its request.
//
// gRPC reads and decodes a unary request before it asks an interceptor: without this, a caller that is not allowed would be told by
// the errors of decoding which methods exist, and could make a server hold its messages.
func (g *Guard) Admit(ctx context.Context, fullMethod string) error {
	d := g.decide(ctx, fullMethod, nil)
	if d.verdict.Allowed || d.verdict.Undecided {
		return nil
	}
	return g.settle(ctx, d)
}

// Unary guards unary calls.
func (g *Guard) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		d, with := g.decide(ctx, info.FullMethod, req), ctx
		if d.verdict.NeedsUser {
			enforced := d.verdict.Undecided
			with, d.user = g.find(ctx)
			d.user.enforced = enforced
			d = d.on(req)
		}
		if err := g.settle(ctx, d); err != nil {
			return nil, err
		}
		if d.verdict.Rule.User != "" {
			ctx = with // and not where a rule in shadow alone asked for the user: it changes nothing
		}
		return handler(ctx, req)
	}
}

// Stream guards streams: when they open, at each message where the policy asks for what is in it, and again once another policy is in force. A
// stream that is no longer allowed then ends: its context does, and its messages fail.
func (g *Guard) Stream() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		guarded := newGuardedStream(ss, g, info)
		if err := guarded.open(); err != nil {
			return err
		}
		unfollow := guarded.follow()
		defer unfollow()
		return guarded.result(handler(srv, guarded))
	}
}

// decision is what one policy says of one call.
type decision struct {
	method  string
	peer    *identity.Peer // nil for nobody
	user    found
	request proto.Message // nil while it is not known
	policy  *policy.Policy
	verdict policy.Verdict
}

// decide is the one place where calls are decided on. request is nil while it is not known; nor is the user known yet.
func (g *Guard) decide(ctx context.Context, fullMethod string, request any) decision {
	return g.begin(ctx, fullMethod).on(request)
}

// begin returns a decision that has yet to be made, by the policy in force.
func (g *Guard) begin(ctx context.Context, fullMethod string) decision {
	d := decision{method: fullMethod, policy: g.policies.Policy()}
	d.peer, _ = identity.FromContext(ctx)
	return d
}

// on returns the decision by the same policy for a request.
func (d decision) on(request any) decision {
	d.request, _ = request.(proto.Message) // what is none answers no condition
	d.verdict = d.policy.Decide(policy.Call{Method: d.method, Peer: d.peer, Request: d.request, User: d.user.user, UserErr: d.user.err})
	return d
}

// asks reports whether the policy asks for the content of the request, which the decision was made without.
func (d decision) asks() bool { return d.verdict.Undecided || d.verdict.Shadow.Undecided }

// settle records a decision as final and returns the error for the caller, nil when the call is let in. What is still undecided is denied.
func (g *Guard) settle(ctx context.Context, d decision) error {
	record := audit.Decision{
		ID:            audit.NewID(),
		Time:          g.now(),
		Method:        d.method,
		Allowed:       d.verdict.Allowed,
		Rule:          d.verdict.Rule.Place(),
		Reason:        d.verdict.Reason,
		PolicyVersion: d.policy.Version(),
		TraceID:       trace.SpanContextFromContext(ctx).TraceID(),
		ShadowRule:    d.verdict.Shadow.Rule.Place(),
		ShadowAllowed: d.verdict.Shadow.Allowed,
	}
	if d.peer != nil {
		record.PeerID, record.PeerSerial = d.peer.ID.String(), d.peer.Serial
	}
	if d.user.user != nil { // found is never a user whose token is not good
		record.Subject, record.TransactionID = d.user.user.Subject, d.user.user.Transaction
	}
	g.recorder.Record(record)
	if record.Allowed {
		return nil
	}
	g.logDenial(ctx, record)
	if d.user.enforced && errors.Is(d.user.err, ErrUnavailable) {
		return refused(codes.Unavailable, "the call's user cannot be verified now", "USER_UNVERIFIABLE", record.ID)
	}
	return g.answer(d.method, refused(codes.PermissionDenied, "permission denied", "DENIED", record.ID))
}

func (g *Guard) logDenial(ctx context.Context, d audit.Decision) {
	if !g.lines.Allow() {
		g.unlogged.Add(1)
		return
	}
	method := d.Method[:min(len(d.Method), maxLoggedMethod)]
	g.log.WarnContext(ctx, "call denied", "decision_id", d.ID.String(), "peer", d.PeerID, "peer_serial", d.PeerSerial,
		"method", method, "reason", d.Reason, "policy", d.PolicyVersion, "not_logged_before", g.unlogged.Swap(0))
}

// refused is what the caller of a denied call is told: that, and the ID under which an operator finds the reason.
func refused(code codes.Code, text, reason string, id audit.ID) error {
	st, err := status.New(code, text).WithDetails(&errdetails.ErrorInfo{
		Reason:   reason,
		Domain:   "countersign",
		Metadata: map[string]string{"decision_id": id.String()},
	})
	if err != nil {
		return status.Error(code, text)
	}
	return st.Err()
}
