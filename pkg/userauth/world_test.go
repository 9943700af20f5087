package userauth_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/edge"
	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
)

const (
	issuer   = "https://login.bank.test"
	audience = "https://bank.test/mobile"
)

// world is an issuer, a device authority and devices, and the servers of a test, which stand at real listeners.
type world struct {
	t       testing.TB
	issuer  *userauthtest.Issuer
	devices *userauthtest.Authority
	// phone is the device that tokens are issued to, stolen another one.
	phone, stolen tls.Certificate
	server        tls.Certificate
	revoked       *userauth.Revocations
	// edge are options of the edge beside those that it always has.
	edge     []edge.Option
	conns    *edge.Conns
	verifier *userauth.Verifier
}

func newWorld(t testing.TB, opts ...userauth.Option) *world {
	t.Helper()
	w := &world{
		t: t, issuer: userauthtest.NewIssuer(t, issuer, audience), devices: userauthtest.NewAuthority(t),
		revoked: new(userauth.Revocations), conns: new(edge.Conns),
	}
	w.phone, w.stolen, w.server = w.devices.Device(t, "dev-phone"), w.devices.Device(t, "dev-stolen"), w.devices.Server(t)
	w.verifier = userauth.NewVerifier(w.issuer, issuer, audience, append([]userauth.Option{userauth.WithRevocations(w.revoked)}, opts...)...)
	return w
}

func (w *world) token(changes userauthtest.Claims) string {
	w.t.Helper()
	return w.issuer.Token(w.t, w.phone.Leaf, changes)
}

// tls is the edge's.
func (w *world) tls() *tls.Config {
	return edge.TLSConfig(func() (*tls.Certificate, error) { return &w.server, nil }, w.devices.Pool,
		append(w.edge, edge.WithConns(w.conns), edge.WithRevocations(w.revoked))...)
}

func (w *world) listen() net.Listener {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	return w.conns.Listener(l)
}

// serveGRPC serves the interceptors and a service behind them, and returns where.
func (w *world) serveGRPC(unary grpc.UnaryServerInterceptor, stream grpc.StreamServerInterceptor) (address string) {
	w.t.Helper()
	l := w.listen()
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(w.tls())), grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream))
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Bank", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Who", Handler: handleWho}},
		Streams: []grpc.StreamDesc{
			{StreamName: "Watch", Handler: handleWatch, ServerStreams: true},
			{StreamName: "Deaf", Handler: handleDeaf, ServerStreams: true},
		},
	}, struct{}{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	w.t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			w.t.Error(err)
		}
	})
	return l.Addr().String()
}

// serveHTTP serves a handler and returns where.
func (w *world) serveHTTP(h http.Handler) (address string) {
	w.t.Helper()
	l := w.listen()
	s := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	served := make(chan error, 1)
	go func() { served <- s.Serve(tls.NewListener(l, w.tls())) }()
	w.t.Cleanup(func() {
		_ = s.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			w.t.Error(err)
		}
	})
	return l.Addr().String()
}

func handleWho(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // as gRPC has it
	in := new(wrapperspb.StringValue)
	if err := decode(in); err != nil {
		return nil, err
	}
	return intercept(ctx, in, &grpc.UnaryServerInfo{FullMethod: "/test.Bank/Who"}, func(ctx context.Context, _ any) (any, error) {
		if err := required(ctx, in.GetValue()); err != nil {
			return nil, err
		}
		return wrapperspb.String(subject(ctx)), nil
	})
}

// required asks of the call what the test wants the handler to ask.
func required(ctx context.Context, what string) error {
	switch what {
	case "acr":
		return userauth.RequireACR(ctx, "urn:bank:acr:2", "urn:bank:acr:3")
	case "scope":
		return userauth.RequireScope(ctx, "accounts.close")
	case "enough":
		return errors.Join(userauth.RequireScope(ctx, "transfer"), userauth.RequireACR(ctx, "urn:bank:acr:1"))
	}
	return nil
}

func subject(ctx context.Context) string {
	p, ok := userauth.FromContext(ctx)
	if !ok {
		return "nobody"
	}
	return p.Subject
}

