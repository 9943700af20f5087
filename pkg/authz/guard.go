package authz

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/identity"
)

// Policies is where a Guard finds the policy in force; a File is one.
type Policies interface {
	// Policy returns the policy in force.
	Policy() *Policy
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

// NewGuard returns a Guard that decides by the policy in force at the moment of each decision.
func NewGuard(policies Policies, opts ...GuardOption) *Guard {
	g := &Guard{policies: policies, recorder: discard{}, log: slog.Default(), lines: rate.NewLimiter(denialLines, denialLineBurst)}
	for _, opt := range opts {
		opt(g)
	}
	return g
}

type discard struct{}

func (discard) Record(audit.Decision) {}

// Admit decides on a call before any of it is read but its headers. It fails for one that is denied, which is recorded
// then. One that it lets in meets Unary or Stream, where its decision is made again, recorded, and final.
//
// gRPC reads and decodes a unary request before it asks an interceptor: without this, a caller that is not allowed would be told by
// the errors of decoding which methods exist, and could make a server hold its messages.
func (g *Guard) Admit(ctx context.Context, fullMethod string) error {
	peer, ok := identity.FromContext(ctx)
	if ok && decide(g.policies.Policy(), fullMethod, peer).Allowed {
		return nil
	}
	_, err := g.check(ctx, fullMethod)
	return err
}

// Unary guards unary calls.
func (g *Guard) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if _, err := g.check(ctx, info.FullMethod); err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
}

// Stream guards streams: when they open, and again once another policy is in force. A stream that is no longer allowed then
// ends: its context does, and its messages fail.
func (g *Guard) Stream() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		policy, err := g.check(ss.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		guarded := newGuardedStream(ss, g, info.FullMethod, policy)
		unfollow := guarded.follow()
		defer unfollow()
		return guarded.result(handler(srv, guarded))
	}
}

// check is the one place where a call is let in. It returns the policy that let it in, or the error for the caller.
func (g *Guard) check(ctx context.Context, fullMethod string) (*Policy, error) {
	policy := g.policies.Policy()
	decision := audit.Decision{
		ID:            audit.NewID(),
		Time:          time.Now(),
		Method:        fullMethod,
		PolicyVersion: policy.Version(),
		TraceID:       trace.SpanContextFromContext(ctx).TraceID(),
	}
	verdict := Verdict{Reason: "the caller has no verified identity"}
	if peer, ok := identity.FromContext(ctx); ok {
		decision.PeerID, decision.PeerSerial = peer.ID.String(), peer.Serial
		verdict = decide(policy, fullMethod, peer)
	}
	decision.Allowed, decision.Rule, decision.Reason = verdict.Allowed, verdict.Rule, verdict.Reason
	g.recorder.Record(decision)
	if verdict.Allowed {
		return policy, nil
	}
	g.logDenial(ctx, decision)
	return nil, denied(decision.ID)
}

// decide lets revocation stand above every rule. The connection of a revoked peer is cut too, but not in the same instant.
func decide(policy *Policy, fullMethod string, peer *identity.Peer) Verdict {
	if err := policy.Revocations().Check(peer); err != nil {
		return Verdict{Reason: err.Error()}
	}
	return policy.Decide(fullMethod, peer.ID)
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

// denied is what the caller of a denied call is told: that, and the ID under which an operator finds the reason.
func denied(id audit.ID) error {
	st, err := status.New(codes.PermissionDenied, "permission denied").WithDetails(&errdetails.ErrorInfo{
		Reason:   "DENIED",
		Domain:   "countersign",
		Metadata: map[string]string{"decision_id": id.String()},
	})
	if err != nil {
		return status.Error(codes.PermissionDenied, "permission denied")
	}
	return st.Err()
}
