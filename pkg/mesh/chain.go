package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"

	"buf.build/go/protovalidate"
	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	validation "github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/protovalidate"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/overload"
)

// outer is what a call meets first, whoever makes it: what counts it, logs it and survives it.
type outer struct {
	metrics *grpcprom.ServerMetrics
	panics  prometheus.Counter
	log     *slog.Logger
}

func newOuter(log *slog.Logger) *outer {
	return &outer{
		metrics: grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram()),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "countersign_panics_total",
			Help: "Calls that panicked; each was answered INTERNAL.",
		}),
		log: log,
	}
}

// unary returns its interceptors in their order.
func (o *outer) unary() []grpc.UnaryServerInterceptor {
	return []grpc.UnaryServerInterceptor{
		o.metrics.UnaryServerInterceptor(),
		logging.UnaryServerInterceptor(accessLog(o.log), accessOptions()...),
		recovery.UnaryServerInterceptor(recovery.WithRecoveryHandlerContext(recoverer(o.log, o.panics))),
	}
}

// stream is unary for streams. Only methods that are known are counted.
func (o *outer) stream(known methodSet) []grpc.StreamServerInterceptor {
	return []grpc.StreamServerInterceptor{
		known.onlyKnown(o.metrics.StreamServerInterceptor()),
		logging.StreamServerInterceptor(accessLog(o.log), accessOptions()...),
		recovery.StreamServerInterceptor(recovery.WithRecoveryHandlerContext(recoverer(o.log, o.panics))),
	}
}

// newChain returns everything that stands between the connection and a handler, in its order: see the package comment.
func newChain(s *Server, o serverOptions) ([]grpc.ServerOption, error) {
	s.outer = newOuter(o.log)
	recorder, decisions := newCountingRecorder(o.recorder)
	for _, c := range []prometheus.Collector{s.outer.metrics, s.outer.panics, decisions, newOverloadMetrics(s.gate)} {
		if err := o.metrics.Register(c); err != nil {
			return nil, fmt.Errorf("register the server's metrics: %w", err)
		}
	}
	guard := authz.NewGuard(s.policy, authz.WithLogger(o.log), authz.WithRecorder(recorder), authz.WithAnswer(unwatched), authz.WithUsers(o.users))
	return []grpc.ServerOption{
		grpc.InTapHandle(admit(guard, o.log, s.outer.panics)),
		grpc.StatsHandler(telemetryServer(o.tracer)),
		grpc.ChainUnaryInterceptor(s.outer.unary()...),
		grpc.ChainUnaryInterceptor(
			liveUnary,
			guard.Unary(),
			s.gate.Unary(),
			validation.UnaryServerInterceptor(protovalidate.GlobalValidator),
		),
		grpc.ChainStreamInterceptor(s.outer.stream(s.methods)...),
		grpc.ChainStreamInterceptor(
			liveStream,
			guard.Stream(),
			unwatchedStream(s.gate.Stream()),
			s.streams.intercept, // inside the guard, whose denial ends a stream that waits for a message
			validation.StreamServerInterceptor(protovalidate.GlobalValidator),
		),
		// Without a handler of its own, gRPC answers an unknown method before any interceptor is asked.
		grpc.UnknownServiceHandler(unknownMethod),
	}, nil
}

// unknownMethod answers a peer that the policy allows to call a method that is not served here.
func unknownMethod(any, grpc.ServerStream) error {
	return status.Error(codes.Unimplemented, "this server does not have the method")
}

// recoverer answers a panic with INTERNAL and a fixed text; what panicked is for the log.
func recoverer(log *slog.Logger, panics prometheus.Counter) recovery.RecoveryHandlerFuncContext {
	return func(ctx context.Context, p any) error {
		panics.Inc()
		log.ErrorContext(ctx, "a call panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		return status.Error(codes.Internal, "internal error")
	}
}

// refusedField is the field of a call that was refused for lack of room or time.
const refusedField = "refused"

// accessLog writes the access log to log. A call that was refused for lack of room is logged at debug: an overloaded server has better to do than to
// write as many lines as it refuses calls, and package overload says once in a while that it does.
func accessLog(log *slog.Logger) logging.Logger {
	return logging.LoggerFunc(func(ctx context.Context, level logging.Level, msg string, fields ...any) {
		if level > logging.LevelInfo && slices.Contains(fields, any(refusedField)) {
			level = logging.LevelDebug
		}
		log.Log(ctx, slog.Level(level), msg, fields...) //nolint:sloglint // the middleware's own message, which is constant there
	})
}

// accessOptions logs each call once, when it has ended. Calls that went well are logged at debug: at full load they are most
// of what a server would write, and the audit service has them. So are calls that were denied: the guard has logged them, with
// the reason.
func accessOptions() []logging.Option {
	return []logging.Option{
		logging.WithLogOnEvents(logging.FinishCall),
		logging.WithCodes(codeOf),
		logging.WithErrorFields(func(err error) logging.Fields {
			if reason := overload.ReasonOf(err); reason != "" {
				return logging.Fields{refusedField, reason}
			}
			return nil
		}),
		logging.WithLevels(func(code codes.Code) logging.Level {
			switch code {
			case codes.OK, codes.PermissionDenied:
				return logging.LevelDebug
			case codes.Unavailable: // a stream that ends with its connection, when that is renewed
				return logging.LevelInfo
			default:
				return logging.DefaultServerCodeToLevel(code)
			}
		}),
	}
}

// codeOf is the code that gRPC answers err with: a context's error is no unknown one.
func codeOf(err error) codes.Code {
	if refused, ok := errors.AsType[*unwatchedError](err); ok {
		err = refused.error
	}
	if st, ok := status.FromError(err); ok {
		return st.Code()
	}
	return status.FromContextError(err).Code()
}

// methodSet is the full methods that a server has. It is filled before Serve and only read after.
type methodSet map[string]struct{}

func (m methodSet) add(desc *grpc.ServiceDesc) {
	for _, method := range desc.Methods {
		m["/"+desc.ServiceName+"/"+method.MethodName] = struct{}{}
	}
	for _, stream := range desc.Streams {
		m["/"+desc.ServiceName+"/"+stream.StreamName] = struct{}{}
	}
}

// onlyKnown leaves metrics out for methods that are not registered: a peer that makes up names would else make up time
// series without end. gRPC hands unknown methods to stream interceptors only.
func (m methodSet) onlyKnown(metrics grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if _, ok := m[info.FullMethod]; !ok {
			return handler(srv, ss)
		}
		return metrics(srv, ss, info, handler)
	}
}
