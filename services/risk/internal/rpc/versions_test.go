package rpc_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
	"github.com/countersign-mesh/countersign/services/risk/internal/risk"
	"github.com/countersign-mesh/countersign/services/risk/internal/rpc"
	"github.com/countersign-mesh/countersign/services/risk/internal/store"
	"github.com/countersign-mesh/countersign/services/risk/internal/store/migrations"
)

// inForce is rules that a test replaces.
type inForce struct {
	mu    sync.Mutex
	rules risk.Rules
	taken int
}

func (f *inForce) Rules() risk.Rules {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken++
	return f.rules
}

func (f *inForce) set(version string, holdAbove int64, code risk.Code) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = risk.Rules{Version: version, Ceilings: map[string]risk.Ceiling{"EUR": {Code: code, HoldAbove: holdAbove, RefuseAbove: 1000}}}
}

// Rules that change between two payments concern the second one alone, and what is logged says which rules spoke: of a payment that is asked about
// again, those of the first time.
func TestEachAssessmentIsUnderOneVersionOfTheRules(t *testing.T) {
	t.Parallel()
	db, err := database.Open(t.Context(), databasetest.SQLite(t), migrations.FS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var log bytes.Buffer
	held := &inForce{}
	s := rpc.New(held, store.New(db), slog.New(slog.NewTextHandler(&log, nil)))
	ask := func(n int, want riskv1.Verdict, line string) *riskv1.AssessPaymentResponse {
		t.Helper()
		log.Reset()
		got, err := s.AssessPayment(t.Context(), request(n, 300))
		if err != nil || got.GetVerdict() != want {
			t.Errorf("payment %d: %v, %v; want %s", n, got, err, want)
		}
		if line == "" && log.Len() > 0 || !strings.Contains(log.String(), line) {
			t.Errorf("payment %d is logged as %q, want %q", n, log.String(), line)
		}
		return got
	}
	held.set("v1", 200, "BIG_ONE")
	first := ask(1, riskv1.Verdict_VERDICT_HOLD, "code=BIG_ONE rules_version=v1")
	held.set("v2", 300, "")
	ask(2, riskv1.Verdict_VERDICT_ALLOW, "")
	held.set("v3", 299, "")
	ask(3, riskv1.Verdict_VERDICT_HOLD, "code=AMOUNT_CEILING rules_version=v3")
	again := ask(1, riskv1.Verdict_VERDICT_HOLD, "code=BIG_ONE rules_version=v1")
	if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" {
		t.Errorf("payment 1 (-first +again):\n%s", diff)
	}
	if held.taken != 4 {
		t.Errorf("four questions took the rules %d times", held.taken)
	}
}

// ATTACKS 64.
func TestWithoutItsDatabaseRiskIsUnavailableUntilItIsBack(t *testing.T) {
	t.Parallel()
	server := databasetest.StartServer(t)
	dsn, err := server.Create(t.Context(), "risk")
	if err != nil {
		t.Fatal(err)
	}
	payments := newServiceOn(t, dsn).as(t, "/payments")
	first, err := payments.AssessPayment(t.Context(), request(1, 500_001))
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 2} {
		got, err := payments.AssessPayment(t.Context(), request(n, 500_001))
		if status.Code(err) != codes.Unavailable || got.GetVerdict() != riskv1.Verdict_VERDICT_UNSPECIFIED {
			t.Errorf("payment %d: %v, %v; want UNAVAILABLE and no verdict", n, got, err)
		}
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := payments.AssessPayment(t.Context(), request(1, 500_001))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" {
		t.Errorf("payment 1 (-first +again):\n%s", diff)
	}
}
