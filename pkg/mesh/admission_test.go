package mesh_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// raw sends bytes as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) {
	message, ok := v.(*[]byte)
	if !ok {
		return nil, errors.New("not bytes")
	}
	return *message, nil
}
func (raw) Unmarshal([]byte, any) error { return nil }
func (raw) Name() string                { return "proto" }

// ATTACKS 43, 46: nothing that a denied peer sends, and nothing that it leaves out, tells it whether the method exists. Without
// a decision at the headers gRPC would answer these with the errors of reading and decoding, and no record of it.
func TestADeniedCallLooksTheSameWhateverItSends(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	service, recorded, metrics := &risk{}, &records{}, prometheus.NewRegistry()
	addr := m.Serve(t, "/risk", service.register, mesh.WithRecorder(recorded), mesh.WithMetrics(metrics))
	conn := m.Dial(t, "/gateway", "/risk", addr)
	denials := 0
	for name, send := range map[string]func(ctx context.Context, method string) error{
		"garbage": func(ctx context.Context, method string) error {
			return conn.Invoke(ctx, method, &[]byte{0xff, 0xff, 0xff}, &[]byte{}, grpc.ForceCodec(raw{}))
		},
		"a message that is too large": func(ctx context.Context, method string) error {
			large := make([]byte, 5<<20)
			return conn.Invoke(ctx, method, &large, &[]byte{}, grpc.ForceCodec(raw{}))
		},
		"no message": func(ctx context.Context, method string) error {
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
			if err != nil {
				return err
			}
			if err := stream.CloseSend(); err != nil {
				return err
			}
			return stream.RecvMsg(&[]byte{})
		},
		"headers and then nothing": func(ctx context.Context, method string) error {
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
			if err != nil {
				return err
			}
			return stream.RecvMsg(&[]byte{})
		},
	} {
		for _, method := range []string{"/bank.risk.v1.RiskService/AssessPayment", "/bank.risk.v1.RiskService/Nothing"} {
			err := send(t.Context(), method)
			st, ok := status.FromError(err)
			if !ok || st.Code() != codes.PermissionDenied || st.Message() != "permission denied" || len(st.Details()) != 1 {
				t.Errorf("%s to %s: %v %v", name, method, err, st.Details())
			}
			denials++
			if got := recorded.last(t); got.Allowed || got.Method != method || got.PeerID != "spiffe://bank.test/gateway" {
				t.Errorf("%s to %s: recorded %+v", name, method, got)
			}
		}
	}
	if n := len(recorded.list); n != denials {
		t.Errorf("%d decisions were recorded for %d denied calls", n, denials)
	}
	if n := service.called.Load(); n != 0 {
		t.Errorf("the handler was called %d times", n)
	}
	if got := counted(t, metrics, "countersign_decisions_total", "denied"); got != float64(denials) {
		t.Errorf("%v denials were counted, want %d", got, denials)
	}
}

// counted returns a counter with one label.
func counted(t *testing.T, metrics *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == name && metric.GetLabel()[0].GetValue() == label {
				return metric.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func TestADenialIsFoundByTheCallersTrace(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	recorded := &records{}
	addr := m.Serve(t, "/risk", (&risk{}).register, mesh.WithRecorder(recorded))
	conn := m.Dial(t, "/gateway", "/risk", addr)
	if err := conn.Invoke(t.Context(), "/bank.risk.v1.RiskService/AssessPayment", request(), request()); status.Code(err) != codes.PermissionDenied {
		t.Fatal(err)
	}
	if recorded.last(t).TraceID == [16]byte{} {
		t.Error("the denial has no trace ID, though the client sent one")
	}
}

// A call that is let in is recorded once, though it is decided at its headers and again where it is served.
func TestAnAllowedCallIsRecordedOnce(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	recorded := &records{}
	var calls atomic.Int32
	addr := m.Serve(t, "/risk", (&risk{assess: func(context.Context) error { calls.Add(1); return nil }}).register, mesh.WithRecorder(recorded))
	conn := m.Dial(t, "/payments", "/risk", addr)
	for range 3 {
		if err := conn.Invoke(t.Context(), "/bank.risk.v1.RiskService/AssessPayment", request(), request()); err != nil {
			t.Fatal(err)
		}
	}
	recorded.mu.Lock()
	defer recorded.mu.Unlock()
	if len(recorded.list) != 3 || calls.Load() != 3 {
		t.Errorf("%d decisions for %d calls", len(recorded.list), calls.Load())
	}
}