// handleWatch says who it is and waits for the end.
func handleWatch(_ any, ss grpc.ServerStream) error {
	if err := ss.SendMsg(wrapperspb.String(subject(ss.Context()))); err != nil {
		return err
	}
	<-ss.Context().Done()
	return nil
}

// handleDeaf does the same, and does not heed the end of its context but that of gRPC's.
func handleDeaf(_ any, ss grpc.ServerStream) error {
	if err := ss.SendMsg(wrapperspb.String(subject(ss.Context()))); err != nil {
		return err
	}
	for ss.SendMsg(wrapperspb.Bytes(make([]byte, 1<<10))) == nil { // until the flow control of a client that does not read holds it up
	}
	return nil
}

func whoHandler() http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if err := required(r.Context(), r.Header.Get("Required")); err != nil {
			userauth.WriteProblem(rw, err)
			return
		}
		fmt.Fprint(rw, subject(r.Context()))
	})
}

// clientTLS is that of a device.
func (w *world) clientTLS(cert tls.Certificate) *tls.Config {
	roots := w.devices.Pool()
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{cert}, ServerName: "localhost"}
}

func (w *world) dial(address string, cert tls.Certificate) *grpc.ClientConn {
	w.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(w.clientTLS(cert))))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func authorized(t testing.TB, values ...string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return metadata.NewOutgoingContext(ctx, metadata.MD{"authorization": values})
}

// callGRPC makes a call with these authorization values.
func (w *world) callGRPC(address string, cert tls.Certificate, values ...string) (who string, err error) {
	w.t.Helper()
	out := new(wrapperspb.StringValue)
	err = w.dial(address, cert).Invoke(authorized(w.t, values...), "/test.Bank/Who", wrapperspb.String(""), out)
	return out.GetValue(), err
}

// answer is what an HTTP client sees.
type answer struct {
	status int
	header http.Header
	body   string
}

// callHTTP makes a request with these Authorization fields.
func (w *world) callHTTP(address, path, required string, cert tls.Certificate, values ...string) answer {
	w.t.Helper()
	transport := &http.Transport{TLSClientConfig: w.clientTLS(cert), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "https://"+address+path, http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header["Authorization"] = values
	if required != "" {
		req.Header.Set("Required", required)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(body)}
}

// fronts are ours.
type fronts struct{ grpc, http string }

func (w *world) serve() fronts {
	w.t.Helper()
	return fronts{
		grpc: w.serveGRPC(userauth.UnaryServerInterceptor(w.verifier), userauth.StreamServerInterceptor(w.verifier)),
		http: w.serveHTTP(userauth.Middleware(w.verifier, whoHandler())),
	}
}

// assertRefused makes the same call over gRPC and HTTP, and fails unless both say that the token is not valid and nothing else.
func (w *world) assertRefused(t *testing.T, f fronts, cert tls.Certificate, values ...string) {
	t.Helper()
	_, err := w.callGRPC(f.grpc, cert, values...)
	e, ok := userauth.FromError(err)
	if status.Code(err) != codes.Unauthenticated || !ok || !errors.Is(e, userauth.ErrInvalidToken) || status.Convert(err).Message() != userauth.ErrInvalidToken.Error() {
		t.Errorf("gRPC: %v", err)
	}
	a := w.callHTTP(f.http, "/", "", cert, values...)
	challenge := `Bearer realm="countersign", error="invalid_token", error_description="the access token is missing or not valid"`
	if !slices.ContainsFunc(values, func(v string) bool { return strings.HasPrefix(v, "Bearer ") }) {
		challenge = `Bearer realm="countersign"` // no error code for one who showed no token (RFC 6750 §3.1)
	}
	body := `{"title":"Unauthorized","status":401,"detail":"the access token is missing or not valid","code":"INVALID_TOKEN"}` + "\n"
	if a.status != http.StatusUnauthorized || a.header.Get("WWW-Authenticate") != challenge || a.body != body ||
		a.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("HTTP: %+v", a)
	}
}
