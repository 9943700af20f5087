package mesh_test

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

// Retries do not multiply an overload: where a service config says nothing of it, they are bounded by what goes well.
func TestRetriesAreThrottledByDefault(t *testing.T) {
	t.Parallel()
	const calls = 200
	policyOf := func(more string) string {
		return `{"methodConfig": [{"name": [{}], "retryPolicy": {
			"maxAttempts": 5, "initialBackoff": "0.0001s", "maxBackoff": "0.0001s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]
		}}]` + more + `}`
	}
	for name, test := range map[string]struct {
		config      string
		least, most int32
	}{
		"a config that says nothing of it": {policyOf(""), calls + 30, calls + 60},
		"a config of its own":              {policyOf(`, "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}`), calls + 1, calls + 6},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, "bank.test", policy)
			var attempts atomic.Int32
			service := &risk{assess: func(context.Context) error {
				attempts.Add(1)
				return status.Error(codes.Unavailable, "away")
			}}
			addr := m.Serve(t, "/risk", service.register, mesh.WithLogger(slog.New(slog.DiscardHandler)))
			client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", addr, mesh.WithServiceConfig(test.config)))
			for range calls {
				if _, err := client.AssessPayment(t.Context(), request()); status.Code(err) != codes.Unavailable {
					t.Fatalf("a call: %v", err)
				}
			}
			if n := attempts.Load(); n < test.least || n > test.most {
				t.Errorf("%d attempts at %d calls, want from %d to %d", n, calls, test.least, test.most)
			}
		})
	}
}

func TestAServiceConfigThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"/good"})
	c := w.caller(t, w.ca.SVID(t, "/good"))
	for _, config := range []string{"nonsense", "[]", `{"methodConfig": 1}`} {
		_, err := mesh.DialUnlisted(c.conns, w.addr, w.server.svid.ID, mesh.WithServiceConfig(config))
		if err == nil || !strings.Contains(err.Error(), "service config") {
			t.Errorf("%s: %v", config, err)
		}
	}
}
