// Package overload keeps a server from beginning more than it can finish, and tells the callers that it sends away when to come back.
//
// A Gate stands in the chain after authorization and before validation. It is the one place where a call is refused for anything but what
// it asks: because the server is full, because one peer has its share of the server, because calls come too fast, or because too little of the
// caller's deadline is left. A call that it refuses has not reached its handler: nothing was done in that attempt.
//
// There is no queue. A call that waits for a slot holds its memory and uses up its caller's deadline, and when the server is overloaded for
// longer than a moment, all that a queue does is to have every call wait for as long as the queue is: the server then works on calls whose
// callers have given up. What is refused at once costs little, and its caller can decide: to wait, to ask another server, to tell a person.
// Short bursts find room all the same, since the limits are far above what a service has in its handlers as a rule.
//
// What a refused call is told: RESOURCE_EXHAUSTED with a google.rpc.RetryInfo, and the same delay in the trailer grpc-retry-pushback-ms, which
// gRPC's own clients heed where their service config lets them retry that code (gRFC A6). A deadline that is too short is DEADLINE_EXCEEDED; a
// retry by the same call could only be worse, and the trailer says so. Each refusal has a google.rpc.ErrorInfo too, with the domain
// "countersign" and one of the reasons SERVER_FULL, PEER_SHARE_TAKEN, RATE_EXCEEDED and DEADLINE_TOO_SHORT.
package overload

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
)

const (
	// DefaultCalls is how many unary calls may be in handlers at once. One was measured to hold 25 KiB, its caller's end and a small
	// message included, so that all of them are 13 MiB; and 512 calls of 10 ms each are 50,000 a second, more than a small service does.
	DefaultCalls = 512
	// DefaultStreams is how many streams may be open at once. An idle one was measured to hold 36 KiB in the same way, so that all
	// of them are 37 MiB: about what a service takes at rest.
	DefaultStreams = 1024
	// DefaultRate is how many calls and streams may begin in a second, and at once after a rest.
	DefaultRate = 10_000
	// LeastDeadline is what must be left of a caller's deadline. A write that is durable, with its hops, takes some 5 to 30 ms on a small
	// machine that is busy. With less than 50 ms left, the answer would probably come too late: the work would be for nobody, and of a
	// write the caller would not know how it ended.
	LeastDeadline = 50 * time.Millisecond
	// operatorSlots is what health, reflection and administration have for themselves.
	operatorSlots = 64
	// watchSlots is how many watches there may be of the kind that each client holds open: as many clients as a server of this size can serve, and half of
	// what other streams may take of its memory.
	watchSlots = 512
)

// Limits are what a Gate lets through. Each is one of the defaults where it is 0 or nil.
type Limits struct {
	// Calls and Streams bound the unary calls and the streams that are in their handlers at once. They are bounded apart: a watch lives for
	// hours, and must not keep calls out that take milliseconds. No peer gets more than three quarters of either.
	Calls, Streams int
	// Rate bounds how many calls and streams begin in a second.
	Rate *rate.Limiter
	// LeastDeadline is what must be left of a caller's deadline.
	LeastDeadline time.Duration
}

func (l Limits) withDefaults() (Limits, error) {
	l.Calls, l.Streams = orDefault(l.Calls, DefaultCalls), orDefault(l.Streams, DefaultStreams)
	l.LeastDeadline = orDefault(l.LeastDeadline, LeastDeadline)
	if l.Rate == nil {
		l.Rate = rate.NewLimiter(DefaultRate, DefaultRate)
	}
	var errs []error
	for name, n := range map[string]int{"calls": l.Calls, "streams": l.Streams} {
		if n < 0 || n > maxSlots {
			errs = append(errs, fmt.Errorf("%d %s at once: want from 1 to %d", n, name, maxSlots))
		}
	}
	return l, errors.Join(errs...)
}

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// Option changes a default of New.
type Option func(*Gate)

// WithLogger sets where refusals are logged, once in a while; slog.Default by default.
func WithLogger(log *slog.Logger) Option { return func(g *Gate) { g.log = log } }

// New returns a Gate with these limits. It fails for a number that makes no sense.
func New(limits Limits, opts ...Option) (*Gate, error) {
	limits, err := limits.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("limit what a server takes: %w", err)
	}
	g := &Gate{limits: limits, log: slog.Default(), made: time.Now(), line: rate.NewLimiter(rate.Every(logInterval), 1)}
	g.calls.kind, g.streams.kind, g.operator.kind, g.watches.kind = "unary", "stream", "operator", "watch"
	g.calls.allot(limits.Calls)
	g.streams.allot(limits.Streams)
	g.operator.allot(operatorSlots)
	g.watches.allot(watchSlots)
	for _, opt := range opts {
		opt(g)
	}
	return g, nil
}

// Status is how a Gate stands.
type Status struct {
	// Kinds has an entry for "unary", "stream", "operator" and "watch".
	Kinds map[string]KindStatus
}

// KindStatus is how one kind of calls stands.
type KindStatus struct {
	// InFlight are in their handlers now, of Limit.
	InFlight, Limit int
	// Refused counts refusals by reason: "full", "share", "rate" and "deadline", each of which is there from the start.
	Refused map[string]uint64
}

// Status returns how the Gate stands.
func (g *Gate) Status() Status {
	s := Status{Kinds: make(map[string]KindStatus)}
	for _, kind := range []*slots{&g.calls, &g.streams, &g.operator, &g.watches} {
		refused := make(map[string]uint64)
		ordinary := kind == &g.calls || kind == &g.streams
		for r := range reasons {
			if ordinary || r == full || r == share { // what is reserved is refused for nothing else
				refused[r.String()] = kind.refused[r].Load()
			}
		}
		s.Kinds[kind.kind] = KindStatus{InFlight: int(kind.taken.Load()), Limit: int(kind.limit), Refused: refused}
	}
	return s
}
