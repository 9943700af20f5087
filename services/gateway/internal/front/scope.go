package front

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/services/gateway/internal/scope"
)

// allowed fails unless the customer's token has the scope of the method.
func allowed(ctx context.Context, fullMethod string) error {
	needed, ok := scope.Of(fullMethod)
	if !ok {
		return status.Error(codes.Unimplemented, "this server does not have the method")
	}
	return userauth.RequireScope(ctx, needed)
}

func scopeUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := allowed(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func scopeStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := allowed(ss.Context(), info.FullMethod); err != nil {
		return err
	}
	return handler(srv, ss)
}
