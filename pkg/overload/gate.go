package overload

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

// Gate lets calls through to their handlers while there is room, and refuses them when there is not. Its interceptors belong behind authorization,
// so that a peer that may not call takes no room and learns nothing of how full the server is; only of a stream that is judged by its messages
// nobody knows yet. It is safe for concurrent use. The zero
// value is not usable; see New.
type Gate struct {
	limits                            Limits
	log                               *slog.Logger
	made                              time.Time
	calls, streams, operator, watches slots
	// reserved are the services that have the operator's slots, watched the methods whose streams have those of watches.
	reserved []any
	watched  []string
	rate     pace
	line     *rate.Limiter
}

// logInterval is the least time between two lines about refusals. Each of them is counted; a line for each would be work that an overloaded server
// can do without.
const logInterval = 10 * time.Second

// Reserve gives a service slots of its own, a few, and takes it out of the rate and the least deadline: whoever operates a server needs it
// the most when it is full. It is for services that answer from memory. Call it before the server serves.
func (g *Gate) Reserve(service any) { g.reserved = append(g.reserved, service) }

// ReserveWatch gives the streams of one method slots of their own, and takes them out of the rate and the least deadline. It is for a watch that each client holds
// open for as long as it is connected, whether it calls or not: in the slots of other streams, or the operator's, the clients at rest would keep out who
// has something to do. Call it before the server serves.
func (g *Gate) ReserveWatch(fullMethod string) { g.watched = append(g.watched, fullMethod) }

// Unary returns the interceptor of unary calls.
func (g *Gate) Unary() grpc.UnaryServerInterceptor { return g.UnaryOf(peerOf) }

// Stream returns the interceptor of streams.
func (g *Gate) Stream() grpc.StreamServerInterceptor { return g.StreamOf(peerOf) }

// UnaryOf is Unary where callers are no peers of the mesh: caller says who has made a call, and with whom a share is shared. The slots are the same.
func (g *Gate) UnaryOf(caller func(context.Context) string) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		v, err := g.enter(ctx, caller, g.reservedFor(info.Server), &g.calls)
		if err != nil {
			_ = grpc.SetTrailer(ctx, g.pushback(ctx, err)) // fails where there is no call, and so nobody to tell
			return nil, err
		}
		defer v.release() // after a panic too
		response, err := handler(ctx, request)
		if err != nil {
			_ = grpc.SetTrailer(ctx, g.pushback(ctx, err))
		}
		return response, err
	}
}

// StreamOf is UnaryOf for streams.
func (g *Gate) StreamOf(caller func(context.Context) string) grpc.StreamServerInterceptor {
	return func(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		reserved := g.reservedFor(service)
		if slices.Contains(g.watched, info.FullMethod) {
			reserved = &g.watches
		}
		v, err := g.enter(stream.Context(), caller, reserved, &g.streams)
		if err != nil {
			stream.SetTrailer(g.pushback(stream.Context(), err))
			return err
		}
		defer v.release()
		if err = handler(service, stream); err != nil {
			stream.SetTrailer(g.pushback(stream.Context(), err))
		}
		return err
	}
}

// peerOf is the SPIFFE ID of a call's peer. All that have none share a count.
func peerOf(ctx context.Context) string {
	if peer, ok := identity.FromContext(ctx); ok {
		return peer.ID.String()
	}
	return ""
}

// enter lets a call in, to the slots that are reserved for it or to those of its kind, or says why not. What costs the server nothing is asked first, and a call
// that finds no slot leaves the rate alone.
func (g *Gate) enter(ctx context.Context, caller func(context.Context) string, reserved, kind *slots) (visit, error) {
	now := time.Now()
	if reserved != nil {
		return g.take(ctx, caller(ctx), reserved, now)
	}
	if until, limited := ctx.Deadline(); limited && until.Sub(now) < g.limits.LeastDeadline {
		return visit{}, g.refuse(ctx, kind, tooShort(g.limits.LeastDeadline))
	}
	v, err := g.take(ctx, caller(ctx), kind, now)
	if err == nil && !g.limits.Rate.AllowN(now, 1) {
		v.release()
		return visit{}, g.refuse(ctx, kind, tooMany(exceeded, g.rateDelay(now)))
	}
	return v, err
}

// reservedFor returns the slots that are reserved for a service, or nil.
func (g *Gate) reservedFor(service any) *slots {
	if slices.Contains(g.reserved, service) {
		return &g.operator
	}
	return nil
}

// take takes a slot of a kind, or refuses the call.
func (g *Gate) take(ctx context.Context, caller string, kind *slots, now time.Time) (visit, error) {
	v, why := kind.take(caller, now)
	if why != admitted {
		delay := kind.pace.delay(now, float64(kind.freed.Load()), kind.interval())
		return visit{}, g.refuse(ctx, kind, tooMany(why, delay))
	}
	return v, nil
}

// rateDelay is when the rate has room for one more.
func (g *Gate) rateDelay(now time.Time) time.Duration {
	perSecond := float64(g.limits.Rate.Limit())
	interval := maxDelay
	if perSecond*maxDelay.Seconds() > 1 {
		interval = time.Duration(float64(time.Second) / perSecond)
	}
	return g.rate.delay(now, now.Sub(g.made).Seconds()*perSecond, interval)
}

// refuse counts a refusal, and logs one of many.
func (g *Gate) refuse(ctx context.Context, kind *slots, r *refusal) error {
	total := kind.refused[r.reason].Add(1)
	if g.line.Allow() {
		g.log.WarnContext(ctx, "calls are refused", "kind", kind.kind, "reason", r.reason.String(), "refused_so_far", total,
			"in_flight", kind.taken.Load(), "limit", kind.limit)
	}
	return r
}
