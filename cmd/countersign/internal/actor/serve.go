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
)

// callTimeout bounds each call of an actor.
const callTimeout = 10 * time.Second

// Serve is the actor's side: it makes the calls that in orders, on one connection, until in ends.
func Serve(ctx context.Context, w *dial.Workload, to dial.Target, in io.Reader, out io.Writer) (err error) {
	conn, err := w.Dial(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	answers := json.NewEncoder(out)
	if err := answers.Encode(hello{SPIFFEID: w.ID().String(), Serial: w.Status().Serial}); err != nil {
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
		a, err := carryOut(ctx, conn, o)
		if err != nil {
			return err
		}
		if err := answers.Encode(a); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// carryOut makes one call. What the server says is an answer; the error is for an order that makes no sense.
func carryOut(ctx context.Context, conn grpc.ClientConnInterface, o order) (answer, error) {
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
	if err := conn.Invoke(ctx, "/"+o.Method, request, response); err != nil {
		data, err := proto.Marshal(status.Convert(err).Proto())
		return answer{Status: data}, err
	}
	data, err := protojson.Marshal(response)
	return answer{Response: data}, err
}

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
