package mesh_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/mesh"
)

// heedful is the service config of a client that sends refused calls again when the server says so. By itself it would wait for ever.
const heedful = `{"methodConfig": [{"name": [{}], "retryPolicy": {
	"maxAttempts": 5, "initialBackoff": "1000s", "maxBackoff": "1000s", "backoffMultiplier": 1, "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]
}}]}`

// onRefusal is a log that does something at the first line about refusals.
type onRefusal struct {
	slog.Handler
	once *sync.Once
	do   func()
}

func (l onRefusal) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "calls are refused" {
		l.once.Do(l.do)
	}
	return nil
}

func (onRefusal) Enabled(context.Context, slog.Level) bool { return true }

// gRPC's client as it comes heeds what a full server says, unary and stream.
func TestAStockClientComesBackWhenTheServerSays(t *testing.T) {
	t.Parallel()
	for name, come := range map[string]func(ctx context.Context, conn *grpc.ClientConn) error{"with a call": say, "with a stream": converse} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var free func()
			log := slog.New(onRefusal{slog.DiscardHandler, new(sync.Once), func() { free() }})
			w := newWorld(t, []string{"/good"}, mesh.WithMaxCalls(1), mesh.WithMaxStreams(1), mesh.WithLogger(log))
			c := w.caller(t, w.ca.SVID(t, "/good"))
			kind := call{method: unaryMethod, unary: waitUnary}
			if name == "with a stream" {
				kind = call{method: bothMethod, serve: idle, use: sayAndReceive}
			}
			free = w.occupy(t, c, "it", kind)
			stock, err := grpc.NewClient(w.addr, grpc.WithDefaultServiceConfig(heedful),
				grpc.WithTransportCredentials(c.conns.Client(spiffeid.RequireFromString("spiffe://bank.test/ledger"))))
			if err != nil {
				t.Fatal(err)
			}
			defer stock.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // less than its own backoff
			defer cancel()
			if err := come(ctx, stock); err != nil {
				t.Errorf("it does not come back in time: %v", err)
			}
		})
	}
}
