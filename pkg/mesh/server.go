package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/overload"
	"github.com/countersign-mesh/countersign/pkg/transport"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

// Server is a gRPC server whose every method, those of health, reflection and administration too, is under the policy. It is a
// grpc.ServiceRegistrar. Register services before Serve; after that it is safe for concurrent use. The zero value is not usable;
// see NewServer.
type Server struct {
	endpoint
	conns  *transport.Registry
	health *health.Server
	policy *authz.File
	gate   *overload.Gate
	// outer is what calls meet first, here and at an edge.
	outer  *outer
	tracer trace.TracerProvider
	// users is whether the server verifies users' tokens.
	users bool
	// methods are those that are registered; the chain asks it before a name that a caller made up becomes a metric's label.
	methods methodSet
}

// ServerOption changes a default of NewServer.
type ServerOption func(*serverOptions)

type serverOptions struct {
	recorder      audit.Recorder
	users         authz.Users
	log           *slog.Logger
	metrics       prometheus.Registerer
	tracer        trace.TracerProvider
	limits        overload.Limits
	drainTimeout  time.Duration
	connectionAge time.Duration
}

// WithRecorder sends every authorization decision to r; by default denied calls are only logged.
func WithRecorder(r audit.Recorder) ServerOption { return func(o *serverOptions) { o.recorder = r } }

// WithUsers sets who verifies the tokens of users for the rules of the policy that ask for one (a txntoken.Verifier does). A server without does not
// start under a policy that has such a rule for one of its methods.
func WithUsers(u authz.Users) ServerOption { return func(o *serverOptions) { o.users = u } }

// WithLogger sets where calls are logged; slog.Default by default.
func WithLogger(log *slog.Logger) ServerOption { return func(o *serverOptions) { o.log = log } }

// WithMetrics registers the server's metrics; by default they are kept and not exported.
func WithMetrics(r prometheus.Registerer) ServerOption {
	return func(o *serverOptions) { o.metrics = r }
}

// WithTracerProvider sets where spans go. By default trace IDs are made and passed on, and no span is recorded.
func WithTracerProvider(p trace.TracerProvider) ServerOption {
	return func(o *serverOptions) { o.tracer = p }
}

// WithRateLimit bounds how many calls a second the server takes, and how many at once after a rest. More are refused with
// RESOURCE_EXHAUSTED, after authorization and before validation. The default is 10,000 a second. See package overload for what
// a refused call is told.
func WithRateLimit(perSecond float64, burst int) ServerOption {
	return func(o *serverOptions) { o.limits.Rate = rate.NewLimiter(rate.Limit(perSecond), burst) }
}

// WithMaxCalls bounds how many unary calls are in their handlers at once, and how many of one peer: three quarters of that. More are refused
// like those that the rate limit refuses. The default is overload.DefaultCalls; so is 0.
func WithMaxCalls(n int) ServerOption { return func(o *serverOptions) { o.limits.Calls = n } }

// WithMaxStreams bounds how many streams are open at once, in the same way. The default is overload.DefaultStreams; so is 0.
func WithMaxStreams(n int) ServerOption { return func(o *serverOptions) { o.limits.Streams = n } }

// WithDrainTimeout bounds how long Serve waits for calls in flight once its context has ended; 10 s by default.
func WithDrainTimeout(d time.Duration) ServerOption {
	return func(o *serverOptions) { o.drainTimeout = d }
}

// WithConnectionAge sets the age at which a connection is asked to end, with GOAWAY, however long its SVIDs live; half of that later
// it is ended. By default 30 minutes. A connection whose SVIDs expire earlier is renewed earlier whatever is set here (package transport).
func WithConnectionAge(d time.Duration) ServerOption {
	return func(o *serverOptions) { o.connectionAge = d }
}

const defaultDrainTimeout = 10 * time.Second

// NewServer returns a server that presents the identity of conns and asks policy about every call. From then on conns refuses and cuts whom the
// policy revokes. It serves health, reflection and mesh.admin.v1, under the policy like any other service.
func NewServer(conns *transport.Registry, policy *authz.File, opts ...ServerOption) (*Server, error) {
	o := serverOptions{
		log:           slog.Default(),
		metrics:       prometheus.NewRegistry(),
		tracer:        newTracerProvider(),
		drainTimeout:  defaultDrainTimeout,
		connectionAge: maxConnectionAge,
	}
	for _, opt := range opts {
		opt(&o)
	}
	gate, err := overload.New(o.limits, overload.WithLogger(o.log))
	if err != nil {
		return nil, err
	}
	s := &Server{
		endpoint: endpoint{log: o.log, timeout: o.drainTimeout, streams: newStreams()},
		gate:     gate,
		conns:    conns,
		health:   health.NewServer(),
		policy:   policy,
		tracer:   o.tracer,
		methods:  make(methodSet),
		users:    o.users != nil,
	}
	s.leave = s.goAway
	conns.Heed(policy)
	chain, err := newChain(s, o)
	if err != nil {
		return nil, err
	}
	s.grpc = grpc.NewServer(append(append(serverLimits(o.connectionAge), chain...), grpc.Creds(conns.Server()))...)
	s.serveOperators()
	return s, nil
}

// SetServing says whether this server is to be called by who has a choice: while it is not, clients that watch its health (see Dial) send new calls to
// other servers of the same name, and calls in flight go on. It is from the start, and is not any more once it drains.
func (s *Server) SetServing(serving bool) {
	now := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if serving {
		now = grpc_health_v1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", now)
}

// serveOperators registers what every server has for those who operate it. They need it the most when the server is full, so it has slots
// of its own; it is under the policy like all else.
func (s *Server) serveOperators() {
	operators := newAdmin(s.conns, s.policy)
	services := reflection.NewServerV1(reflection.ServerOptions{Services: s.grpc})
	grpc_health_v1.RegisterHealthServer(s, s.health)
	adminv1.RegisterAdminServiceServer(s, operators)
	grpc_reflection_v1.RegisterServerReflectionServer(s, services)
	for _, reserved := range []any{s.health, operators, services} {
		s.gate.Reserve(reserved)
	}
	s.gate.ReserveWatch(watchHealth)
}

// RegisterService implements grpc.ServiceRegistrar.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.grpc.RegisterService(desc, impl)
	s.methods.add(desc)
}

// Fit fails when the policy and the registered services do not fit each other (see authz.File.Require). Serve asks it too.
func (s *Server) Fit() error {
	if err := s.policy.Require(s.grpc.GetServiceInfo(), s.users); err != nil {
		return fmt.Errorf("the policy does not fit the services of this server:\n%w", err)
	}
	return nil
}

// Serve serves on listener until ctx ends, then drains: calls in flight get the drain timeout to end, streams are told to
// go elsewhere with UNAVAILABLE, new calls are refused. It returns nil after a clean stop, and an error when a handler did not end
// though it was cut. It fails before it accepts anything when the policy does not fit (see Fit). Serve closes listener and may be
// called once.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	if err := s.Fit(); err != nil {
		return errors.Join(err, listener.Close())
	}
	return s.serve(ctx, listener)
}

// goAway tells everybody that this server drains. gRPC waits for handshakes in progress before it tells anybody to go. A stranger who connects and says
// nothing must not hold up a drain.
func (s *Server) goAway() {
	s.health.Shutdown()
	s.conns.AbortHandshakes()
}
