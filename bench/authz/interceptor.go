package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net"
	"net/url"

	"google.golang.org/grpc"
	grpcauthz "google.golang.org/grpc/authz"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// grpcAuthz is grpc-go's own authorization: a rule a method, with all its principals. What it decides with is internal to grpc-go, so that this is
// its interceptor, which is all that it has. inCall is the context of a call that a server takes.
func grpcAuthz(inCall context.Context) engine {
	return engine{name: "grpc-go authz", load: func(grants []grant) (decider, error) {
		text, err := grpcAuthzText(grants)
		if err != nil {
			return nil, err
		}
		interceptor, err := grpcauthz.NewStatic(text)
		if err != nil {
			return nil, err
		}
		return func(q question) decision {
			leaf := &x509.Certificate{URIs: []*url.URL{q.peer.URL()}}
			info := credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}}
			return intercepted(inCall, info, q.method, interceptor.UnaryInterceptor)
		}, nil
	}}
}

func grpcAuthzText(grants []grant) (string, error) {
	type source struct {
		Principals []string `json:"principals"`
	}
	type request struct {
		Paths []string `json:"paths"`
	}
	type rule struct {
		Name    string  `json:"name"`
		Source  source  `json:"source"`
		Request request `json:"request"`
	}
	var rules []rule
	for _, g := range grants {
		var principals []string
		for _, p := range g.peers {
			principals = append(principals, id(p).String())
		}
		rules = append(rules, rule{Name: g.full(), Source: source{principals}, Request: request{[]string{g.full()}}})
	}
	text, err := json.Marshal(map[string]any{"name": "bench", "allow_rules": rules})
	return string(text), err
}

// guard is pkg/authz: the policy, the record of the decision, and for a denied call its ID, its line in the log and the error for the caller.
func guard(inCall context.Context) engine {
	return engine{name: ours, load: func(grants []grant) (decider, error) {
		p, err := policy.Parse("bench.yaml", []byte(policyText(grants, "")))
		if err != nil {
			return nil, err
		}
		interceptor := authz.NewGuard(inForce{p}, authz.WithLogger(slog.New(slog.DiscardHandler))).Unary()
		return func(q question) decision {
			return intercepted(inCall, authInfo{peer: &identity.Peer{ID: q.peer, Serial: "c0ffee"}}, q.method, interceptor)
		}, nil
	}}
}

// inForce is a policy that no other takes the place of.
type inForce struct{ policy *policy.Policy }

// Policy implements authz.Policies.
func (f inForce) Policy() *policy.Policy { return f.policy }

// Changed implements authz.Policies.
func (inForce) Changed() <-chan struct{} { return nil }

// authInfo is what a connection secured by package transport has.
type authInfo struct {
	credentials.CommonAuthInfo
	peer *identity.Peer
}

// AuthType implements credentials.AuthInfo.
func (authInfo) AuthType() string { return "bench" }

// Peer returns who called.
func (a authInfo) Peer() *identity.Peer { return a.peer }

// intercepted is a unary call through an interceptor, to a handler that does nothing.
func intercepted(inCall context.Context, info credentials.AuthInfo, method string, interceptor grpc.UnaryServerInterceptor) decision {
	ctx := grpc.NewContextWithServerTransportStream(peer.NewContext(inCall, &peer.Peer{AuthInfo: info}), &transportStream{method: method})
	server := &grpc.UnaryServerInfo{FullMethod: method}
	handler := func(_ context.Context, req any) (any, error) { return req, nil }
	return func() (bool, error) {
		_, err := interceptor(ctx, nil, server, handler)
		if status.Code(err) == codes.PermissionDenied {
			return false, nil
		}
		return err == nil, err
	}
}

// transportStream tells grpc-go's authz which method is called.
type transportStream struct {
	grpc.ServerTransportStream
	method string
}

// Method implements grpc.ServerTransportStream.
func (s *transportStream) Method() string { return s.method }

// serve returns the context of a call as a server has it, for grpc-go's authz: it looks for the connection there, which nobody else can put in.
func serve(ctx context.Context) (context.Context, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	inCall := make(chan context.Context, 1)
	server := grpc.NewServer(grpc.Creds(local.NewCredentials()), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		inCall <- context.WithoutCancel(stream.Context())
		return stream.SendMsg(&emptypb.Empty{})
	}))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	err = callOnce(ctx, listener.Addr().String())
	server.Stop()
	if serveErr := <-served; err == nil {
		err = serveErr
	}
	if err != nil {
		return nil, err
	}
	return <-inCall, nil
}

func callOnce(ctx context.Context, address string) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(local.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Invoke(ctx, "/bench/Call", &emptypb.Empty{}, &emptypb.Empty{})
}
