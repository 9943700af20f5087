package bank

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1" // registers its descriptors, as do those below
	_ "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	_ "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	_ "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	_ "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	_ "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
	_ "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
	_ "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// Method is one method of a gRPC service.
type Method struct {
	// Full is "/package.Service/Method".
	Full, Service              string
	ClientStream, ServerStream bool
	// Input is what its requests are.
	Input protoreflect.MessageDescriptor
}

// Methods returns every method of every service whose descriptor is linked in, ordered by name: the bank's, the mesh's, and
// gRPC's own health and reflection.
func Methods() []Method {
	var methods []Method
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				methods = append(methods, Method{
					Full:         "/" + string(service.FullName()) + "/" + string(m.Name()),
					Service:      string(service.FullName()),
					ClientStream: m.IsStreamingClient(),
					ServerStream: m.IsStreamingServer(),
					Input:        m.Input(),
				})
			}
		}
		return true
	})
	slices.SortFunc(methods, func(a, b Method) int { return strings.Compare(a.Full, b.Full) })
	return methods
}

// patience is how long a call may take before it counts as let in and waiting: a denial comes at once.
const patience = 3 * time.Second

// Call calls a method with one empty request and returns the first error, if any. An empty request is refused by validation
// nearly everywhere, and has no effect anywhere.
func Call(ctx context.Context, conn grpc.ClientConnInterface, m Method) error {
	return CallWith(ctx, conn, m, nil)
}

// CallWith calls a method with one request that is encoded as it is given.
func CallWith(ctx context.Context, conn grpc.ClientConnInterface, m Method, request []byte, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	opts = append(opts, grpc.ForceCodec(verbatim{}))
	var response []byte
	if !m.ClientStream && !m.ServerStream {
		return conn.Invoke(ctx, m.Full, request, &response, opts...)
	}
	desc := &grpc.StreamDesc{StreamName: m.Full, ClientStreams: m.ClientStream, ServerStreams: m.ServerStream}
	stream, err := conn.NewStream(ctx, desc, m.Full, opts...)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	// After io.EOF on sending, receiving tells the reason (grpc.ClientStream).
	if err := stream.RecvMsg(&response); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// verbatim is a codec that says it is protobuf's and leaves messages as they are.
type verbatim struct{}

func (verbatim) Name() string { return "proto" }

func (verbatim) Marshal(v any) ([]byte, error) {
	message, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("%T is not bytes", v)
	}
	return message, nil
}

func (verbatim) Unmarshal(data []byte, v any) error {
	message, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is not for bytes", v)
	}
	*message = data
	return nil
}

// LetIn reports whether the outcome of a Call shows that the caller got past the policy.
func LetIn(err error) bool {
	switch status.Code(err) {
	case codes.OK, codes.InvalidArgument, codes.NotFound, codes.DeadlineExceeded:
		return true
	default:
		return false
	}
}

// DecisionID returns the ID that a denied caller was told, and what is wrong with the denial otherwise.
func DecisionID(err error) (id, wrong string) { return decisionID(codes.PermissionDenied, err) }

// DecisionIDOf is DecisionID for a call of any method: a watch of health that is denied is UNIMPLEMENTED, which alone has clients go on without.
func DecisionIDOf(method Method, err error) (id, wrong string) {
	if method.Full == healthpb.Health_Watch_FullMethodName {
		return decisionID(codes.Unimplemented, err)
	}
	return DecisionID(err)
}

func decisionID(want codes.Code, err error) (id, wrong string) {
	st := status.Convert(err)
	if st.Code() != want {
		return "", "want " + want.String() + ", got " + st.Code().String() + ": " + st.Message()
	}
	if st.Message() != "permission denied" {
		return "", "the denial tells the caller more than it should: " + st.Message()
	}
	for _, detail := range st.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if !ok {
			continue
		}
		id = info.GetMetadata()["decision_id"]
		if info.GetReason() != "DENIED" || info.GetDomain() != "countersign" || len(info.GetMetadata()) != 1 ||
			len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
			return "", "the denial's ErrorInfo is not as promised: " + info.String()
		}
		return id, ""
	}
	return "", "the denial has no decision ID"
}

// ServedBy asks a server by reflection which services it serves.
func ServedBy(t testing.TB, conn grpc.ClientConnInterface) []string {
	t.Helper()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	request := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{ListServices: "*"}}
	if err := stream.Send(request); err != nil {
		t.Fatal(err)
	}
	response, err := stream.Recv()
	if err != nil {
		t.Fatalf("reflection: %v", err)
	}
	var names []string
	for _, service := range response.GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// Healthy returns an error unless the server at the other end says that it serves.
func Healthy(ctx context.Context, conn grpc.ClientConnInterface) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	response, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	if response.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return errors.New("health: " + response.GetStatus().String())
	}
	return nil
}

// Connected waits until a connection is made, so that the next call on it does not wait for a handshake.
func Connected(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn.Connect()
	for s := conn.GetState(); s != connectivity.Ready; s = conn.GetState() {
		if !conn.WaitForStateChange(ctx, s) {
			return fmt.Errorf("connect to %s: %w; it is %v", conn.Target(), ctx.Err(), s)
		}
	}
	return nil
}
