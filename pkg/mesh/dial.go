package mesh

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/transport"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
)

// DialOption changes a default of Dial.
type DialOption func(*dialOptions)

type dialOptions struct {
	serviceConfig string
	tracer        trace.TracerProvider
	recorder      audit.Recorder
	// carriers are the services that get the user's token.
	carriers []string
}

// WithServiceConfig sets retries, deadlines and the like in gRPC's own terms, JSON. Without it calls are spread over all
// addresses of the target in turn and never retried. Whether the health of the server is watched is for the policy to say (see Dial), unless config has a
// healthCheckConfig of its own; null is one that watches nothing.
//
// A full server refuses calls with RESOURCE_EXHAUSTED before it has begun them and says when to come back (package overload). A client comes back at that
// time where the retryPolicy of the method lists the code; its own backoff does not count then:
//
//	"retryPolicy": {
//	  "maxAttempts": 3, "initialBackoff": "0.2s", "maxBackoff": "2s", "backoffMultiplier": 2,
//	  "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
//	}
//
// List it only for methods that may be sent twice: a handler may answer RESOURCE_EXHAUSTED too, after it has done something, and then nothing says when
// to come back. And list it at one place of a chain of services, the one nearest to who waits: three attempts at each of three hops are 27.
//
// Where config has no retryThrottling of its own, retries are a tenth of the calls at most when calls keep failing.
func WithServiceConfig(config string) DialOption {
	return func(o *dialOptions) { o.serviceConfig = withField(config, "retryThrottling", defaultThrottling) }
}

// WithDialTracerProvider sets where spans go. By default trace IDs are made and passed on, and no span is recorded.
func WithDialTracerProvider(p trace.TracerProvider) DialOption {
	return func(o *dialOptions) { o.tracer = p }
}

// WithDialRecorder sends to r each call that the own policy does not let the process make: it never reaches the server that would record it. By
// default none is recorded.
func WithDialRecorder(r audit.Recorder) DialOption {
	return func(o *dialOptions) { o.recorder = r }
}

// WithTransactionTokens sends the transaction token of a call's context to the services with the given full names, such as "bank.ledger.v1.LedgerService" (see
// txntoken.FromContext, where a handler finds the token of the call that it serves). By default none is sent on.
func WithTransactionTokens(services ...string) DialOption {
	return func(o *dialOptions) { o.carriers = append(o.carriers, services...) }
}

const (
	defaultServiceConfig = `{"loadBalancingConfig": [{"round_robin": {}}]}`
	connectTimeout       = 5 * time.Second
	// defaultThrottling lets some fifty calls fail and be retried, and then one retry for ten calls that succeed, so that retries do not keep an
	// overload going that would else be over (gRFC A6, throttling of retries).
	defaultThrottling = `{"maxTokens": 100, "tokenRatio": 0.1}`
)

// withField is a service config with a value for a key that it does not have. One that is no JSON object is left for gRPC to refuse.
func withField(config, key, value string) string {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(config), &fields); err != nil || fields == nil {
		return config
	}
	if _, ok := fields[key]; ok {
		return config
	}
	fields[key] = json.RawMessage(value)
	with, err := json.Marshal(fields)
	if err != nil {
		return config
	}
	return string(with)
}

// Dial returns a connection to the service with the identity server at a gRPC target such as "dns:///ledger:8443". Any
// other identity that answers there is refused. Like grpc.NewClient it returns at once and connects when it is needed. The caller
// closes it, before conns.
//
// It fails for a server that the policy does not list for this process: one that serves nothing that a rule lets it call (see policy.Policy.Dials).
// When a later policy does not list it any more, calls fail with PERMISSION_DENIED before anything is sent (see WithDialRecorder).
//
// Where the policy lets this process watch the server's health (grpc.health.v1.Health/Watch), calls go to those servers at the target alone that say that they serve
// (gRFC A17): one that drains, or that SetServing has taken out, gets no new ones. That is decided here and once, so that a rule that is new has an effect on who
// dials from then on. Without the rule calls are balanced all the same, over all to which there is a connection.
func Dial(conns *transport.Registry, listed *authz.File, target string, server spiffeid.ID, opts ...DialOption) (*grpc.ClientConn, error) {
	client, err := conns.ID()
	if err != nil {
		return nil, fmt.Errorf("dial %s (%s): %w", target, server, err)
	}
	o := newDialOptions(opts)
	list := &dialList{policies: listed, client: client, server: server, recorder: o.recorder}
	if err := list.check(listed.Policy()); err != nil {
		return nil, fmt.Errorf("dial %s (%s): the policy does not list this server for %s: %w", target, server, client, err)
	}
	if listed.Policy().Lists(client, server, watchHealth) {
		o.serviceConfig = withField(o.serviceConfig, "healthCheckConfig", watchAll)
	}
	return dial(conns, target, server, o, grpc.WithChainUnaryInterceptor(list.unary), grpc.WithChainStreamInterceptor(list.stream))
}

// DialUnlisted is Dial for a process that has no policy file, such as the tool of an operator, or a test that plays somebody who heeds none. What it
// may call is for the server's policy alone to say.
func DialUnlisted(conns *transport.Registry, target string, server spiffeid.ID, opts ...DialOption) (*grpc.ClientConn, error) {
	return dial(conns, target, server, newDialOptions(opts))
}

func newDialOptions(opts []DialOption) dialOptions {
	o := dialOptions{serviceConfig: defaultServiceConfig, tracer: newTracerProvider()}
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

func dial(conns *transport.Registry, target string, server spiffeid.ID, o dialOptions, first ...grpc.DialOption) (*grpc.ClientConn, error) {
	if server.IsZero() {
		return nil, fmt.Errorf("dial %s: the server's SPIFFE ID is missing", target)
	}
	// The authority that a request names is not what the server is verified by, so nothing about it can be overridden here.
	conn, err := grpc.NewClient(target, append(first,
		grpc.WithTransportCredentials(conns.Client(server)),
		grpc.WithDefaultServiceConfig(o.serviceConfig),
		grpc.WithDisableServiceConfig(), // what the resolver says is not authenticated
		grpc.WithStatsHandler(telemetryClient(o.tracer)),
		grpc.WithChainUnaryInterceptor(txntoken.UnaryClientInterceptor(o.carriers...), liveCall),
		grpc.WithChainStreamInterceptor(txntoken.StreamClientInterceptor(o.carriers...), liveClientStreams),
		grpc.WithMaxHeaderListSize(maxHeaderBytes),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			// A server that restarts is back in a second or two; gRPC's own ceiling of two minutes is for the wide Internet.
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: connectTimeout,
		}),
	)...)
	if err != nil {
		return nil, fmt.Errorf("dial %s (%s): %w", target, server, err)
	}
	return conn, nil
}
