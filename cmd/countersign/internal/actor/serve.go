package actor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
)

// callTimeout bounds each call of an actor.
const callTimeout = 10 * time.Second

// Serve is the actor's side: it makes the calls that in orders, on one connection to each server, until in ends. Who ordered is told of the error, too.
func Serve(ctx context.Context, w *dial.Workload, to []dial.Target, in io.Reader, out io.Writer) (err error) {
	conns := make(map[string]*grpc.ClientConn)
	defer func() {
		for _, conn := range conns {
			err = errors.Join(err, conn.Close())
		}
	}()
	h := hello{SPIFFEID: w.ID().String()}
	for _, target := range to {
		conn, err := w.Dial(target)
		if err != nil {
			return err
		}
		conns[target.ID.String()] = conn
		h.Servers = append(h.Servers, target.ID.String())
	}
	answers := json.NewEncoder(out)
	if err := answers.Encode(h); err != nil {
		return fmt.Errorf("say hello: %w", err)
	}
	orders := json.NewDecoder(in)
	for {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read an order: %w", err)
		}
		a, err := carryOut(ctx, conns, o)
		if err != nil {
			return errors.Join(err, answers.Encode(answer{Failure: err.Error()}))
		}
		if err := answers.Encode(a); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// carryOut makes one call. What the server says is an answer; the error is for an order that makes no sense.
func carryOut(ctx context.Context, conns map[string]*grpc.ClientConn, o order) (answer, error) {
	conn, ok := conns[o.Server]
	if !ok {
		return answer{}, fmt.Errorf("it does not call %q", o.Server)
	}
	method, err := contract(o.Method)
	if err != nil {
		return answer{}, err
	}
	request, response := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	if err := protojson.Unmarshal(o.Request, request); err != nil {
		return answer{}, fmt.Errorf("read the request of %s: %w", o.Method, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": o.TraceParent})
	var opts []grpc.CallOption
	if o.TransactionToken != "" {
		opts = append(opts, grpc.PerRPCCredentials(shown(o.TransactionToken)))
	}
	if err := conn.Invoke(ctx, "/"+o.Method, request, response, opts...); err != nil {
		data, err := proto.Marshal(status.Convert(err).Proto())
		return answer{Status: data}, err
	}
	data, err := protojson.Marshal(response)
	return answer{Response: data}, err
}

// shown is a transaction token that a thief sends: past the interceptors of this process, which would send none but that of a call it serves.
type shown string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (s shown) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{txntoken.MetadataKey: string(s)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (shown) RequireTransportSecurity() bool { return true }

func contract(name string) (protoreflect.MethodDescriptor, error) {
	service, method, _ := strings.Cut(name, "/")
	for _, file := range contracts.Linked() {
		for i := range file.Services().Len() {
			s := file.Services().Get(i)
			if m := s.Methods().ByName(protoreflect.Name(method)); string(s.FullName()) == service && m != nil {
				return m, nil
			}
		}
	}
	return nil, fmt.Errorf("there is no contract of %q in this program", name)
}
