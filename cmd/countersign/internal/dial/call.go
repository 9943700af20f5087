package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/fullstorydev/grpcurl"
	"github.com/jhump/protoreflect/desc" //nolint:staticcheck // grpcurl's interfaces are written in it
	"github.com/jhump/protoreflect/grpcreflect"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
)

// Call calls a method with requests from in, JSON, one after another for a client stream, and writes each response to out as it
// arrives. A server's refusal is a StatusError.
func Call(ctx context.Context, conn grpc.ClientConnInterface, method string, in io.Reader, out io.Writer) error {
	name, err := contracts.Bank().Find(method)
	if err != nil {
		return err
	}
	source, done, err := sourceFor(ctx, conn, name)
	if err != nil {
		return err
	}
	defer done()
	parser, formatter, err := grpcurl.RequestParserAndFormatter(grpcurl.FormatJSON, source, in,
		grpcurl.FormatOptions{EmitJSONDefaultFields: true})
	if err != nil {
		return fmt.Errorf("prepare the call: %w", err)
	}
	handler := &eventHandler{DefaultEventHandler: grpcurl.DefaultEventHandler{Out: out, Formatter: formatter}}
	telling := &tellingConn{ClientConnInterface: conn}
	err = grpcurl.InvokeRPC(ctx, source, telling, name, nil, handler, parser.Next)
	if err == nil {
		err = telling.failure
	}
	if err != nil {
		if s, ok := status.FromError(err); ok {
			return &StatusError{Status: s, Stream: handler.stream}
		}
		return fmt.Errorf("call %s: %w", name, err)
	}
	if handler.Status.Code() != codes.OK {
		return &StatusError{Status: handler.Status, Stream: handler.stream}
	}
	return nil
}

// eventHandler also notes whether the method answers with a stream.
type eventHandler struct {
	grpcurl.DefaultEventHandler
	stream bool
}

// OnResolveMethod implements grpcurl.InvocationEventHandler.
func (h *eventHandler) OnResolveMethod(method *desc.MethodDescriptor) {
	h.stream = method.IsServerStreaming()
	h.DefaultEventHandler.OnResolveMethod(method)
}

// sourceFor finds the contract of a method: in this binary, else by asking the server.
func sourceFor(ctx context.Context, conn grpc.ClientConnInterface, name string) (grpcurl.DescriptorSource, func(), error) {
	source, err := linkedSource()
	if err != nil {
		return nil, nil, err
	}
	service, _, _ := strings.Cut(name, "/")
	if _, err := source.FindSymbol(service); err == nil {
		return source, func() {}, nil
	}
	client := grpcreflect.NewClientAuto(ctx, conn)
	return grpcurl.DescriptorSourceFromServer(ctx, client), client.Reset, nil
}

// StatusError is a gRPC status as an error that tells a person all that the server said.
type StatusError struct {
	Status *status.Status
	// Stream says that the method called by Call answers with a stream.
	Stream bool
}

// Error implements error.
func (e *StatusError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", CodeName(e.Status.Code()), e.Status.Message())
	for _, detail := range e.Status.Details() {
		switch detail := detail.(type) {
		case proto.Message:
			fmt.Fprintf(&b, "\n  %s %s", detail.ProtoReflect().Descriptor().Name(), protojson.MarshalOptions{UseProtoNames: true}.Format(detail))
		case error:
			fmt.Fprintf(&b, "\n  a detail that cannot be read: %v", detail)
		}
	}
	if id, ok := DecisionID(e.Status); ok {
		fmt.Fprintf(&b, "\n  The reason is for operators only; see it with: countersign audit show %s", id)
	}
	return b.String()
}

// GRPCStatus lets status.FromError find the status.
func (e *StatusError) GRPCStatus() *status.Status { return e.Status }

// DecisionID returns the ID of the decision that denied a call.
func DecisionID(s *status.Status) (string, bool) {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "countersign" {
			id, ok := info.GetMetadata()["decision_id"]
			return id, ok
		}
	}
	return "", false
}

// CodeName returns a code as the gRPC specification writes it: "PERMISSION_DENIED".
func CodeName(c codes.Code) string {
	if name, ok := code.Code_name[int32(c)]; ok { //nolint:gosec // there are 17
		return name
	}
	return c.String()
}

// Explain turns the status of a failed call into an error that tells all; other errors stay as they are.
func Explain(err error) error {
	if err == nil || errors.As(err, new(*StatusError)) {
		return err
	}
	if s, ok := status.FromError(err); ok {
		return &StatusError{Status: s}
	}
	return err
}
