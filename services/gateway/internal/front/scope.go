package front

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

// scopeOf returns the scope that a method needs. A method without one is served to nobody.
func scopeOf(fullMethod string) (string, bool) {
	switch fullMethod {
	case mobilev1.MobileBankService_ListAccounts_FullMethodName,
		mobilev1.MobileBankService_GetStatement_FullMethodName,
		mobilev1.MobileBankService_WatchActivity_FullMethodName:
		return "accounts.read", true
	case mobilev1.MobileBankService_OpenAccount_FullMethodName:
		return "accounts.open", true
	case mobilev1.MobileBankService_CloseAccount_FullMethodName:
		return "accounts.close", true
	case mobilev1.MobileBankService_Transfer_FullMethodName:
		return "transfer", true
	default:
		return "", false
	}
}

// allowed fails unless the customer's token has the scope of the method.
func allowed(ctx context.Context, fullMethod string) error {
	scope, ok := scopeOf(fullMethod)
	if !ok {
		return status.Error(codes.Unimplemented, "this server does not have the method")
	}
	return userauth.RequireScope(ctx, scope)
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
