// Package front is the gateway's two doors to customers, gRPC and REST. Whoever comes through either is let in by the certificate of their device and an access token
// that is bound to it, and goes the same way from there: the customer's own limits, scope, the limits of the server, validation, the method. Only how often a customer
// may call is looked at earlier over REST, where a request has still to be read and understood before it is a call.
package front

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/userauth"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	"github.com/countersign-mesh/countersign/services/gateway/internal/limit"
	"github.com/countersign-mesh/countersign/services/gateway/internal/rest"
)

// What an HTTP client may take, as package mesh says it for gRPC.
const (
	headerTimeout  = 5 * time.Second
	idleTimeout    = 60 * time.Second
	maxHeaderBytes = 16 << 10
	maxStreams     = 100
	pingInterval   = 30 * time.Second
	pingTimeout    = 10 * time.Second
	defaultPace    = 10 * time.Second
)

// Front is both doors. It is safe for concurrent use. The zero value is not usable; see New.
type Front struct {
	edge     *mesh.Edge
	http     *http.Server
	arrivals arrivals
}

// Config is what the doors are made of.
type Config struct {
	// TLS is that of package edge.
	TLS *tls.Config
	// Verifier knows whom an access token names.
	Verifier *userauth.Verifier
	// Rate and Burst are what one customer may begin in a second, and at once after a rest.
	Rate, Burst int
	// Pace is how long a client may take over REST to send a request, and to take in a piece of the answer; 0 is ten seconds.
	Pace time.Duration
	// Bank serves customers.
	Bank mobilev1.MobileBankServiceServer
	// Metrics has requests over REST be counted beside the calls that they become.
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// New returns the doors of a process whose server inside the mesh is server.
func New(server *mesh.Server, c Config) (*Front, error) {
	limits := limit.New(customer, c.Rate, c.Burst, time.Now)
	f := &Front{edge: server.NewEdge(credentials.NewTLS(c.TLS), users(c.Verifier, limits.Interceptors()), customer)}
	mobilev1.RegisterMobileBankServiceServer(f.edge, c.Bank)
	pace := cmp.Or(c.Pace, defaultPace)
	admit := func(next http.Handler) http.Handler { return userauth.Middleware(c.Verifier, next) }
	handler, err := rest.New(rest.Within(f.edge, users(c.Verifier, limits.Begun()), c.Bank), rest.Config{
		Admit: admit, Begin: limits.Begin, MaxBody: mesh.MaxEdgeMessageBytes, Pace: pace, Metrics: c.Metrics, Log: c.Log,
	})
	if err != nil {
		return nil, err
	}
	f.http = &http.Server{
		Handler:           handler,
		TLSConfig:         c.TLS.Clone(),
		ReadHeaderTimeout: headerTimeout, // and the handshake's
		ReadTimeout:       pace,          // also of a body that nobody reads
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         f.arrivals.note,
		// An answer by net/http itself would not be paced.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug), // failed handshakes, above all: anybody can make those
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, SendPingTimeout: pingInterval, PingTimeout: pingTimeout, WriteByteTimeout: pingTimeout,
		},
	}
	return f, nil
}

// users lets a customer's call in, as far as the customer's own limits go and the scope of the token. What is tried with too little scope is one of the customer's calls
// like any other, through both doors.
func users(verifier *userauth.Verifier, limits mesh.Interceptors) mesh.Interceptors {
	return mesh.ChainInterceptors(
		mesh.Interceptors{Unary: userauth.UnaryServerInterceptor(verifier), Stream: userauth.StreamServerInterceptor(verifier)},
		limits,
		mesh.Interceptors{Unary: scopeUnary, Stream: scopeStream},
	)
}

// customer is whom a call is made for.
func customer(ctx context.Context) string {
	if p, ok := userauth.FromContext(ctx); ok {
		return p.Subject
	}
	return ""
}

// ServeGRPC serves gRPC on a listener until ctx ends, and then drains.
func (f *Front) ServeGRPC(ctx context.Context, listener net.Listener) error {
	return f.edge.Serve(ctx, listener)
}

// ServeREST serves REST on a listener until ctx ends, and then drains. ServeGRPC must be under way: it is what ends the streams.
func (f *Front) ServeREST(ctx context.Context, listener net.Listener) error {
	drained := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { drained <- f.drainREST(ctx) })
	err := f.http.ServeTLS(listener, "", "")
	if stop() { // it failed by itself
		return errors.Join(err, f.http.Close())
	}
	return <-drained
}

// drainREST lets requests in flight end, and cuts those that do not within the timeout.
func (f *Front) drainREST(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.edge.DrainTimeout())
	defer cancel()
	f.arrivals.close()
	if err := f.http.Shutdown(ctx); err != nil {
		return f.http.Close()
	}
	return nil
}
