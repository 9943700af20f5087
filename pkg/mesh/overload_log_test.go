package mesh_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

// levels is a log that counts the lines of each message above debug.
type levels struct {
	slog.Handler
	mu    *sync.Mutex
	lines map[string]int
}

func (levels) Enabled(context.Context, slog.Level) bool { return true }

func (l levels) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Level > slog.LevelDebug {
		l.lines[r.Message]++
	}
	return nil
}

// The log of an overloaded server does not grow with what it refuses; what its handlers refuse is logged as ever.
func TestRefusedCallsDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	log := levels{slog.DiscardHandler, new(sync.Mutex), make(map[string]int)}
	service := &risk{assess: func(context.Context) error { return status.Error(codes.ResourceExhausted, "no paper") }}
	addr := m.Serve(t, "/risk", service.register, mesh.WithRateLimit(0, 3), mesh.WithLogger(slog.New(log)))
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", addr))
	for range 10 {
		if _, err := client.AssessPayment(t.Context(), request()); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a call: %v", err)
		}
	}
	eventually(t, "the calls that handlers ended are logged", func() bool {
		log.mu.Lock()
		defer log.mu.Unlock()
		return log.lines["finished call"] >= 3
	})
	log.mu.Lock()
	defer log.mu.Unlock()
	if log.lines["finished call"] != 3 || log.lines["calls are refused"] != 1 {
		t.Errorf("seven calls were refused, and three failed in their handler, and these lines were logged: %v", log.lines)
	}
}
