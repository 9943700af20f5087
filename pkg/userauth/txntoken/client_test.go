package txntoken_test

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	paymentsName = "bank.payments.v1.PaymentService"
	riskName     = "bank.risk.v1.RiskService"
)

// sentBy asks a client interceptor, and returns the call options that it adds, and the metadata that it leaves, as the transport would send both.
func sentBy(ctx context.Context, t *testing.T, method string, stream bool) []string {
	t.Helper()
	var sent []string
	see := func(ctx context.Context, opts []grpc.CallOption) {
		md, _ := metadata.FromOutgoingContext(ctx)
		sent = slices.Clone(md.Get(txntoken.MetadataKey))
		for _, opt := range opts {
			creds, ok := opt.(grpc.PerRPCCredsCallOption)
			if !ok {
				continue
			}
			if !creds.Creds.RequireTransportSecurity() {
				t.Error("the token would be sent in the clear")
			}
			more, err := creds.Creds.GetRequestMetadata(ctx)
			if err != nil {
				t.Error(err)
			}
			sent = append(sent, more[txntoken.MetadataKey])
		}
	}
	var err error
	if stream {
		_, err = txntoken.StreamClientInterceptor(paymentsName, "bank.ledger.v1.LedgerService")(ctx, nil, nil, method,
			func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				see(ctx, opts)
				return nil, nil
			})
	} else {
		err = txntoken.UnaryClientInterceptor(paymentsName, "bank.ledger.v1.LedgerService")(ctx, method, nil, nil, nil,
			func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
				see(ctx, opts)
				return nil
			})
	}
	if err != nil {
		t.Error(err)
	}
	return sent
}

func TestTheTokenIsSentToTheNamedServicesOnly(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	raw := b.issue(t, transfer())
	token, err := b.verifier.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	with := txntoken.NewContext(t.Context(), token)
	forwarded := metadata.AppendToOutgoingContext(with, txntoken.MetadataKey, "another", "Txn-Token", "a third", "other", "x")
	for name, test := range map[string]struct {
		ctx    context.Context
		method string
		want   []string
	}{
		"a named service":                        {with, "/" + paymentsName + "/CreatePayment", []string{raw}},
		"another":                                {with, "/" + riskName + "/AssessPayment", nil},
		"one whose name starts alike":            {with, "/" + paymentsName + "s/CreatePayment", nil},
		"one whose name ends alike":              {with, "/x." + paymentsName + "/CreatePayment", nil},
		"no token":                               {t.Context(), "/" + paymentsName + "/CreatePayment", nil},
		"a token that nobody issued":             {txntoken.NewContext(t.Context(), &txntoken.Token{ID: "x"}), "/" + paymentsName + "/CreatePayment", nil},
		"one that is in the metadata too":        {forwarded, "/" + paymentsName + "/CreatePayment", []string{raw}},
		"what is in the metadata, elsewhere":     {forwarded, "/" + riskName + "/AssessPayment", nil},
		"what is in the metadata and no token":   {metadata.AppendToOutgoingContext(t.Context(), "txn-token", raw), "/" + paymentsName + "/CreatePayment", nil},
		"health, which every server has as well": {with, "/grpc.health.v1.Health/Check", nil},
	} {
		for _, stream := range []bool{false, true} {
			if got := sentBy(test.ctx, t, test.method, stream); !slices.Equal(got, test.want) {
				t.Errorf("%s (stream %v): %d tokens are sent, want %d", name, stream, len(got), len(test.want))
			}
		}
	}
	if md, _ := metadata.FromOutgoingContext(forwarded); len(md.Get("txn-token")) != 2 || len(md.Get("other")) != 1 {
		t.Error("the caller's own metadata were changed")
	}
}

// A token never travels in the clear, not even to the right service.
func TestNoTokenWithoutTransportSecurity(t *testing.T) {
	t.Parallel()
	listener := bufconn.Listen(1 << 16)
	var mu sync.Mutex
	var seen []metadata.MD
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(stream.Context())
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, md)
		return status.Error(codes.Unimplemented, "no")
	}))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithUnaryInterceptor(txntoken.UnaryClientInterceptor(paymentsName)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	b := newBank(t)
	token, err := b.verifier.Verify(t.Context(), b.issue(t, transfer()))
	if err != nil {
		t.Fatal(err)
	}
	ctx := txntoken.NewContext(t.Context(), token)
	if err := conn.Invoke(ctx, "/"+paymentsName+"/CreatePayment", &emptypb.Empty{}, &emptypb.Empty{}); status.Code(err) == codes.Unimplemented {
		t.Error("the call was sent")
	}
	if err := conn.Invoke(ctx, "/"+riskName+"/AssessPayment", &emptypb.Empty{}, &emptypb.Empty{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a call that carries none: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 1 || len(seen[0].Get("txn-token")) != 0 {
		t.Errorf("the server saw %v", seen)
	}
}
