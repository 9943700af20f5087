// Package keys fetches from login by which keys transaction tokens are verified.
package keys

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
)

// ServiceConfig is for the connection to login (https://github.com/grpc/grpc/blob/master/doc/service_config.md): a question changes nothing, so
// UNAVAILABLE is answered by asking again.
const ServiceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
  "methodConfig": [{
    "name": [{"service": "bank.login.v1.KeyService", "method": "GetTransactionKeys"}],
    "timeout": "3s",
    "retryPolicy": {
      "maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }]
}`

// From returns what fetches the keys over a connection to login, for a jwks.Set.
func From(conn grpc.ClientConnInterface) func(ctx context.Context) ([]byte, error) {
	client := loginv1.NewKeyServiceClient(conn)
	return func(ctx context.Context) ([]byte, error) {
		response, err := client.GetTransactionKeys(ctx, &loginv1.GetTransactionKeysRequest{})
		if err != nil {
			return nil, fmt.Errorf("ask login for its keys: %w", err)
		}
		return response.GetKeys(), nil
	}
}
