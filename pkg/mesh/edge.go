package mesh

import (
	"context"
	"net"
	"time"

	"buf.build/go/protovalidate"
	validation "github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/protovalidate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
)

const (
	// maxEdgeStreams is for one connection. A phone has a few calls under way, and not the hundreds that one service has at another.
	maxEdgeStreams = 100
	// MaxEdgeMessageBytes bounds a message of a caller at the edge: what a person types, and not what services send each other.
	MaxEdgeMessageBytes = 64 << 10
)

// Edge is where a process is called by people from outside the mesh, who have no SPIFFE ID and are under no policy of the mesh. In the place of the policy
// stands what the process brings to authenticate and authorize them by (package userauth); everything else on a call's way is what it is in the mesh: telemetry,
// metrics, access log, recovery, the limits of what the server takes on, validation, and the drain at the end. It shares the server's room and its metrics, and
// its connections are limited like the server's, and more narrowly.
//
// What metadata a caller sends is for the authentication to read; it ends there, and no handler sees it.
//
// An Edge is a grpc.ServiceRegistrar. Register services before Serve; after that it is safe for concurrent use. The zero value is not usable; see
// Server.NewEdge.
type Edge struct {
	endpoint
	server  *Server
	caller  func(context.Context) string
	methods methodSet
	// within ends the streams of calls that come through Chain.
	within *streams
}

// NewEdge returns an Edge beside the server. creds is its side of TLS, users authenticates and authorizes each call, and caller names whom a call is made for once users
// has let it in: nobody gets more than a share of the server. The services of an Edge are not those of the server: none of them is under the policy, and none
// can be called by a peer of the mesh.
func (s *Server) NewEdge(creds credentials.TransportCredentials, users Interceptors, caller func(context.Context) string) *Edge {
	e := &Edge{
		endpoint: endpoint{log: s.log, timeout: s.timeout, streams: newStreams()},
		server:   s, caller: caller, methods: make(methodSet), within: newStreams(),
	}
	shaking := newHandshakes(creds)
	e.leave = func() {
		e.within.end(errStopping)
		shaking.all.abort()
	}
	e.grpc = grpc.NewServer(append(serverLimits(maxConnectionAge),
		grpc.MaxConcurrentStreams(maxEdgeStreams),
		grpc.MaxRecvMsgSize(MaxEdgeMessageBytes),
		grpc.Creds(shaking),
		grpc.StatsHandler(e.Telemetry()),
		grpc.ChainUnaryInterceptor(e.unary(users)...),
		grpc.ChainStreamInterceptor(e.stream(users, e.streams)...),
		grpc.UnknownServiceHandler(unknownMethod), // so that nobody learns what is served who is not let in
	)...)
	return e
}

// unary is the way of a call to its handler.
func (e *Edge) unary(users Interceptors) []grpc.UnaryServerInterceptor {
	return append(e.server.outer.unary(),
		users.Unary,
		withoutMetadata,
		e.server.gate.UnaryOf(e.caller),
		validation.UnaryServerInterceptor(protovalidate.GlobalValidator),
	)
}

// stream is unary for streams.
func (e *Edge) stream(users Interceptors, open *streams) []grpc.StreamServerInterceptor {
	return append(e.server.outer.stream(e.methods),
		users.Stream,
		withoutMetadataStream,
		e.server.gate.StreamOf(e.caller),
		open.intercept,
		validation.StreamServerInterceptor(protovalidate.GlobalValidator),
	)
}

// Chain is the way of a call to its handler for callers who come by another door than gRPC, such as REST, and within the process from there: all that stands
// on the way of a gRPC call, with users in the place of what the gRPC side authenticates by.
func (e *Edge) Chain(users Interceptors) Interceptors {
	return Interceptors{Unary: chainUnary(e.unary(users)), Stream: chainStream(e.stream(users, e.within))}
}

// Telemetry is what takes a caller's trace over, or starts one, for those who come through Chain.
func (e *Edge) Telemetry() stats.Handler { return telemetryServer(e.server.tracer) }

// RegisterService implements grpc.ServiceRegistrar.
func (e *Edge) RegisterService(desc *grpc.ServiceDesc, impl any) {
	e.grpc.RegisterService(desc, impl)
	e.methods.add(desc)
}

// DrainTimeout is how long calls in flight may take once the process is to stop.
func (e *Edge) DrainTimeout() time.Duration { return e.timeout }

// Serve serves on listener until ctx ends, then drains as a Server does, the streams of Chain too. It closes listener and may be called once.
func (e *Edge) Serve(ctx context.Context, listener net.Listener) error { return e.serve(ctx, listener) }

// withoutMetadata lets nothing further of what a caller has sent beside the request.
func withoutMetadata(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	return handler(metadata.NewIncomingContext(ctx, metadata.MD{}), req)
}

func withoutMetadataStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(srv, bareStream{ss, metadata.NewIncomingContext(ss.Context(), metadata.MD{})})
}

// bareStream is a stream whose context has no metadata.
type bareStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // as in gRPC, it is the stream's own
}

// Context returns the context of the stream.
func (s bareStream) Context() context.Context { return s.ctx }
