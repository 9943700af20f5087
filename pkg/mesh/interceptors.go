package mesh

import (
	"context"
	"slices"

	"google.golang.org/grpc"
)

// Interceptors are one interceptor for each kind of call.
type Interceptors struct {
	Unary  grpc.UnaryServerInterceptor
	Stream grpc.StreamServerInterceptor
}

// ChainInterceptors makes one of several: a call comes to the first one first.
func ChainInterceptors(all ...Interceptors) Interceptors {
	unary, stream := make([]grpc.UnaryServerInterceptor, len(all)), make([]grpc.StreamServerInterceptor, len(all))
	for i, each := range all {
		unary[i], stream[i] = each.Unary, each.Stream
	}
	return Interceptors{Unary: chainUnary(unary), Stream: chainStream(stream)}
}

func chainUnary(all []grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		for _, interceptor := range slices.Backward(all) {
			next := handler
			handler = func(ctx context.Context, req any) (any, error) { return interceptor(ctx, req, info, next) }
		}
		return handler(ctx, req)
	}
}

func chainStream(all []grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		for _, interceptor := range slices.Backward(all) {
			next := handler
			handler = func(srv any, ss grpc.ServerStream) error { return interceptor(srv, ss, info, next) }
		}
		return handler(srv, ss)
	}
}
