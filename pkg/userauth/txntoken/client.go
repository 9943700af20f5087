package txntoken

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// UnaryClientInterceptor sends the token of a call's context (see FromContext and NewContext) to the services with the given full names, such as
// "bank.payments.v1.PaymentService", and to no other. A connection without transport security gets none: the call fails.
func UnaryClientInterceptor(services ...string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx, opts = attach(ctx, services, method, opts)
		return invoker(ctx, method, req, reply, cc, opts...)
	}
}

// StreamClientInterceptor is UnaryClientInterceptor for streams.
func StreamClientInterceptor(services ...string) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		ctx, opts = attach(ctx, services, method, opts)
		return streamer(ctx, desc, cc, method, opts...)
	}
}

// attach adds the token of the context to a call of one of the services. What else is in the outgoing metadata under its key is left out: nobody forwards
// a token past these interceptors.
func attach(ctx context.Context, services []string, fullMethod string, opts []grpc.CallOption) (context.Context, []grpc.CallOption) {
	if sent, ok := metadata.FromOutgoingContext(ctx); ok && len(sent.Get(MetadataKey)) > 0 {
		sent.Delete(MetadataKey) // it is a copy
		ctx = metadata.NewOutgoingContext(ctx, sent)
	}
	service, _, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	t, ok := FromContext(ctx)
	if !ok || t.Raw() == "" || !slices.Contains(services, service) {
		return ctx, opts
	}
	return ctx, append(slices.Clip(opts), grpc.PerRPCCredentials(callCredentials(t.Raw())))
}

// callCredentials send a token with one call.
type callCredentials string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (c callCredentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{MetadataKey: string(c)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (c callCredentials) RequireTransportSecurity() bool { return true }
