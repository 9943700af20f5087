package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/settings"
)

func TestEveryBadFlagIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	err := run(t.Context(), []string{
		"--workload-api=tcp://nowhere", "--policy=/does/not/exist", "--dsn=ledger.db", "--audit=audit",
	}, t.Output())
	if err == nil {
		t.Fatal("run started with bad flags")
	}
	for _, want := range []string{"--workload-api", "--policy", "--dsn", "sqlite:PATH", "--audit", "gRPC target"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

func TestHelpExplainsTheFlags(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := run(t.Context(), []string{"--help"}, &out); !errors.Is(err, settings.ErrHelp) {
		t.Fatalf("run --help = %v", err)
	}
	for _, want := range []string{"Keeps the bank's books", "--dsn", "LEDGER_DSN", "--audit", "--policy", "SPIFFE_ENDPOINT_SOCKET"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the help does not say %q", want)
		}
	}
}
