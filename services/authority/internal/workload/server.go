// Package workload is the SPIFFE Workload API: who calls is attested, matched against the registration entries, and given the
// SVIDs and bundles that fall to it, at once and again whenever they change. One Server answers on every socket of an authority; which one a
// caller came over is a part of who it is (see package attest).
package workload

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/prometheus/client_golang/prometheus"
	workloadv1 "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/countersign-mesh/countersign/services/authority/internal/attest"
	"github.com/countersign-mesh/countersign/services/authority/internal/ca"
	"github.com/countersign-mesh/countersign/services/authority/internal/registration"
)

// What one caller may take: everybody on the machine may connect.
const (
	maxStreamsPerConnection = 100
	maxHeaderBytes          = 8 << 10
	maxMessageBytes         = 64 << 10
	handshakeTimeout        = 5 * time.Second
	keepaliveTime           = 30 * time.Second
	keepaliveTimeout        = 10 * time.Second
	minPingInterval         = 10 * time.Second
	// maxIdle is how long a connection without a call is kept; a workload that is served has a stream open.
	maxIdle = time.Minute
)

// Server serves the Workload API of one trust domain. It is safe for concurrent use. The zero value is not usable; see New.
type Server struct {
	workloadv1.UnimplementedSpiffeWorkloadAPIServer

	authority *ca.CA
	entries   *registration.File
	log       *slog.Logger
	metrics   *metrics
	denials   *denials
	grpc      *grpc.Server

	stop     sync.Once
	stopping chan struct{}
}

// Option changes a default of New.
type Option func(*options)

type options struct {
	log     *slog.Logger
	metrics prometheus.Registerer
}

// WithLogger sets where identities that were given and refused are logged; slog.Default by default.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// WithMetrics sets where metrics are registered; nowhere by default.
func WithMetrics(r prometheus.Registerer) Option { return func(o *options) { o.metrics = r } }

// New returns a Server that gives what authority signs to whom entries name.
func New(authority *ca.CA, entries *registration.File, opts ...Option) (*Server, error) {
	o := options{log: slog.Default(), metrics: prometheus.NewRegistry()}
	for _, opt := range opts {
		opt(&o)
	}
	s := &Server{
		authority: authority, entries: entries, log: o.log, metrics: newMetrics(authority, entries),
		denials: newDenials(o.log), stopping: make(chan struct{}),
	}
	if err := o.metrics.Register(s.metrics); err != nil {
		return nil, err
	}
	s.grpc = grpc.NewServer(s.serverOptions()...)
	workloadv1.RegisterSpiffeWorkloadAPIServer(s.grpc, s)
	return s, nil
}

// serverOptions has no reflection and no health: the endpoint serves the Workload API alone.
func (s *Server) serverOptions() []grpc.ServerOption {
	recovered := recovery.WithRecoveryHandlerContext(s.recovered)
	return []grpc.ServerOption{
		grpc.Creds(attest.New(attest.WithLogger(s.log)).Credentials()),
		grpc.ChainUnaryInterceptor(s.answerUnary, recovery.UnaryServerInterceptor(recovered), requireHeaderUnary),
		grpc.ChainStreamInterceptor(s.answerStream, recovery.StreamServerInterceptor(recovered), requireHeaderStream),
		grpc.UnknownServiceHandler(unknownMethod),
		grpc.MaxConcurrentStreams(maxStreamsPerConnection),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: maxIdle, Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
	}
}

// Serve answers callers on l until Stop, and returns nil then. It may be called for several listeners.
func (s *Server) Serve(l net.Listener) error {
	err := s.grpc.Serve(l)
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// Stop ends all streams with UNAVAILABLE, lets calls finish for so long, and returns when nothing runs any more.
func (s *Server) Stop(within time.Duration) {
	s.stop.Do(func() { close(s.stopping) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		s.grpc.Stop()
		<-done
	}
}
