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
	grpc    *grpc.Server
	conns   *transport.Registry
	health  *health.Server
	policy  *authz.File
	log     *slog.Logger
	timeout time.Duration
	streams *streams
	gate    *overload.Gate
	// methods are those that are registered; the chain asks it before a name that a caller made up becomes a metric's label.
	methods methodSet
}

// ServerOption changes a default of NewServer.
type ServerOption func(*serverOptions)

type serverOptions struct {
	recorder      audit.Recorder
	log           *slog.Logger
	metrics       prometheus.Registerer
	tracer        trace.TracerProvider
	limits        overload.Limits
	drainTimeout  time.Duration
	connectionAge time.Duration
}

// WithRecorder sends every authorization decision to r; by default denied calls are only logged.
func WithRecorder(r audit.Recorder) ServerOption { return func(o *serverOptions) { o.recorder = r } }

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
		gate:    gate,
		conns:   conns,
		health:  health.NewServer(),
		policy:  policy,
		log:     o.log,
		timeout: o.drainTimeout,
		streams: newStreams(),
		methods: make(methodSet),
	}
	conns.Heed(policy)
	chain, err := newChain(s, o)
	if err != nil {
		return nil, err
	}
	s.grpc = grpc.NewServer(append(append(serverLimits(o.connectionAge), chain...), grpc.Creds(conns.Server()))...)
	s.serveOperators()
	return s, nil
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
}

// RegisterService implements grpc.ServiceRegistrar.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.grpc.RegisterService(desc, impl)
	s.methods.add(desc)
}

// Fit fails when the policy and the registered services do not fit each other (see authz.Policy.Covers). Serve asks it too.
func (s *Server) Fit() error {
	if err := s.policy.Require(s.grpc.GetServiceInfo()); err != nil {
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
	drained := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { drained <- s.drain() })
	// gRPC's Serve does not return before the last handler has, which may be never.
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(listener) }()
	select {
	case err := <-served:
		if stop() { // ctx has not ended: Serve failed by itself
			return errors.Join(fmt.Errorf("serve gRPC: %w", err), s.cut())
		}
		return <-drained
	case err := <-drained:
		if err != nil {
			return err
		}
		// Nil after a stop, unless ctx ended before there was anything to stop.
		if err := <-served; !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	}
}

// drain lets calls in flight end, and cuts those that do not within the timeout.
func (s *Server) drain() error {
	s.health.Shutdown()
	// gRPC waits for handshakes in progress before it tells anybody to go. A stranger who connects and says nothing must not
	// hold up a drain.
	s.conns.AbortHandshakes()
	s.streams.end(errStopping)
	graceful := make(chan struct{})
	go func() {
		defer close(graceful)
		s.grpc.GracefulStop()
	}()
	timer := time.NewTimer(s.timeout)
	defer timer.Stop()
	select {
	case <-graceful:
		s.streams.wait()
		return nil
	case <-timer.C:
	}
	s.log.Warn("calls in flight did not end within the drain timeout; they are cut", "timeout", s.timeout)
	return s.cut()
}

// errHandlers means that handlers ignore their context. They are still running; there is no way to end them.
var errHandlers = errors.New("handlers did not end though their calls were cut")

// cut ends every call, and waits for the handlers for a bounded time.
func (s *Server) cut() error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.grpc.Stop()
		s.streams.wait()
	}()
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-stopped:
		return nil
	case <-timer.C:
		return errHandlers
	}
}
